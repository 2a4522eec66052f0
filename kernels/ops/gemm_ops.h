#pragma once

#include <optional>

#include "ops/checks.h"

namespace sm80moe::ops {

Tensor grouped_gemm(Tensor a, Tensor w, Tensor expert_offsets, std::optional<Tensor> row_index,
                    int64_t top_k, int64_t epilogue, int64_t tactic);

}  // namespace sm80moe::ops
