#pragma once

#include <tuple>

#include "ops/checks.h"

namespace sm80moe::ops {

std::tuple<Tensor, Tensor> topk_route(Tensor router_logits, int64_t top_k, bool renormalize);
std::tuple<Tensor, Tensor, Tensor> sort_by_expert(Tensor topk_ids, int64_t num_experts);
Tensor combine(Tensor rows, Tensor topk_weights, Tensor row_position);

}  // namespace sm80moe::ops
