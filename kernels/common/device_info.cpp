#include "common/device_info.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <unordered_map>

namespace sm80moe {
namespace {

std::atomic<int> shared_memory_limit{0};

// Flops a clock of one SM by mma.sync with 16-bit operands and fp32 accumulation.
double mma_flops_per_clock(int capability) {
  if (capability >= 90) return 2450;  // Measured: H100, 2026-11-22
  if (capability > 80) return 1024;   // GA10x and Ada, by NVIDIA's architecture papers
  return 2048;                        // GA100, likewise
}

// Of the bus's peak rate, what reading reaches. Measured: H100, 2026-11-22.
constexpr double kDramEfficiency = 0.92;

cudaError_t query(int device, DeviceInfo* info) {
  int major = 0, minor = 0, clock_khz = 0, memory_clock_khz = 0, bus_bits = 0;
  const struct {
    int* value;
    cudaDeviceAttr attribute;
  } queries[] = {
      {&info->num_sms, cudaDevAttrMultiProcessorCount},
      {&major, cudaDevAttrComputeCapabilityMajor},
      {&minor, cudaDevAttrComputeCapabilityMinor},
      {&info->smem_per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor},
      {&info->smem_per_cta, cudaDevAttrMaxSharedMemoryPerBlockOptin},
      {&info->smem_reserved_per_cta, cudaDevAttrReservedSharedMemoryPerBlock},
      {&clock_khz, cudaDevAttrClockRate},
      {&memory_clock_khz, cudaDevAttrMemoryClockRate},
      {&bus_bits, cudaDevAttrGlobalMemoryBusWidth},
  };
  for (const auto& q : queries) {
    const cudaError_t status = cudaDeviceGetAttribute(q.value, q.attribute, device);
    if (status != cudaSuccess) return status;
  }
  info->capability = 10 * major + minor;
  constexpr double kTransfersPerClock = 2, kKhzPerMhz = 1e3;
  info->dram_bytes_per_us =
      kDramEfficiency * kTransfersPerClock * (memory_clock_khz / kKhzPerMhz) * (bus_bits / 8);
  info->mma_flops_per_us = mma_flops_per_clock(info->capability) * (clock_khz / kKhzPerMhz);
  return cudaSuccess;
}

}  // namespace

cudaError_t get_device_info(int device, DeviceInfo* info) {
  static std::mutex mutex;
  static std::unordered_map<int, DeviceInfo> known;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = known.find(device);
    if (found == known.end()) {
      DeviceInfo fresh;
      const cudaError_t status = query(device, &fresh);
      if (status != cudaSuccess) return status;
      known.emplace(device, fresh);
      *info = fresh;
    } else {
      *info = found->second;
    }
  }
  const int limit = shared_memory_limit.load(std::memory_order_relaxed);
  if (limit > 0) {
    info->smem_per_cta = std::min(info->smem_per_cta, limit);
    info->smem_per_sm = std::min(info->smem_per_sm, limit + info->smem_reserved_per_cta);
  }
  return cudaSuccess;
}

void set_shared_memory_limit(int bytes) { shared_memory_limit.store(bytes); }

}  // namespace sm80moe
