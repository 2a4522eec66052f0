#pragma once

#include "gemm/problem.h"
#include "gemm/select_tactic.h"
#include "ops/device.h"
#include "ops/epilogue_options.h"

namespace sm80moe::ops {

// Points `args` at W [E, N, K].
void set_weights(gemm::GroupedGemmArgs& args, const Tensor& w, const ColumnRows& rows);

// Points `args` at A, `row_stride` elements from row to row.
void set_activations(gemm::GroupedGemmArgs& args, const void* a, int64_t num_rows,
                     int64_t row_stride);

// Launches the GEMM with `tactic`, or with the one selected for its shape when that is kSelect.
// `argument` is how the caller knows the tactic, for errors. `among`: which will do.
inline constexpr int64_t kSelect = -1;
void run_gemm(const Checker& check, const DeviceScope& device, gemm::GroupedGemmArgs args,
              ElementType type, gemm::EpilogueKind epilogue, const char* argument, int64_t tactic,
              gemm::Tactics among = gemm::Tactics::kAll);

}  // namespace sm80moe::ops
