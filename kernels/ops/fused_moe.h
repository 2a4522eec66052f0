#pragma once

#include <optional>

#include "ops/checks.h"

namespace sm80moe::ops {

Tensor fused_moe(Tensor hidden_states, Tensor w13, Tensor w2, Tensor topk_weights, Tensor topk_ids,
                 std::optional<Tensor> expert_map, std::optional<Tensor> w13_bias,
                 std::optional<Tensor> w2_bias, bool gated, int64_t activation,
                 int64_t gate_up_order, std::optional<Tensor> swiglu_alpha,
                 std::optional<Tensor> swiglu_beta, std::optional<Tensor> swiglu_limit,
                 bool apply_router_weight_on_input, std::optional<Tensor> residual,
                 bool batch_invariant, int64_t tactic_w13, int64_t tactic_w2);
Tensor fused_moe_quantized(Tensor hidden_states, Tensor w13, Tensor w13_scale,
                           std::optional<Tensor> w13_codes, Tensor w2, Tensor w2_scale,
                           std::optional<Tensor> w2_codes, Tensor topk_weights, Tensor topk_ids,
                           int64_t weight_format, int64_t group_size,
                           std::optional<Tensor> w13_input, std::optional<Tensor> w2_input,
                           std::optional<Tensor> expert_map, std::optional<Tensor> w13_bias,
                           std::optional<Tensor> w2_bias, bool gated, int64_t activation,
                           int64_t gate_up_order, std::optional<Tensor> swiglu_alpha,
                           std::optional<Tensor> swiglu_beta, std::optional<Tensor> swiglu_limit,
                           bool apply_router_weight_on_input, std::optional<Tensor> residual,
                           bool batch_invariant, int64_t tactic_w13, int64_t tactic_w2);
void fused_moe_quantized_out(Tensor hidden_states, Tensor w13, Tensor w13_scale,
                             std::optional<Tensor> w13_codes, Tensor w2, Tensor w2_scale,
                             std::optional<Tensor> w2_codes, Tensor topk_weights, Tensor topk_ids,
                             int64_t weight_format, int64_t group_size, Tensor out,
                             std::optional<Tensor> w13_input, std::optional<Tensor> w2_input,
                             std::optional<Tensor> expert_map, std::optional<Tensor> w13_bias,
                             std::optional<Tensor> w2_bias, bool gated, int64_t activation,
                             int64_t gate_up_order, std::optional<Tensor> swiglu_alpha,
                             std::optional<Tensor> swiglu_beta, std::optional<Tensor> swiglu_limit,
                             bool apply_router_weight_on_input, std::optional<Tensor> residual,
                             bool batch_invariant, int64_t tactic_w13, int64_t tactic_w2);
void fused_moe_out(Tensor hidden_states, Tensor w13, Tensor w2, Tensor topk_weights,
                   Tensor topk_ids, Tensor out, std::optional<Tensor> expert_map,
                   std::optional<Tensor> w13_bias, std::optional<Tensor> w2_bias, bool gated,
                   int64_t activation, int64_t gate_up_order, std::optional<Tensor> swiglu_alpha,
                   std::optional<Tensor> swiglu_beta, std::optional<Tensor> swiglu_limit,
                   bool apply_router_weight_on_input, std::optional<Tensor> residual,
                   bool batch_invariant, int64_t tactic_w13, int64_t tactic_w2);
int64_t workspace_size(int64_t num_tokens, int64_t num_experts, int64_t top_k, int64_t hidden_size,
                       int64_t intermediate_size);

}  // namespace sm80moe::ops
