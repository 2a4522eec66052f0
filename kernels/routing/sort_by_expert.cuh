#pragma once
// A stable counting sort of pairs by expert. The pairs are cut into segments, one a warp:
// count every segment's experts, turn the counts into first rows, then replay each segment.

#include "common/warp.cuh"
#include "routing/routing.h"

namespace sm80moe::routing {

inline constexpr int kInvalidExpert = -1;

struct Segment {
  int begin, end;
};

SM80MOE_DEVICE Segment segment_of(int index, int num_segments, int num_pairs) {
  const int length = ceil_div(ceil_div(num_pairs, num_segments), kWarpSize) * kWarpSize;
  const int begin = min_of(index * length, num_pairs);
  return {begin, min_of(begin + length, num_pairs)};
}

SM80MOE_DEVICE int expert_of(const SortArgs& args, int pair) {
  const int token = pair / args.top_k;
  const int64_t at = token * args.ids_row_stride + (pair - token * args.top_k);
  const int64_t id = args.ids_are_int64 ? static_cast<const int64_t*>(args.topk_ids)[at]
                                        : static_cast<const int32_t*>(args.topk_ids)[at];
  return id >= 0 && id < args.num_experts ? static_cast<int>(id) : kInvalidExpert;
}

// One warp adds its segment's experts to counts[num_experts], which it owns.
template <class Count>
SM80MOE_DEVICE void count_segment(const SortArgs& args, Segment segment, Count* counts) {
  for (int base = segment.begin; base < segment.end; base += kWarpSize) {
    const int pair = base + lane_index();
    const int expert = pair < segment.end ? expert_of(args, pair) : kInvalidExpert;
    const unsigned peers = __match_any_sync(kFullWarp, expert);
    const bool leader = lane_index() == __ffs(peers) - 1;
    if (leader && expert != kInvalidExpert) counts[expert] += __popc(peers);
    __syncwarp();
  }
}

// One warp writes its segment's rows. next[e] + expert_begin[e] is the row of the segment's next
// pair of expert e; the warp owns `next` and moves it on.
template <class Count>
SM80MOE_DEVICE void place_segment(const SortArgs& args, Segment segment, Count* next,
                                  const int* expert_begin) {
  const unsigned lanes_below = (1u << lane_index()) - 1;
  for (int base = segment.begin; base < segment.end; base += kWarpSize) {
    const int pair = base + lane_index();
    const bool in_segment = pair < segment.end;
    const int expert = in_segment ? expert_of(args, pair) : kInvalidExpert;
    const unsigned peers = __match_any_sync(kFullWarp, expert);
    const int rank = __popc(peers & lanes_below);
    int row = -1;
    if (expert != kInvalidExpert) {
      row = expert_begin[expert] + next[expert] + rank;
      args.row_index[row] = pair;
    }
    if (in_segment) args.row_position[pair] = row;
    __syncwarp();
    if (expert != kInvalidExpert && rank == 0) next[expert] += __popc(peers);
    __syncwarp();
  }
}

// Threads first, first + stride, ... fill the rows that no valid pair takes.
SM80MOE_DEVICE void clear_unused_rows(const SortArgs& args, int num_used, int first, int stride) {
  for (int row = num_used + first; row < args.num_pairs; row += stride) args.row_index[row] = -1;
}

}  // namespace sm80moe::routing
