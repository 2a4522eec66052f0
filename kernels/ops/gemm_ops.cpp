#include "ops/gemm_ops.h"

#include <limits>

#include "ops/run_gemm.h"

namespace sm80moe::ops {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
constexpr const char* kEpilogueNames[gemm::kNumEpilogues] = {"none", "swiglu", "gated", "ungated"};

// Those of the epilogues without options.
void check_no_options(const Checker& check, int64_t epilogue, const EpilogueOptions& options,
                      const std::optional<Tensor>& row_scale) {
  const auto fail = [&](const char* name, const char* wanted, const auto& got) {
    check.fail(name, " must be ", wanted, " for the epilogue \"", kEpilogueNames[epilogue],
               "\", got ", got);
  };
  if (options.bias) fail("bias", "None", "a tensor");
  if (options.activation != 0) fail("activation", "0", options.activation);
  if (options.swiglu_alpha) fail("swiglu_alpha", "None", "a tensor");
  if (options.swiglu_beta) fail("swiglu_beta", "None", "a tensor");
  if (options.swiglu_limit) fail("swiglu_limit", "None", "a tensor");
  if (row_scale) fail("row_scale", "None", "a tensor");
}

}  // namespace

Tensor grouped_gemm(Tensor a, Tensor w, Tensor expert_offsets, std::optional<Tensor> row_index,
                    int64_t top_k, int64_t epilogue, std::optional<Tensor> bias, int64_t activation,
                    int64_t gate_up_order, std::optional<Tensor> swiglu_alpha,
                    std::optional<Tensor> swiglu_beta, std::optional<Tensor> swiglu_limit,
                    std::optional<Tensor> row_scale, int64_t tactic) {
  const Checker check("grouped_gemm");
  const EpilogueOptions options{bias,         activation,  gate_up_order,
                                swiglu_alpha, swiglu_beta, swiglu_limit};
  check.dtype("a", a, {ScalarType::Half, ScalarType::BFloat16});
  check.dtype("w", w, {a.scalar_type()});
  check.dtype("expert_offsets", expert_offsets, {ScalarType::Int});
  if (row_index) check.dtype("row_index", *row_index, {ScalarType::Int});

  check.shape("a", a, {"S", "K"});
  check.shape("w", w, {"E", "N", a.size(1)});
  check.shape("expert_offsets", expert_offsets, {w.size(0) + 1});
  if (row_index) check.shape("row_index", *row_index, {"M"});

  check.num_experts("w", w.size(0));
  check.between("epilogue", epilogue, 0, gemm::kNumEpilogues - 1);
  check.multiple("a", -1, a.size(1), kRowMultiple);
  const auto kind = static_cast<gemm::EpilogueKind>(epilogue);
  const bool is_gated = gemm::is_gated(kind);
  const int64_t gates = is_gated ? 2 : 1;
  check.multiple("w", 1, w.size(1), gates * kRowMultiple);
  check.between("top_k", top_k, 1, kMaxInt);
  const int64_t num_rows = row_index ? row_index->size(0) : a.size(0);
  check.num_rows(row_index ? "row_index" : "a", num_rows);

  check.rows("a", a);
  check.rows("w", w);
  check.contiguous("expert_offsets", expert_offsets);
  check.same_device("w", w, "a", a);
  check.same_device("expert_offsets", expert_offsets, "a", a);
  if (row_index) check.contiguous("row_index", *row_index);
  if (row_index) check.same_device("row_index", *row_index, "a", a);
  if (kind == gemm::plain(kind)) check_no_options(check, epilogue, options, row_scale);
  check_activation(check, is_gated, options, w.size(0), "a", a);
  check.optional_rows("bias", bias, {w.size(0), w.size(1)}, "a", a);
  if (row_scale) {
    check.dtype("row_scale", *row_scale, {ScalarType::Float});
    check.shape("row_scale", *row_scale, {row_index ? a.size(0) * top_k : num_rows});
    check.contiguous("row_scale", *row_scale);
    check.same_device("row_scale", *row_scale, "a", a);
  }

  const DeviceScope device(check, a);
  const int64_t out_n = w.size(1) / gates;
  Tensor out = device.empty({num_rows, out_n}, a.scalar_type());
  if (num_rows == 0) return out;
  const Tensor tile_counter = device.empty({1}, ScalarType::Int);
  device.check_cuda(cudaMemsetAsync(tile_counter.data_ptr(), 0, sizeof(int32_t), device.stream()));
  // Rows that no expert owns are zero.
  device.check_cuda(
      cudaMemsetAsync(out.data_ptr(), 0, num_rows * out_n * a.element_size(), device.stream()));

  gemm::GroupedGemmArgs args{};
  const ColumnRows rows = is_gated ? gate_up_rows(gate_up_order, w.size(1)) : kOneRow;
  set_weights(args, w, rows);
  set_activations(args, a.data_ptr(), a.size(0), a.stride(0));
  args.expert_offsets = static_cast<const int32_t*>(expert_offsets.data_ptr());
  if (row_index) args.row_index = static_cast<const int32_t*>(row_index->data_ptr());
  args.tile_counter = static_cast<int32_t*>(tile_counter.data_ptr());
  args.top_k = static_cast<int>(top_k);
  args.num_rows = static_cast<int>(num_rows);
  args.out = out.data_ptr();
  args.epilogue = epilogue_args(options, rows);
  if (row_scale) args.row_scale = static_cast<const float*>(row_scale->data_ptr());
  args.row_scale_stride = row_index ? top_k : 1;
  run_gemm(check, device, args, element_type(a), kind, "tactic", tactic);
  return out;
}

}  // namespace sm80moe::ops
