#pragma once
// How an expert id is read, and which ids count.

#include "common/expert_ids.h"
#include "common/macros.cuh"

namespace sm80moe {

inline constexpr int kInvalidExpert = -1;

// The expert of a token's choice; one outside [0, num_experts) is not on this device.
SM80MOE_DEVICE int expert_at(const ExpertIds& ids, int64_t token, int choice, int num_experts) {
  const int64_t at = token * ids.row_stride + choice;
  const int64_t id = ids.are_int64 ? static_cast<const int64_t*>(ids.ids)[at]
                                   : static_cast<const int32_t*>(ids.ids)[at];
  if (id < 0 || id >= ids.num_ids) return kInvalidExpert;
  const int expert = ids.expert_map != nullptr ? ids.expert_map[id] : static_cast<int>(id);
  return expert >= 0 && expert < num_experts ? expert : kInvalidExpert;
}

}  // namespace sm80moe
