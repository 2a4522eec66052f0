#include "common/device_info.h"
#include "routing/sort_by_expert.cuh"

namespace sm80moe::routing {
namespace {

// Up to here one CTA sorts everything in shared memory, which saves two launches; 16-bit counts
// hold a segment because they hold all pairs.
constexpr int kMaxPairsInOneCta = 16384;
constexpr int kMaxWarps = 32;
constexpr int kPairsPerWarp = 64;

constexpr int kWarpsPerCta = 8;  // of the kernels for more pairs
constexpr int kPairsPerSegment = 1024;
constexpr int kMaxSegments = 1024;

int num_segments_for(int num_pairs) {
  const int wanted = min_of(ceil_div(num_pairs, kPairsPerSegment), kMaxSegments);
  return ceil_div(wanted, kWarpsPerCta) * kWarpsPerCta;
}

// Shared memory: expert_begin int[num_experts + 1], then counts uint16[num_warps][num_experts].
__global__ void __launch_bounds__(kMaxWarps* kWarpSize)
    sort_in_one_cta_kernel(const __grid_constant__ SortArgs args) {
  extern __shared__ int expert_begin[];
  const int num_warps = blockDim.x / kWarpSize;
  auto* counts = reinterpret_cast<uint16_t*>(expert_begin + args.num_experts + 1);
  uint16_t* mine = counts + warp_index() * args.num_experts;
  const Segment segment = segment_of(warp_index(), num_warps, args.num_pairs);

  for (int i = threadIdx.x; i < num_warps * args.num_experts; i += blockDim.x) counts[i] = 0;
  __syncthreads();
  count_segment(args, segment, mine);
  __syncthreads();

  for (int e = threadIdx.x; e < args.num_experts; e += blockDim.x) {
    int before = 0;
    for (int warp = 0; warp < num_warps; ++warp) {
      uint16_t& count = counts[warp * args.num_experts + e];
      const int in_segment = count;
      count = static_cast<uint16_t>(before);
      before += in_segment;
    }
    expert_begin[e] = before;
  }
  __syncthreads();
  if (warp_index() == 0) warp_exclusive_scan(expert_begin, args.num_experts);
  __syncthreads();

  for (int e = threadIdx.x; e <= args.num_experts; e += blockDim.x)
    args.expert_offsets[e] = expert_begin[e];
  place_segment(args, segment, mine, expert_begin);
  clear_unused_rows(args, expert_begin[args.num_experts], threadIdx.x, blockDim.x);
}

// scratch[segment][num_experts] = counts of the segment
__global__ void __launch_bounds__(kWarpsPerCta* kWarpSize)
    count_kernel(const __grid_constant__ SortArgs args, int num_segments) {
  const int index = blockIdx.x * kWarpsPerCta + warp_index();
  int32_t* counts = args.scratch + static_cast<int64_t>(index) * args.num_experts;
  for (int e = lane_index(); e < args.num_experts; e += kWarpSize) counts[e] = 0;
  __syncwarp();
  count_segment(args, segment_of(index, num_segments, args.num_pairs), counts);
}

// scratch[segment][e] = rows of e in earlier segments; expert_offsets = first rows
__global__ void __launch_bounds__(kMaxExperts)
    scan_kernel(const __grid_constant__ SortArgs args, int num_segments) {
  __shared__ int expert_begin[kMaxExperts + 1];
  for (int e = threadIdx.x; e < args.num_experts; e += blockDim.x) {
    int before = 0;
    for (int segment = 0; segment < num_segments; ++segment) {
      int32_t& count = args.scratch[static_cast<int64_t>(segment) * args.num_experts + e];
      const int in_segment = count;
      count = before;
      before += in_segment;
    }
    expert_begin[e] = before;
  }
  __syncthreads();
  if (warp_index() == 0) warp_exclusive_scan(expert_begin, args.num_experts);
  __syncthreads();
  for (int e = threadIdx.x; e <= args.num_experts; e += blockDim.x)
    args.expert_offsets[e] = expert_begin[e];
}

__global__ void __launch_bounds__(kWarpsPerCta* kWarpSize)
    place_kernel(const __grid_constant__ SortArgs args, int num_segments) {
  const int index = blockIdx.x * kWarpsPerCta + warp_index();
  int32_t* next = args.scratch + static_cast<int64_t>(index) * args.num_experts;
  place_segment(args, segment_of(index, num_segments, args.num_pairs), next, args.expert_offsets);
  clear_unused_rows(args, args.expert_offsets[args.num_experts],
                    blockIdx.x * blockDim.x + threadIdx.x, gridDim.x * blockDim.x);
}

cudaError_t sort_in_one_cta(const SortArgs& args, cudaStream_t stream) {
  // 48 KB need no opt-in; with many experts fewer warps share it.
  constexpr int kSmemLimit = 48 * 1024;
  const int begin_bytes = (args.num_experts + 1) * static_cast<int>(sizeof(int));
  const int bytes_per_warp = args.num_experts * static_cast<int>(sizeof(uint16_t));
  const int warps_in_smem = (kSmemLimit - begin_bytes) / bytes_per_warp;
  const int num_warps =
      clamp(ceil_div(args.num_pairs, kPairsPerWarp), 4, min_of(kMaxWarps, warps_in_smem));
  const int smem = begin_bytes + num_warps * bytes_per_warp;
  sort_in_one_cta_kernel<<<1, num_warps * kWarpSize, smem, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

int64_t sort_scratch_ints(int num_pairs, int num_experts) {
  if (num_pairs <= kMaxPairsInOneCta) return 0;
  return static_cast<int64_t>(num_segments_for(num_pairs)) * num_experts;
}

cudaError_t sort_by_expert(const SortArgs& args, cudaStream_t stream) {
  if (args.num_pairs <= kMaxPairsInOneCta) return sort_in_one_cta(args, stream);
  const int num_segments = num_segments_for(args.num_pairs);
  const int grid = num_segments / kWarpsPerCta;
  count_kernel<<<grid, kWarpsPerCta * kWarpSize, 0, stream>>>(args, num_segments);
  scan_kernel<<<1, ceil_div(args.num_experts, kWarpSize) * kWarpSize, 0, stream>>>(args,
                                                                                   num_segments);
  place_kernel<<<grid, kWarpsPerCta * kWarpSize, 0, stream>>>(args, num_segments);
  return cudaGetLastError();
}

}  // namespace sm80moe::routing
