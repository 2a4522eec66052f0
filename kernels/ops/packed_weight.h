#pragma once
// Packed weights as the operators take them: three tensors of torch_sm80moe/quantization/packing.py
// and two numbers. The sentences of errors are those of _shapes.py.

#include <optional>
#include <string>

#include "gemm/problem.h"
#include "ops/checks.h"
#include "ops/epilogue_options.h"

namespace sm80moe::ops {

// What both weights of a layer have in common.
struct PackedScheme {
  int64_t weight_format;  // an index into packing.WEIGHT_FORMATS
  int64_t group_size;     // weights of a row that share a scale; 0 for all
};

struct PackedWeight {
  const Tensor& scale;
  const std::optional<Tensor>& codes;
  PackedScheme scheme;
  const std::optional<Tensor>& input;  // the range of int8 activations, if it is known
};

// Which kernels read it: int8 without groups and zero points has its own.
WeightFormat packed_format(const PackedWeight& packed);

// W [E, N, K] in packed form. Rows and experts are counted, K is not: it is the activations'.
void check_packed(const Checker& check, const std::string& name, const Tensor& values,
                  const PackedWeight& packed, int64_t k, const char* leader_name,
                  const Tensor& leader);

// What kernels want to know of it, with the rows of a column of the product.
PackedArgs packed_args(const PackedWeight& packed, const ColumnRows& rows);

// Points `args`, whose W is set, at scales and codes.
void set_packed(gemm::GroupedGemmArgs& args, const PackedWeight& packed, const ColumnRows& rows,
                int64_t k);

}  // namespace sm80moe::ops
