#pragma once
// Which pairs share an expert. Every warp finds it out for itself, in registers, lane p for pair p:
// no kernel sorts, no barrier waits, and the first weights are asked for one load after the launch.

#include "common/expert_ids.cuh"
#include "common/warp.cuh"
#include "decode/decode.h"

namespace sm80moe::decode {

// So many pairs are multiplied with weights at once. An expert with more makes several groups, each
// of which reads its weights.
inline constexpr int kMaxPairsOfGroup = 8;

SM80MOE_DEVICE unsigned without_first(unsigned pairs) { return pairs & (pairs - 1); }

struct Group {
  int expert;
  unsigned pairs;  // a bit each

  SM80MOE_DEVICE int size() const { return __popc(pairs); }
  // For a lane to ask for a pair of its own; `index` is below kMaxPairsOfGroup, and beyond the last
  // pair the answer is -1.
  SM80MOE_DEVICE int pair(int index) const {
    unsigned rest = pairs;
#pragma unroll 1
    for (int i = 0; i < index; ++i) rest = without_first(rest);
    return __ffs(rest) - 1;
  }
};

// Groups are numbered in the order of their first pairs. All lanes of the warp call together.
class ExpertGroups {
 public:
  SM80MOE_DEVICE explicit ExpertGroups(const LayerArgs& args) {
    const unsigned pair = lane_index(), top_k = args.top_k;
    token_ = pair / top_k;
    expert_ = kInvalidExpert;
    if (token_ < args.num_tokens)
      expert_ = expert_at(args.topk_ids, token_, pair - token_ * top_k, args.num_experts);
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
    leads_group_ = leads ? __popc(leaders & below) : -1;

    const int num_pairs = valid ? __popc(pairs_) : 0;
    log2_width_ = 0;
#pragma unroll
    for (int width = 1; width < kMaxPairsOfGroup; width *= 2)
      log2_width_ += __ballot_sync(kFullWarp, num_pairs > width) != 0;
  }

  SM80MOE_DEVICE int size() const { return num_groups_; }
  // No group has more pairs than 1 << log2_width().
  SM80MOE_DEVICE int log2_width() const { return log2_width_; }

  SM80MOE_DEVICE Group operator[](int index) const {
    const int leader = __ffs(__ballot_sync(kFullWarp, leads_group_ == index)) - 1;
    return {__shfl_sync(kFullWarp, expert_, leader), __shfl_sync(kFullWarp, pairs_, leader)};
  }

  SM80MOE_DEVICE int expert_of(int pair) const { return __shfl_sync(kFullWarp, expert_, pair); }
  SM80MOE_DEVICE int token_of(int pair) const { return __shfl_sync(kFullWarp, token_, pair); }
  SM80MOE_DEVICE bool is_valid(int pair) const { return valid_pairs_ >> pair & 1; }

 private:
  // Of this lane's pair.
  int token_, expert_;
  unsigned pairs_;   // its group
  int leads_group_;  // whose first pair it is; -1 if of none
  // Of all.
  unsigned valid_pairs_;
  int num_groups_, log2_width_;
};

}  // namespace sm80moe::decode
