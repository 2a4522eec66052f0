#pragma once
// A stable counting sort of pairs by expert. A CTA takes a range of pairs and each of its warps a
// segment of that: count every segment's experts, turn the counts into first rows, replay.

#include "common/expert_ids.cuh"
#include "common/warp.cuh"
#include "routing/routing.h"

namespace sm80moe::routing {

struct PairRange {
  int begin, end;
};

// Part `index` of a range cut into `num_parts` of whole warps' worth.
SM80MOE_DEVICE PairRange part_of(PairRange range, int index, int num_parts) {
  const int num_pairs = range.end - range.begin;
  const int length = ceil_div(ceil_div(num_pairs, num_parts), kWarpSize) * kWarpSize;
  const int begin = range.begin + min_of(index * length, num_pairs);
  return {begin, min_of(begin + length, range.end)};
}

SM80MOE_DEVICE int expert_of(const SortArgs& args, int pair) {
  const int token = pair / args.top_k;
  return expert_at(args.topk_ids, token, pair - token * args.top_k, args.num_experts);
}

// counts[warp][num_experts] = experts of each warp's segment of `range`; the whole CTA calls.
SM80MOE_DEVICE void count_experts(const SortArgs& args, PairRange range, int* counts) {
  const int num_warps = blockDim.x / kWarpSize;
  for (int i = threadIdx.x; i < num_warps * args.num_experts; i += blockDim.x) counts[i] = 0;
  __syncthreads();
  int* mine = counts + warp_index() * args.num_experts;
  const PairRange segment = part_of(range, warp_index(), num_warps);
  for (int pair = segment.begin + lane_index(); pair < segment.end; pair += kWarpSize) {
    const int expert = expert_of(args, pair);
    if (expert != kInvalidExpert) atomicAdd(&mine[expert], 1);
  }
  __syncthreads();
}

// Replaces the counts of expert e by the number of its pairs in earlier warps; returns their sum.
SM80MOE_DEVICE int scan_over_warps(int* counts, int num_experts, int e) {
  int before = 0;
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarpSize; ++warp) {
    int& count = counts[warp * num_experts + e];
    const int in_segment = count;
    count = before;
    before += in_segment;
  }
  return before;
}

// Writes the rows of `range`. first_row[e] is the row of the CTA's first pair of expert e, and
// counts[warp][e] how many come before the warp's first; a warp moves its counts on as it goes.
SM80MOE_DEVICE void place_pairs(const SortArgs& args, PairRange range, int* counts,
                                const int* first_row) {
  const unsigned lanes_below = (1u << lane_index()) - 1;
  int* mine = counts + warp_index() * args.num_experts;
  const PairRange segment = part_of(range, warp_index(), blockDim.x / kWarpSize);
  for (int base = segment.begin; base < segment.end; base += kWarpSize) {
    const int pair = base + lane_index();
    const bool in_segment = pair < segment.end;
    const int expert = in_segment ? expert_of(args, pair) : kInvalidExpert;
    const unsigned peers = __match_any_sync(kFullWarp, expert);
    const int rank = __popc(peers & lanes_below);
    int row = -1;
    if (expert != kInvalidExpert) {
      row = first_row[expert] + mine[expert] + rank;
      args.row_index[row] = pair;
    }
    if (in_segment) args.row_position[pair] = row;
    __syncwarp();
    if (expert != kInvalidExpert && rank == 0) mine[expert] += __popc(peers);
    __syncwarp();
  }
}

// Threads first, first + stride, ... fill the rows that no valid pair takes.
SM80MOE_DEVICE void clear_unused_rows(const SortArgs& args, int num_used, int first, int stride) {
  for (int row = num_used + first; row < args.num_pairs; row += stride) args.row_index[row] = -1;
}

// One CTA calls.
SM80MOE_DEVICE void clear_counters(const SortArgs& args) {
  for (int i = threadIdx.x; i < args.num_counters; i += blockDim.x) args.counters[i] = 0;
}

}  // namespace sm80moe::routing
