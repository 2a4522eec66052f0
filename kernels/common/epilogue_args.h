#pragma once
// What the layer's options make of the first GEMM's sums. Plain data, for GEMMs and decode kernels.

#include <cstdint>

namespace sm80moe {

// The numbers that the operators take; the names are in _options.py, the formulas in
// activation.cuh.
enum class ActivationKind { kSilu, kGelu, kGeluTanh, kRelu, kRelu2, kIdentity };
inline constexpr int kNumActivations = 6;

// A number for each expert; 0 apart if they share one, null for the default.
struct PerExpert {
  const float* values;
  int64_t stride;
};

// A number for each weight row. Column c of the result has that at c * column_step, and if it is
// gated the up value's, second elements further on.
struct BiasArgs {
  const void* rows;  // the first column's, of the activations' type; null adds nothing
  int64_t expert_stride;
  int64_t column_step, second;
};

struct EpilogueArgs {
  BiasArgs bias;
  ActivationKind activation;
  PerExpert swiglu_alpha, swiglu_beta, swiglu_limit;
};

}  // namespace sm80moe
