#pragma once

#include <optional>
#include <tuple>

#include "ops/checks.h"

namespace sm80moe::ops {

std::tuple<Tensor, Tensor, Tensor> topk_route(
    Tensor router_logits, int64_t top_k, bool renormalize, int64_t scoring,
    std::optional<Tensor> correction_bias, int64_t n_group, int64_t topk_group, int64_t group_score,
    double routed_scaling_factor, std::optional<Tensor> expert_map, bool return_tokens_per_expert);
std::tuple<Tensor, Tensor, Tensor> sort_by_expert(Tensor topk_ids, int64_t num_experts,
                                                  std::optional<Tensor> expert_map);
Tensor combine(Tensor rows, Tensor topk_weights, Tensor row_position);

}  // namespace sm80moe::ops
