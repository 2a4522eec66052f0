#include "runtime/launch.h"

#include <cstdio>
#include <map>
#include <vector>

#include "runtime/machine.h"
#include "runtime/memory.h"

extern dim3 gridDim;

namespace simt {
namespace {

constexpr int kSmemWithoutOptIn = 48 * 1024;
constexpr unsigned kMaxGridYZ = 65535;

cudaError_t last_error = cudaSuccess;
std::map<const void*, int> smem_limits;
std::map<const void*, CallByAddress> known_kernels;

cudaError_t check(const void* kernel, const Configuration& c) {
  const dim3& b = c.block;
  const bool block_legal = b.x && b.y && b.z && b.x * b.y * b.z <= kMaxThreads;
  const bool grid_legal =
      c.grid.x && c.grid.y && c.grid.z && c.grid.y <= kMaxGridYZ && c.grid.z <= kMaxGridYZ;
  if (!block_legal || !grid_legal) return cudaErrorInvalidConfiguration;
  const auto found = smem_limits.find(kernel);
  const int limit = found == smem_limits.end() ? kSmemWithoutOptIn : found->second;
  return c.smem_bytes <= static_cast<size_t>(limit) ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

cudaError_t set_dynamic_smem_limit(const void* kernel, int bytes) {
  if (bytes > settings().smem_per_block_optin) return cudaErrorInvalidValue;
  smem_limits[kernel] = bytes;
  return cudaSuccess;
}

void know_kernel(const void* kernel, CallByAddress call) { known_kernels[kernel] = call; }

cudaError_t resident_blocks(int* blocks, int, std::size_t) {
  *blocks = settings().blocks_per_sm;
  return cudaSuccess;
}

namespace {

// The numbers of the blocks, in the order in which they run.
std::vector<uint32_t> begin_grid(const void* kernel, dim3 grid) {
  std::printf("kernel %p\n", kernel);
  forget_accesses();
  gridDim = grid;
  std::vector<uint32_t> order;
  for (uint32_t i = 0; i < grid.x * grid.y * grid.z; ++i) order.push_back(i);
  schedule_random().shuffle(order);
  return order;
}

}  // namespace

void launch_grid(const void* kernel, const Configuration& configuration, const Body& body) {
  last_error = check(kernel, configuration);
  if (last_error != cudaSuccess) return;
  const dim3 grid = configuration.grid;
  for (const uint32_t i : begin_grid(kernel, grid))
    run_block(i, {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y}, configuration.block,
              static_cast<int>(configuration.smem_bytes), body);
}

cudaError_t launch_cooperative_grid(const void* kernel, const Configuration& configuration,
                                    const Body& body) {
  last_error = check(kernel, configuration);
  const dim3 grid = configuration.grid;
  const unsigned resident = settings().num_sms * settings().blocks_per_sm;
  if (last_error == cudaSuccess && (grid.x > resident || grid.y > 1 || grid.z > 1))
    last_error = cudaErrorCooperativeLaunchTooLarge;
  if (last_error == cudaSuccess)
    run_cooperative_blocks(begin_grid(kernel, grid), configuration.block,
                           static_cast<int>(configuration.smem_bytes), body);
  return last_error;
}

}  // namespace simt

cudaError_t cudaLaunchCooperativeKernel(const void* kernel, dim3 grid, dim3 block, void** args,
                                        size_t smem_bytes, cudaStream_t) {
  struct Call {
    simt::CallByAddress call;
    const void* kernel;
    void** args;
  };
  const Call call{simt::known_kernels.at(kernel), kernel, args};
  const auto run = [](const void* data) {
    const auto* call = static_cast<const Call*>(data);
    call->call(call->kernel, call->args);
  };
  return simt::launch_cooperative_grid(kernel, {grid, block, smem_bytes}, {run, &call});
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = simt::last_error;
  simt::last_error = cudaSuccess;
  return error;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const simt::Settings& settings = simt::settings();
  const std::map<cudaDeviceAttr, int> values = {
      {cudaDevAttrClockRate, 1'410'000},
      {cudaDevAttrMemoryClockRate, 1'215'000},
      {cudaDevAttrGlobalMemoryBusWidth, 5120},
      {cudaDevAttrMultiProcessorCount, settings.num_sms},
      {cudaDevAttrComputeCapabilityMajor, 8},
      {cudaDevAttrComputeCapabilityMinor, 0},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, settings.smem_per_sm},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, settings.smem_per_block_optin},
      {cudaDevAttrReservedSharedMemoryPerBlock, settings.smem_reserved_per_block},
  };
  *value = values.at(attribute);
  return cudaSuccess;
}
