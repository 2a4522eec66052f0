#pragma once

#include "ops/checks.h"

namespace sm80moe::ops {

Tensor fused_moe(Tensor hidden_states, Tensor w13, Tensor w2, Tensor topk_weights, Tensor topk_ids,
                 int64_t tactic_w13, int64_t tactic_w2);
void fused_moe_out(Tensor hidden_states, Tensor w13, Tensor w2, Tensor topk_weights,
                   Tensor topk_ids, Tensor out, int64_t tactic_w13, int64_t tactic_w2);

}  // namespace sm80moe::ops
