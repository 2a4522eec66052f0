#pragma once
// What the layer and a GEMM are told beside their matrices: which rows are gates, what is added,
// and which function is applied. The sentences of errors are those of _shapes.py.

#include <optional>

#include "common/epilogue_args.h"
#include "ops/checks.h"

namespace sm80moe::ops {

// The number that an operator takes; the names are in _options.py.
enum class GateUpOrder { kGateUp, kUpGate, kInterleaved };
inline constexpr int kNumGateUpOrders = 3;

// Which rows of W make a column: column c has row first + c * step, and if it has two, the second
// is `second` rows further on.
struct ColumnRows {
  int64_t first, step, second;
};
inline constexpr ColumnRows kOneRow{0, 1, 0};
ColumnRows gate_up_rows(int64_t order, int64_t num_rows);

struct EpilogueOptions {
  const std::optional<Tensor>& bias;
  int64_t activation, gate_up_order;
  const std::optional<Tensor>&swiglu_alpha, &swiglu_beta, &swiglu_limit;

  // Whether nothing but the order differs from silu without bias.
  bool is_plain() const;
};

// All but the bias, whose name differs. `leader` is on the device.
void check_activation(const Checker& check, bool gated, const EpilogueOptions& options,
                      int64_t num_experts, const char* leader_name, const Tensor& leader);

EpilogueArgs epilogue_args(const EpilogueOptions& options, const ColumnRows& rows);

}  // namespace sm80moe::ops
