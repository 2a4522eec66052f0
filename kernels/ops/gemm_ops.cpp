#include "ops/gemm_ops.h"

#include <limits>

#include "ops/int8_rows.h"
#include "ops/packed_weight.h"
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

// The arguments of one call; packed weights have more.
struct GemmCall {
  const Tensor &a, &w, &expert_offsets;
  const std::optional<Tensor>& row_index;
  int64_t top_k, epilogue;
  const EpilogueOptions& options;
  const std::optional<Tensor>& row_scale;
  int64_t tactic;
  const PackedWeight* packed = nullptr;

  gemm::EpilogueKind kind() const { return static_cast<gemm::EpilogueKind>(epilogue); }
  bool is_gated() const { return gemm::is_gated(kind()); }
  int64_t gates() const { return is_gated() ? 2 : 1; }
  int64_t num_rows() const { return row_index ? row_index->size(0) : a.size(0); }
  bool is_w8a8() const { return packed && meets_int8(packed_format(*packed)); }
};

void check_weights(const Checker& check, const GemmCall& call) {
  if (call.packed)
    return check_packed(check, "w", call.w, *call.packed, call.a.size(1), "a", call.a);
  check.dtype("w", call.w, {call.a.scalar_type()});
  check.shape("w", call.w, {"E", "N", call.a.size(1)});
  check.num_experts("w", call.w.size(0));
  check.rows("w", call.w);
  check.same_device("w", call.w, "a", call.a);
}

void check_call(const Checker& check, const GemmCall& call) {
  const auto& [a, w, expert_offsets, row_index, top_k, epilogue, options, row_scale, tactic,
               packed] = call;
  check.dtype("a", a, {ScalarType::Half, ScalarType::BFloat16});
  check.dtype("expert_offsets", expert_offsets, {ScalarType::Int});
  if (row_index) check.dtype("row_index", *row_index, {ScalarType::Int});
  check.shape("a", a, {"S", "K"});
  check.multiple("a", -1, a.size(1), kRowMultiple);
  check_weights(check, call);
  check.shape("expert_offsets", expert_offsets, {w.size(0) + 1});
  if (row_index) check.shape("row_index", *row_index, {"M"});

  check.between("epilogue", epilogue, 0, gemm::kNumEpilogues - 1);
  check.multiple("w", 1, w.size(1), call.gates() * kRowMultiple);
  check.between("top_k", top_k, 1, kMaxInt);
  check.num_rows(row_index ? "row_index" : "a", call.num_rows());
  check.rows("a", a);
  check.contiguous("expert_offsets", expert_offsets);
  check.same_device("expert_offsets", expert_offsets, "a", a);
  if (row_index) check.contiguous("row_index", *row_index);
  if (row_index) check.same_device("row_index", *row_index, "a", a);
  if (call.kind() == gemm::plain(call.kind()))
    check_no_options(check, epilogue, options, row_scale);
  check_activation(check, call.is_gated(), options, w.size(0), "a", a);
  check.optional_rows("bias", options.bias, {w.size(0), w.size(1)}, "a", a);
  if (row_scale) {
    check.dtype("row_scale", *row_scale, {ScalarType::Float});
    check.shape("row_scale", *row_scale, {row_index ? a.size(0) * top_k : call.num_rows()});
    check.contiguous("row_scale", *row_scale);
    check.same_device("row_scale", *row_scale, "a", a);
  }
}

// The call's activations as int8; the tensor is their memory.
Tensor quantize_input(const DeviceScope& device, const GemmCall& call,
                      gemm::GroupedGemmArgs& args) {
  const Tensor& a = call.a;
  const Int8Range* range = int8_range(call.packed->input);
  Tensor memory = device.empty({dense_int8_bytes(a.size(0), a.size(1))}, ScalarType::Byte);
  const Int8Rows rows = dense_int8_rows(memory.data_ptr(), a.size(0), a.size(1));
  quantize_rows(device, a.data_ptr(), a.stride(0), element_type(a), range, rows);
  set_int8_rows(args, rows, range, element_type(a));
  return memory;
}

Tensor run_call(const Checker& check, const GemmCall& call) {
  const Tensor& a = call.a;
  const DeviceScope device(check, a);
  const int64_t num_rows = call.num_rows(), out_n = call.w.size(1) / call.gates();
  Tensor out = device.empty({num_rows, out_n}, a.scalar_type());
  if (num_rows == 0) return out;
  const Tensor tile_counter = device.empty({1}, ScalarType::Int);
  device.check_cuda(cudaMemsetAsync(tile_counter.data_ptr(), 0, sizeof(int32_t), device.stream()));
  // Rows that no expert owns are zero.
  device.check_cuda(
      cudaMemsetAsync(out.data_ptr(), 0, num_rows * out_n * a.element_size(), device.stream()));

  gemm::GroupedGemmArgs args{};
  const ColumnRows rows =
      call.is_gated() ? gate_up_rows(call.options.gate_up_order, call.w.size(1)) : kOneRow;
  set_weights(args, call.w, rows);
  if (call.packed) set_packed(args, *call.packed, rows, a.size(1));
  set_activations(args, a.data_ptr(), a.size(0), a.stride(0));
  std::optional<Tensor> int8_rows;
  if (call.is_w8a8() && a.size(0) > 0) int8_rows = quantize_input(device, call, args);
  args.expert_offsets = static_cast<const int32_t*>(call.expert_offsets.data_ptr());
  if (call.row_index) args.row_index = static_cast<const int32_t*>(call.row_index->data_ptr());
  args.tile_counter = static_cast<int32_t*>(tile_counter.data_ptr());
  args.top_k = static_cast<int>(call.top_k);
  args.num_rows = static_cast<int>(num_rows);
  args.out = out.data_ptr();
  args.epilogue = epilogue_args(call.options, rows);
  // Packed weights have one kernel, and that one an activation.
  if (call.kind() == gemm::EpilogueKind::kStore)
    args.epilogue.activation = ActivationKind::kIdentity;
  if (call.row_scale) args.row_scale = static_cast<const float*>(call.row_scale->data_ptr());
  args.row_scale_stride = call.row_index ? call.top_k : 1;
  run_gemm(check, device, args, element_type(a), call.kind(), "tactic", call.tactic);
  return out;
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
  const GemmCall call{a, w, expert_offsets, row_index, top_k, epilogue, options, row_scale, tactic};
  check_call(check, call);
  return run_call(check, call);
}

Tensor grouped_gemm_quantized(Tensor a, Tensor w, Tensor w_scale, std::optional<Tensor> w_codes,
                              Tensor expert_offsets, std::optional<Tensor> row_index,
                              int64_t weight_format, int64_t group_size,
                              std::optional<Tensor> w_input, int64_t top_k, int64_t epilogue,
                              std::optional<Tensor> bias, int64_t activation, int64_t gate_up_order,
                              std::optional<Tensor> swiglu_alpha, std::optional<Tensor> swiglu_beta,
                              std::optional<Tensor> swiglu_limit, std::optional<Tensor> row_scale,
                              int64_t tactic) {
  const Checker check("grouped_gemm_quantized");
  const EpilogueOptions options{bias,         activation,  gate_up_order,
                                swiglu_alpha, swiglu_beta, swiglu_limit};
  const PackedWeight packed{w_scale, w_codes, {weight_format, group_size}, w_input};
  const GemmCall call{a,        w,       expert_offsets, row_index, top_k,
                      epilogue, options, row_scale,      tactic,    &packed};
  check_call(check, call);
  return run_call(check, call);
}

}  // namespace sm80moe::ops
