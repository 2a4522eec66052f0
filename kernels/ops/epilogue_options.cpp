#include "ops/epilogue_options.h"

namespace sm80moe::ops {
namespace {

constexpr const char* kOrderNames[kNumGateUpOrders] = {"gate_up", "up_gate", "interleaved"};

PerExpert per_expert(const std::optional<Tensor>& numbers) {
  if (!numbers.has_value()) return {nullptr, 0};
  return {static_cast<const float*>(numbers->data_ptr()), numbers->stride(0)};
}

}  // namespace

ColumnRows gate_up_rows(int64_t order, int64_t num_rows) {
  const int64_t half = num_rows / 2;
  switch (static_cast<GateUpOrder>(order)) {
    case GateUpOrder::kUpGate:
      return {half, 1, -half};
    case GateUpOrder::kInterleaved:
      return {0, 2, 1};
    default:
      return {0, 1, half};
  }
}

bool EpilogueOptions::is_plain() const {
  const bool is_silu = static_cast<ActivationKind>(activation) == ActivationKind::kSilu;
  return is_silu && !bias && !swiglu_alpha && !swiglu_beta && !swiglu_limit;
}

void check_activation(const Checker& check, bool gated, const EpilogueOptions& options,
                      int64_t num_experts, const char* leader_name, const Tensor& leader) {
  check.between("activation", options.activation, 0, kNumActivations - 1);
  check.between("gate_up_order", options.gate_up_order, 0, kNumGateUpOrders - 1);
  if (options.gate_up_order != 0 && !gated)
    check.fail("gate_up_order must be ", kOrderNames[0], " where nothing is gated, got ",
               kOrderNames[options.gate_up_order]);
  const bool is_swiglu =
      gated && static_cast<ActivationKind>(options.activation) == ActivationKind::kSilu;
  const auto check_constant = [&](const char* name, const std::optional<Tensor>& numbers) {
    if (!numbers.has_value()) return;
    check.dtype(name, *numbers, {ScalarType::Float});
    check.shape(name, *numbers, {num_experts});
    check.same_device(name, *numbers, leader_name, leader);
    if (!is_swiglu)
      check.fail(name, " must be None unless the activation is silu and gated, got a tensor");
  };
  check_constant("swiglu_alpha", options.swiglu_alpha);
  check_constant("swiglu_beta", options.swiglu_beta);
  check_constant("swiglu_limit", options.swiglu_limit);
}

EpilogueArgs epilogue_args(const EpilogueOptions& options, const ColumnRows& rows) {
  EpilogueArgs args{};
  if (options.bias.has_value()) {
    const Tensor& bias = *options.bias;
    const auto element_size = static_cast<int64_t>(bias.element_size());
    args.bias.rows = static_cast<const char*>(bias.data_ptr()) + rows.first * element_size;
    args.bias.expert_stride = bias.stride(0);
    args.bias.column_step = rows.step;
    args.bias.second = rows.second;
  }
  args.activation = static_cast<ActivationKind>(options.activation);
  args.swiglu_alpha = per_expert(options.swiglu_alpha);
  args.swiglu_beta = per_expert(options.swiglu_beta);
  args.swiglu_limit = per_expert(options.swiglu_limit);
  return args;
}

}  // namespace sm80moe::ops
