#include "common/device_info.h"
#include "routing/sort_by_expert.cuh"

namespace sm80moe::routing {
namespace {

constexpr int kSmemBytes = 48 * 1024;  // needs no opt-in; with many experts fewer warps share it

// Up to here one CTA sorts everything, which saves two launches.
constexpr int kMaxPairsInOneCta = 4096;
constexpr int kPairsPerWarp = 64;
constexpr int kMinWarps = 4, kMaxWarps = 32;

// Beyond, each CTA takes at least so many; the scan over CTAs is serial, so their number is
// bounded.
constexpr int kWarpsPerCta = 8;
constexpr int kPairsPerCta = 2048;
constexpr int kMaxCtas = 1024;

int num_ctas_for(int num_pairs) { return min_of(ceil_div(num_pairs, kPairsPerCta), kMaxCtas); }

SM80MOE_DEVICE PairRange range_of_cta(const SortArgs& args) {
  return part_of({0, args.num_pairs}, blockIdx.x, gridDim.x);
}

// Shared memory: first_row[num_experts + 1], then counts[num_warps][num_experts].
// Alone on its SM, it may have all registers.
__global__ void __launch_bounds__(kMaxWarps* kWarpSize, 1)
    sort_in_one_cta_kernel(const __grid_constant__ SortArgs args) {
  extern __shared__ int first_row[];
  int* counts = first_row + args.num_experts + 1;
  const PairRange all = {0, args.num_pairs};

  count_experts(args, all, counts);
  for (int e = threadIdx.x; e < args.num_experts; e += blockDim.x)
    first_row[e] = scan_over_warps(counts, args.num_experts, e);
  __syncthreads();
  if (warp_index() == 0) warp_exclusive_scan(first_row, args.num_experts);
  __syncthreads();

  for (int e = threadIdx.x; e <= args.num_experts; e += blockDim.x)
    args.expert_offsets[e] = first_row[e];
  place_pairs(args, all, counts, first_row);
  clear_unused_rows(args, first_row[args.num_experts], threadIdx.x, blockDim.x);
  clear_counters(args);
}

// scratch[cta][e] = pairs of expert e in the CTA's range
__global__ void __launch_bounds__(kWarpsPerCta* kWarpSize)
    count_kernel(const __grid_constant__ SortArgs args) {
  extern __shared__ int counts[];
  count_experts(args, range_of_cta(args), counts);
  int32_t* totals = args.scratch + static_cast<int64_t>(blockIdx.x) * args.num_experts;
  for (int e = threadIdx.x; e < args.num_experts; e += blockDim.x)
    totals[e] = scan_over_warps(counts, args.num_experts, e);
}

// scratch[cta][e] = pairs of e in earlier CTAs; expert_offsets = first rows
__global__ void __launch_bounds__(kMaxExperts)
    scan_kernel(const __grid_constant__ SortArgs args, int num_ctas) {
  __shared__ int first_row[kMaxExperts + 1];
  constexpr int kAtOnce = 8;  // loads in flight, so that the walk is not one latency a CTA
  for (int e = threadIdx.x; e < args.num_experts; e += blockDim.x) {
    int before = 0;
    for (int cta0 = 0; cta0 < num_ctas; cta0 += kAtOnce) {
      int32_t* totals = args.scratch + static_cast<int64_t>(cta0) * args.num_experts + e;
      int total[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        total[i] = cta0 + i < num_ctas ? totals[i * args.num_experts] : 0;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (cta0 + i < num_ctas) totals[i * args.num_experts] = before;
        before += total[i];
      }
    }
    first_row[e] = before;
  }
  __syncthreads();
  if (warp_index() == 0) warp_exclusive_scan(first_row, args.num_experts);
  __syncthreads();
  for (int e = threadIdx.x; e <= args.num_experts; e += blockDim.x)
    args.expert_offsets[e] = first_row[e];
  clear_counters(args);
}

// Shared memory as in sort_in_one_cta_kernel.
__global__ void __launch_bounds__(kWarpsPerCta* kWarpSize)
    place_kernel(const __grid_constant__ SortArgs args) {
  extern __shared__ int first_row[];
  int* counts = first_row + args.num_experts + 1;
  const PairRange range = range_of_cta(args);
  const int32_t* before = args.scratch + static_cast<int64_t>(blockIdx.x) * args.num_experts;

  count_experts(args, range, counts);
  for (int e = threadIdx.x; e < args.num_experts; e += blockDim.x) {
    scan_over_warps(counts, args.num_experts, e);
    first_row[e] = args.expert_offsets[e] + before[e];
  }
  __syncthreads();
  place_pairs(args, range, counts, first_row);
  clear_unused_rows(args, args.expert_offsets[args.num_experts],
                    blockIdx.x * blockDim.x + threadIdx.x, gridDim.x * blockDim.x);
}

int first_row_bytes(const SortArgs& args) {
  return (args.num_experts + 1) * static_cast<int>(sizeof(int));
}
int counts_bytes(const SortArgs& args, int num_warps) {
  return num_warps * args.num_experts * static_cast<int>(sizeof(int));
}

cudaError_t sort_in_one_cta(const SortArgs& args, cudaStream_t stream) {
  const int warps_in_smem = (kSmemBytes - first_row_bytes(args)) / counts_bytes(args, 1);
  const int num_warps =
      clamp(ceil_div(args.num_pairs, kPairsPerWarp), kMinWarps, min_of(kMaxWarps, warps_in_smem));
  const int smem = first_row_bytes(args) + counts_bytes(args, num_warps);
  sort_in_one_cta_kernel<<<1, num_warps * kWarpSize, smem, stream>>>(args);
  return cudaGetLastError();
}

static_assert((kMaxExperts + 1 + kWarpsPerCta * kMaxExperts) * sizeof(int) <= kSmemBytes,
              "place_kernel must fit without an opt-in");

}  // namespace

int64_t sort_scratch_ints(int num_pairs, int num_experts) {
  if (num_pairs <= kMaxPairsInOneCta) return 0;
  return static_cast<int64_t>(num_ctas_for(num_pairs)) * num_experts;
}

cudaError_t sort_by_expert(const SortArgs& args, cudaStream_t stream) {
  if (args.num_pairs <= kMaxPairsInOneCta) return sort_in_one_cta(args, stream);
  constexpr int kThreads = kWarpsPerCta * kWarpSize;
  const int num_ctas = num_ctas_for(args.num_pairs);
  const int counts = counts_bytes(args, kWarpsPerCta);
  const int scan_threads = ceil_div(args.num_experts, kWarpSize) * kWarpSize;
  count_kernel<<<num_ctas, kThreads, counts, stream>>>(args);
  scan_kernel<<<1, scan_threads, 0, stream>>>(args, num_ctas);
  place_kernel<<<num_ctas, kThreads, first_row_bytes(args) + counts, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace sm80moe::routing
