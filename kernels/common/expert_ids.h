#pragma once
// The router's choices as a caller has them.

#include <cstdint>

namespace sm80moe {

// An id in [0, num_ids) is that of an expert; the map says which on this device.
struct ExpertIds {
  const void* ids;     // [num_tokens, top_k] int32 or int64
  int64_t row_stride;  // elements between rows
  bool are_int64;
  const int32_t* expert_map;  // [num_ids], or null if the ids are this device's
  int num_ids;
};

}  // namespace sm80moe
