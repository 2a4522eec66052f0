#pragma once
// How activations are stored as int8; plain C++.

#include <cstdint>

namespace sm80moe {

// Of activations whose scale is known beforehand: as users pass them, in a tensor of two floats.
struct Int8Range {
  float scale, zero_point;
};

// Bytes that a row of so many int8 takes where kernels copy it in chunks.
constexpr int64_t int8_row_bytes(int64_t columns) { return (columns + 15) / 16 * 16; }

}  // namespace sm80moe
