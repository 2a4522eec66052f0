#pragma once
// Which pairs share an expert. Every warp finds it out for itself, in registers, lane p for pair p:
// no kernel sorts, no barrier waits, and the first weights are asked for one load after the launch.

#include <climits>

#include "common/expert_ids.cuh"
#include "common/warp.cuh"
#include "decode/decode.h"

namespace sm80moe::decode {

// So many pairs are multiplied with weights at once. An expert with more makes several groups, each
// of which reads its weights.
inline constexpr int kMaxPairsOfGroup = 8;

SM80MOE_DEVICE unsigned without_first(unsigned pairs) { return pairs & (pairs - 1); }
SM80MOE_DEVICE int last_of(unsigned lanes) { return kWarpSize - 1 - __clz(lanes); }

// For a lane to ask alone.
SM80MOE_DEVICE unsigned token_of(const LayerArgs& args, unsigned pair) {
  return pair * args.inverse_of_top_k / kUnitOfInverse;
}

// Groups are numbered in the order of their first pairs, whose lanes lead them and are what a group
// is known by. All lanes of the warp call together.
class ExpertGroups {
 public:
  SM80MOE_DEVICE explicit ExpertGroups(const LayerArgs& args) {
    const unsigned pair = lane_index(), token = token_of(args, pair);
    expert_ = kInvalidExpert;
    if (token < args.num_tokens)
      expert_ = expert_at(args.topk_ids, token, pair - token * args.top_k, args.num_experts);
    const bool valid = expert_ != kInvalidExpert;
    valid_pairs_ = __ballot_sync(kFullWarp, valid);

    const unsigned below = (1u << pair) - 1;
    pairs_ = __match_any_sync(kFullWarp, expert_);
    const int rank = __popc(pairs_ & below);
    if (__ballot_sync(kFullWarp, valid && rank >= kMaxPairsOfGroup) != 0)
      pairs_ = __match_any_sync(kFullWarp, expert_ * kMaxPairs + rank / kMaxPairsOfGroup);
    const bool leads = valid && (pairs_ & below) == 0;
    const unsigned leaders = __ballot_sync(kFullWarp, leads);
    num_groups_ = __popc(leaders);
    index_ = leads ? __popc(leaders & below) : -1;
    most_pairs_ = warp_max(valid ? static_cast<unsigned>(__popc(pairs_)) : 0);
  }

  SM80MOE_DEVICE int size() const { return num_groups_; }
  // No group has more pairs than 1 << log2_width().
  SM80MOE_DEVICE int log2_width() const {
    return most_pairs_ > 1 ? last_of(most_pairs_ - 1) + 1 : 0;
  }

  // The number of the group that this lane leads; -1 if it leads none.
  SM80MOE_DEVICE int index_of_own() const { return index_; }
  // A bit each.
  SM80MOE_DEVICE unsigned pairs_of(int leader) const {
    return __shfl_sync(kFullWarp, pairs_, leader);
  }
  // For a lane to ask alone: number `index` of a group's pairs, -1 beyond the last.
  SM80MOE_DEVICE int pair(unsigned pairs, int index) const {
#pragma unroll 1
    for (int i = 1; i < most_pairs_; ++i) pairs = i <= index ? without_first(pairs) : pairs;
    return index < most_pairs_ ? __ffs(pairs) - 1 : -1;
  }

  SM80MOE_DEVICE int expert_of(int pair) const { return __shfl_sync(kFullWarp, expert_, pair); }
  SM80MOE_DEVICE bool is_valid(int pair) const { return valid_pairs_ >> pair & 1; }

 private:
  // Of this lane's pair.
  int expert_;
  unsigned pairs_;  // its group
  int index_;
  // Of all.
  unsigned valid_pairs_;
  int num_groups_, most_pairs_;
};

// The tiles of all groups, group after group, in each of which there are as many.
class Tiles {
 public:
  struct Place {
    int leader;  // of the group
    int tile;    // of the group's
  };

  SM80MOE_DEVICE Tiles(const ExpertGroups& groups, int tiles_of_group)
      : size_(groups.size() * tiles_of_group),
        begin_(groups.index_of_own() < 0 ? INT_MAX : groups.index_of_own() * tiles_of_group) {}

  SM80MOE_DEVICE int size() const { return size_; }
  // All lanes of the warp ask together for the same one, which there is.
  SM80MOE_DEVICE Place operator[](int index) const {
    const int leader = last_of(__ballot_sync(kFullWarp, begin_ <= index));
    return {leader, index - __shfl_sync(kFullWarp, begin_, leader)};
  }

 private:
  int size_;
  int begin_;  // where this lane's group begins
};

}  // namespace sm80moe::decode
