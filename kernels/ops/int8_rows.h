#pragma once
// Activations as int8: the operator, and what the GEMMs of int8 activations are given.

#include <algorithm>
#include <optional>
#include <tuple>

#include "gemm/problem.h"
#include "ops/device.h"

namespace sm80moe::ops {

// The columns that a GEMM's int32 sums can hold, whatever is in them.
inline constexpr int64_t kMaxInt8Depth = 65536;

// A scale and a zero point in a tensor; null if there is none.
inline const Int8Range* int8_range(const std::optional<Tensor>& t) {
  return t.has_value() ? static_cast<const Int8Range*>(t->data_ptr()) : nullptr;
}
void check_int8_range(const Checker& check, const char* name, const std::optional<Tensor>& range,
                      const char* leader_name, const Tensor& leader);

// Rows of int8, and their scales. Zeros follow a row up to int8_row_bytes(num_columns), if its
// stride leaves room for them.
struct Int8Rows {
  int8_t* values;
  int64_t stride;  // from one row to the next, in bytes
  float* scale;
  int64_t num_rows, num_columns;

  int64_t row_bytes() const { return std::min(int8_row_bytes(num_columns), stride); }
};

// Rows one after the other, then their scales.
inline int64_t dense_int8_bytes(int64_t num_rows, int64_t num_columns) {
  return num_rows * (int8_row_bytes(num_columns) + int64_t{sizeof(float)});
}
inline Int8Rows dense_int8_rows(void* memory, int64_t num_rows, int64_t num_columns) {
  auto* values = static_cast<int8_t*>(memory);
  const int64_t row_bytes = int8_row_bytes(num_columns);
  auto* scale = reinterpret_cast<float*>(values + num_rows * row_bytes);
  return {values, row_bytes, scale, num_rows, num_columns};
}

// Quantises 16-bit rows, `row_stride` elements apart, of a range that is known or null.
void quantize_rows(const DeviceScope& device, const void* rows, int64_t row_stride,
                   ElementType type, const Int8Range* range, const Int8Rows& to);

// Points `args` at int8 activations of a known range, or with scales of their own.
void set_int8_rows(gemm::GroupedGemmArgs& args, const Int8Rows& rows, const Int8Range* range,
                   ElementType type);

std::tuple<Tensor, Tensor> quantize_activations(Tensor a, std::optional<Tensor> input_range);

}  // namespace sm80moe::ops
