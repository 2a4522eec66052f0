#pragma once

#include "ops/checks.h"

namespace sm80moe::ops {

Tensor tactic_table();
int64_t select_tactic(int64_t num_rows, int64_t num_experts, int64_t n, int64_t k, int64_t epilogue,
                      int64_t dtype, int64_t device_index, bool batch_invariant);
int64_t decode_limit(int64_t num_experts, int64_t hidden_size, int64_t intermediate_size,
                     int64_t device_index);

// Rows of `measurements`: dtype, epilogue, num_experts, n, k, num_rows, tactic.
void set_tuning(Tensor measurements, int64_t device_index);

}  // namespace sm80moe::ops
