#pragma once

#include <optional>

#include "ops/checks.h"

namespace sm80moe::ops {

Tensor grouped_gemm(Tensor a, Tensor w, Tensor expert_offsets, std::optional<Tensor> row_index,
                    int64_t top_k, int64_t epilogue, int64_t tactic);
Tensor tactic_table();
int64_t select_tactic(int64_t num_rows, int64_t num_experts, int64_t n, int64_t k, int64_t epilogue,
                      int64_t device_index);

}  // namespace sm80moe::ops
