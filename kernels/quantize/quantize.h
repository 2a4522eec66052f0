#pragma once
// Activations as int8, for GEMMs that multiply int8. Plain C++.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/element_type.h"
#include "common/int8.h"

namespace sm80moe::quantize {

struct QuantizeArgs {
  const void* rows;  // [num_rows, num_columns] 16-bit, row_stride elements between rows
  int64_t row_stride;
  int num_rows, num_columns;  // columns are a multiple of 8
  const Int8Range* range;     // known for all rows; null: each row's largest number becomes 127
  int8_t* values;             // [num_rows, num_columns], then zeros up to row_bytes
  int row_bytes;              // num_columns or int8_row_bytes(num_columns)
  int64_t values_stride;      // bytes between rows; those may lie where the 16-bit rows do
  float* scale;               // [num_rows]
};
cudaError_t quantize_activations(const QuantizeArgs& args, ElementType type, cudaStream_t stream);

}  // namespace sm80moe::quantize
