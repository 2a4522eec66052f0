#pragma once
// Which pairs share an expert. Every warp finds it out for itself, in registers, lane p for pair p:
// no kernel sorts, no barrier waits, and the first weights are asked for one load after the launch.

#include "common/expert_ids.cuh"
#include "common/warp.cuh"
#include "decode/decode.h"

namespace sm80moe::decode {

// So many rows of activations are multiplied with weights while those are in registers. An expert
// with more pairs makes several groups, each of which reads its weights.
inline constexpr int kRowsAtOnce = 8;

struct Group {
  int expert;
  unsigned pairs;  // a bit each, kRowsAtOnce at most
};

// Groups are numbered in the order of their first pairs. All lanes of the warp call together.
class ExpertGroups {
 public:
  SM80MOE_DEVICE explicit ExpertGroups(const LayerArgs& args) {
    const int pair = lane_index();
    token_ = pair / args.top_k;
    expert_ = kInvalidExpert;
    if (token_ < args.num_tokens)
      expert_ = expert_at(args.topk_ids, token_, pair - token_ * args.top_k, args.num_experts);
    const bool valid = expert_ != kInvalidExpert;
    valid_pairs_ = __ballot_sync(kFullWarp, valid);

    constexpr int kMaxGroupsOfAnExpert = kMaxPairs / kRowsAtOnce;
    const unsigned below = (1u << pair) - 1;
    const int rank = __popc(__match_any_sync(kFullWarp, expert_) & below);
    pairs_ = __match_any_sync(kFullWarp, expert_ * kMaxGroupsOfAnExpert + rank / kRowsAtOnce);
    const bool leads = valid && (pairs_ & below) == 0;
    const unsigned leaders = __ballot_sync(kFullWarp, leads);
    num_groups_ = __popc(leaders);
    leads_group_ = leads ? __popc(leaders & below) : -1;
  }

  SM80MOE_DEVICE int size() const { return num_groups_; }

  SM80MOE_DEVICE Group operator[](int index) const {
    const int leader = __ffs(__ballot_sync(kFullWarp, leads_group_ == index)) - 1;
    return {__shfl_sync(kFullWarp, expert_, leader), __shfl_sync(kFullWarp, pairs_, leader)};
  }

  SM80MOE_DEVICE int token_of(int pair) const { return __shfl_sync(kFullWarp, token_, pair); }
  SM80MOE_DEVICE bool is_valid(int pair) const { return valid_pairs_ >> pair & 1; }

 private:
  // Of this lane's pair.
  int token_, expert_;
  unsigned pairs_;   // its group
  int leads_group_;  // whose first pair it is; -1 if of none
  // Of all.
  unsigned valid_pairs_;
  int num_groups_;
};

SM80MOE_DEVICE int first_pair(unsigned pairs) { return __ffs(pairs) - 1; }
SM80MOE_DEVICE unsigned without_first(unsigned pairs) { return pairs & (pairs - 1); }

}  // namespace sm80moe::decode
