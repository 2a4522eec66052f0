#pragma once

#include <optional>

#include "ops/checks.h"

namespace sm80moe::ops {

Tensor grouped_gemm(Tensor a, Tensor w, Tensor expert_offsets, std::optional<Tensor> row_index,
                    int64_t top_k, int64_t epilogue, std::optional<Tensor> bias, int64_t activation,
                    int64_t gate_up_order, std::optional<Tensor> swiglu_alpha,
                    std::optional<Tensor> swiglu_beta, std::optional<Tensor> swiglu_limit,
                    std::optional<Tensor> row_scale, int64_t tactic);
Tensor grouped_gemm_quantized(Tensor a, Tensor w, Tensor w_scale, std::optional<Tensor> w_codes,
                              Tensor expert_offsets, std::optional<Tensor> row_index,
                              int64_t weight_format, int64_t group_size,
                              std::optional<Tensor> w_input, int64_t top_k, int64_t epilogue,
                              std::optional<Tensor> bias, int64_t activation, int64_t gate_up_order,
                              std::optional<Tensor> swiglu_alpha, std::optional<Tensor> swiglu_beta,
                              std::optional<Tensor> swiglu_limit, std::optional<Tensor> row_scale,
                              int64_t tactic);

}  // namespace sm80moe::ops
