// The operators' registration: schemas from the one list that Python shares, implementations by
// dispatch key. CPU implementations and fakes are Python's.

#include <torch/csrc/stable/library.h>

#include "ops/fused_moe.h"
#include "ops/gemm_ops.h"
#include "ops/grouped_mm.h"
#include "ops/int8_rows.h"
#include "ops/routing_ops.h"
#include "ops/settings.h"
#include "ops/tactic_ops.h"

#ifndef SM80MOE_NAMESPACE
#define SM80MOE_NAMESPACE sm80moe
#endif

// Torch's macros paste their arguments as they are written in older versions: one more level
// expands the name first.
#define SM80MOE_LIBRARY(ns, m) STABLE_TORCH_LIBRARY(ns, m)
#define SM80MOE_LIBRARY_IMPL(ns, key, m) STABLE_TORCH_LIBRARY_IMPL(ns, key, m)

SM80MOE_LIBRARY(SM80MOE_NAMESPACE, m) {
#include "schemas.inc"
}

SM80MOE_LIBRARY_IMPL(SM80MOE_NAMESPACE, CUDA, m) {
  namespace ops = sm80moe::ops;
  m.impl("fused_moe", TORCH_BOX(&ops::fused_moe));
  m.impl("fused_moe_out", TORCH_BOX(&ops::fused_moe_out));
  m.impl("fused_moe_quantized_out", TORCH_BOX(&ops::fused_moe_quantized_out));
  m.impl("fused_moe_quantized", TORCH_BOX(&ops::fused_moe_quantized));
  m.impl("topk_route", TORCH_BOX(&ops::topk_route));
  m.impl("sort_by_expert", TORCH_BOX(&ops::sort_by_expert));
  m.impl("grouped_gemm", TORCH_BOX(&ops::grouped_gemm));
  m.impl("grouped_mm", TORCH_BOX(&ops::grouped_mm));
  m.impl("grouped_gemm_quantized", TORCH_BOX(&ops::grouped_gemm_quantized));
  m.impl("quantize_activations", TORCH_BOX(&ops::quantize_activations));
  m.impl("combine", TORCH_BOX(&ops::combine));
}

SM80MOE_LIBRARY_IMPL(SM80MOE_NAMESPACE, CompositeExplicitAutograd, m) {
  namespace ops = sm80moe::ops;
  m.impl("tactic_table", TORCH_BOX(&ops::tactic_table));
  m.impl("select_tactic", TORCH_BOX(&ops::select_tactic));
  m.impl("set_tuning", TORCH_BOX(&ops::set_tuning));
  m.impl("decode_limit", TORCH_BOX(&ops::decode_limit));
  m.impl("workspace_size", TORCH_BOX(&ops::workspace_size));
  m.impl("configure", TORCH_BOX(&ops::configure));
}
