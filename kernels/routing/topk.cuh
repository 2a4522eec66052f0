#pragma once
// The best of a row, taken one after the other by a warp. Lane l holds positions l, l + 32, ...

#include <cmath>

#include "common/warp.cuh"
#include "routing/routing.h"

namespace sm80moe::routing {

// How many of a row's positions this lane holds.
SM80MOE_DEVICE int num_held(int row_length) {
  return ceil_div(row_length - lane_index(), kWarpSize);
}

// A float as an integer of the same order; no float becomes kGone.
inline constexpr unsigned kGone = 0;
SM80MOE_DEVICE unsigned sortable(float value) {
  constexpr unsigned kSign = 1u << 31;
  const unsigned bits = __float_as_uint(value + 0.0f);  // which makes zeros of both signs equal
  return bits & kSign ? ~bits : bits | kSign;
}

// Returns the position of the largest key, of equals the lowest, and makes the key kGone.
template <int kPerLane>
SM80MOE_DEVICE int take_best(unsigned (&keys)[kPerLane]) {
  unsigned key = keys[0];
  int held = 0;
#pragma unroll
  for (int i = 1; i < kPerLane; ++i)
    if (keys[i] > key) {
      key = keys[i];
      held = i;
    }
  constexpr int kNowhere = kPerLane * kWarpSize;
  const int mine = held * kWarpSize + lane_index();
  const int best = warp_min(key == warp_max(key) ? mine : kNowhere);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    if (best == mine && held == i) keys[i] = kGone;
  return best;
}

struct BestTwo {
  float first = -INFINITY, second = -INFINITY;

  SM80MOE_DEVICE void add(float value) {
    second = fmaxf(second, fminf(first, value));
    first = fmaxf(first, value);
  }
};

SM80MOE_DEVICE BestTwo warp_best_two(BestTwo mine) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    const float first = __shfl_xor_sync(kFullWarp, mine.first, distance);
    const float second = __shfl_xor_sync(kFullWarp, mine.second, distance);
    mine.add(first);
    mine.add(second);
  }
  return mine;
}

// Removes the keys of experts outside the topk_group best groups. Lane g learns group g's score, so
// that groups are taken as experts are.
template <int kPerLane>
SM80MOE_DEVICE void keep_best_groups(const TopkArgs& args, const float (&scores)[kPerLane],
                                     unsigned (&keys)[kPerLane]) {
  const int group_size = args.num_experts / args.n_group;
  const auto is_in_group = [=](int i, int group) {
    const int begin = group * group_size - lane_index();
    return i * kWarpSize >= begin && i * kWarpSize < begin + group_size;
  };
  unsigned group_key[1] = {kGone};
#pragma unroll 1
  for (int group = 0; group < args.n_group; ++group) {
    BestTwo best;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if (is_in_group(i, group)) best.add(scores[i]);
    best = warp_best_two(best);
    const bool alone = args.group_score == GroupScore::kMax || group_size == 1;
    const float score = alone ? best.first : best.first + best.second;
    if (lane_index() == group) group_key[0] = sortable(score);
  }
  for (int i = 0; i < args.topk_group; ++i) take_best(group_key);
#pragma unroll 1
  for (int group = 0; group < args.n_group; ++group) {
    const bool is_taken = __shfl_sync(kFullWarp, group_key[0], group) == kGone;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if (!is_taken && is_in_group(i, group)) keys[i] = kGone;
  }
}

}  // namespace sm80moe::routing
