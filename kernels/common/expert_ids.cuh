#pragma once
// How an expert id is read, and which ids count.

#include <cstdint>

#include "common/macros.cuh"

namespace sm80moe {

inline constexpr int kInvalidExpert = -1;

// The id at position `at` of a tensor of int32 or int64; an id outside [0, num_experts) is not on
// this device.
SM80MOE_DEVICE int expert_at(const void* ids, bool are_int64, int64_t at, int num_experts) {
  const int64_t id =
      are_int64 ? static_cast<const int64_t*>(ids)[at] : static_cast<const int32_t*>(ids)[at];
  return id >= 0 && id < num_experts ? static_cast<int>(id) : kInvalidExpert;
}

}  // namespace sm80moe
