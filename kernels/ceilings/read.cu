#include "ceilings/ceilings.h"
#include "ceilings/full_wave.cuh"
#include "common/warp.cuh"

namespace sm80moe::ceilings {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kLoadsInFlight = 2;  // of a thread; with a full SM of threads that is 64 KB
constexpr int kLoadsPerStep = kThreads * kLoadsInFlight;
static_assert(kReadGranularity == kLoadsPerStep * sizeof(uint4));

__global__ void __launch_bounds__(kThreads)
    read_kernel(const uint4* __restrict__ src, int64_t num_loads, uint32_t* checksums) {
  uint32_t checksum = 0;
  const int64_t stride = int64_t{gridDim.x} * kLoadsPerStep;
  for (int64_t step = int64_t{blockIdx.x} * kLoadsPerStep; step < num_loads; step += stride) {
    uint4 words[kLoadsInFlight];
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) words[i] = src[step + i * kThreads + threadIdx.x];
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i)
      checksum ^= words[i].x ^ words[i].y ^ words[i].z ^ words[i].w;
  }
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    checksum ^= __shfl_xor_sync(kFullWarp, checksum, distance);
  if (lane_index() == 0) checksums[blockIdx.x * kWarps + warp_index()] = checksum;
}

bool is_valid(const ReadCeiling* args) {
  return args && args->src && args->checksums && args->num_checksums >= kWarps &&
         args->num_bytes > 0 && args->num_bytes % kReadGranularity == 0 &&
         reinterpret_cast<uintptr_t>(args->src) % sizeof(uint4) == 0 &&
         reinterpret_cast<uintptr_t>(args->checksums) % sizeof(uint32_t) == 0;
}

}  // namespace
}  // namespace sm80moe::ceilings

int sm80moe_read_ceiling(const ReadCeiling* args, cudaStream_t stream) {
  using namespace sm80moe;
  using namespace sm80moe::ceilings;
  if (!is_valid(args)) return cudaErrorInvalidValue;
  int num_ctas = 0;
  const cudaError_t status = full_wave(read_kernel, kThreads, &num_ctas);
  if (status != cudaSuccess) return status;
  const int64_t num_loads = args->num_bytes / int64_t{sizeof(uint4)};
  const int64_t most = min_of(num_loads / kLoadsPerStep, args->num_checksums / kWarps);
  const int grid = static_cast<int>(min_of(int64_t{num_ctas}, most));
  read_kernel<<<grid, kThreads, 0, stream>>>(static_cast<const uint4*>(args->src), num_loads,
                                             args->checksums);
  return cudaGetLastError();
}
