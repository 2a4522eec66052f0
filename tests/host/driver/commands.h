#pragma once
// Each command fills tensors, calls a launcher of kernels/, and compares with fp64.

#include "driver/options.h"

namespace driver {

void run_list(const Options& options);
void run_gemm(const Options& options);
void run_int8_gemm(const Options& options);
void run_quantize(const Options& options);
void run_topk(const Options& options);
void run_sort(const Options& options);
void run_combine(const Options& options);
void run_ends(const Options& options);
void run_decode(const Options& options);
void run_plan(const Options& options);
void run_dequantize(const Options& options);
void run_read_ceiling(const Options& options);
void run_mma_ceiling(const Options& options);
void run_selftest(const Options& options);
// A program that holds a single kernel has no tables to select from, and leaves this out.
[[gnu::weak]] void run_select(const Options& options);

}  // namespace driver
