#pragma once
// What weights hold, and what stands beside packed ones. Plain data, for GEMMs and decode kernels.

#include <cstdint>

namespace sm80moe {

// Packed weights are laid out for the kernels; stored_numbers.cuh says how.
enum class WeightFormat {
  kDense,
  kInt8,
  kInt8Group,
  kInt4,
  kFp8,
  kMxfp4,
  kInt8Rows  // for int8 activations
};

constexpr bool meets_int8(WeightFormat format) { return format == WeightFormat::kInt8Rows; }

// Whether groups of weights along a row may have scales of their own.
constexpr bool has_group_scales(WeightFormat format) {
  return format == WeightFormat::kInt8Group || format == WeightFormat::kInt4 ||
         format == WeightFormat::kFp8;
}

// Bits that a weight takes, or two of them where the reduction counts pairs.
constexpr int weight_bits(WeightFormat format) {
  if (format == WeightFormat::kDense || meets_int8(format)) return 16;
  return format == WeightFormat::kInt4 || format == WeightFormat::kMxfp4 ? 4 : 8;
}

// Bits that a weight takes.
constexpr int stored_bits(WeightFormat format) {
  return meets_int8(format) ? 8 : weight_bits(format);
}

// Rows whose scales, and whose words of codes, are next to each other.
inline constexpr int kRowsSideBySide = 8;

// Column c of the result has weight row first_row + c * row_step, and if it is gated the up row,
// up_rows further on.
struct PackedArgs {
  WeightFormat format;
  const float* scale;     // [num_experts, n / 8, groups, 8]; see packed_words.cuh
  const uint32_t* codes;  // [num_experts, n / 8, code_words, 8], of four groups each, or null
  int first_row, row_step, up_rows;
  int groups;       // scales of a row
  int group_shift;  // a group is 1 << group_shift weights of a row; 31 for all of it
  int code_words;   // of a row; 0 without codes
};

}  // namespace sm80moe
