#include "ops/fused_moe.h"

#include "ops/run_gemm.h"
#include "routing/routing.h"

namespace sm80moe::ops {
namespace {

// The arguments of one call, checked.
struct Layer {
  const Tensor &hidden_states, &w13, &w2, &topk_weights, &topk_ids;
  int64_t tactic_w13, tactic_w2;

  int64_t num_tokens() const { return hidden_states.size(0); }
  int64_t hidden_size() const { return hidden_states.size(1); }
  int64_t intermediate_size() const { return w2.size(2); }
  int64_t num_experts() const { return w13.size(0); }
  int64_t top_k() const { return topk_ids.size(1); }
  int64_t num_rows() const { return num_tokens() * top_k(); }
};

void check_layer(const Checker& check, const Layer& layer) {
  const auto& [hidden_states, w13, w2, topk_weights, topk_ids, tactic_w13, tactic_w2] = layer;
  check.dtype("hidden_states", hidden_states, {ScalarType::Half, ScalarType::BFloat16});
  check.dtype("w13", w13, {hidden_states.scalar_type()});
  check.dtype("w2", w2, {hidden_states.scalar_type()});
  check.dtype("topk_weights", topk_weights, {ScalarType::Float});
  check.dtype("topk_ids", topk_ids, {ScalarType::Int, ScalarType::Long});

  check.shape("hidden_states", hidden_states, {"T", "H"});
  check.shape("w13", w13, {"E", "2I", hidden_states.size(1)});
  check.shape("w2", w2, {w13.size(0), hidden_states.size(1), w13.size(1) / 2});
  check.shape("topk_ids", topk_ids, {hidden_states.size(0), "k"});
  check.shape("topk_weights", topk_weights, {hidden_states.size(0), topk_ids.size(1)});

  check.num_experts("w13", w13.size(0));
  check.multiple("hidden_states", -1, hidden_states.size(1), kRowMultiple);
  check.multiple("w13", 1, w13.size(1), 2 * kRowMultiple);
  check.at_least_one_column("topk_ids", topk_ids);
  check.num_rows("topk_ids", topk_ids.numel());
  check.rows("hidden_states", hidden_states);
  check.rows("w13", w13);
  check.rows("w2", w2);
  check.contiguous_last_dimension("topk_weights", topk_weights);
  check.contiguous_last_dimension("topk_ids", topk_ids);
  check.same_device("topk_weights", topk_weights, "hidden_states", hidden_states);
  check.same_device("topk_ids", topk_ids, "hidden_states", hidden_states);
  check.same_device("w13", w13, "hidden_states", hidden_states);
  check.same_device("w2", w2, "hidden_states", hidden_states);
}

// One allocation, cut into the buffers of a call.
class Workspace {
 public:
  Workspace(const DeviceScope& device, const Layer& layer, size_t element_size) {
    const int64_t rows = layer.num_rows();
    const int64_t scratch =
        routing::sort_scratch_ints(static_cast<int>(rows), static_cast<int>(layer.num_experts()));
    const int64_t intermediate_at = 0;
    const int64_t rows_at = end(intermediate_at, rows * layer.intermediate_size() * element_size);
    const int64_t offsets_at = end(rows_at, rows * layer.hidden_size() * element_size);
    const int64_t index_at = end(offsets_at, (layer.num_experts() + 1) * sizeof(int32_t));
    const int64_t position_at = end(index_at, rows * sizeof(int32_t));
    const int64_t scratch_at = end(position_at, rows * sizeof(int32_t));
    buffer_ = device.empty({end(scratch_at, scratch * sizeof(int32_t))}, ScalarType::Byte);

    auto* base = static_cast<char*>(buffer_.data_ptr());
    intermediate = base + intermediate_at;
    expert_rows = base + rows_at;
    expert_offsets = reinterpret_cast<int32_t*>(base + offsets_at);
    row_index = reinterpret_cast<int32_t*>(base + index_at);
    row_position = reinterpret_cast<int32_t*>(base + position_at);
    sort_scratch = reinterpret_cast<int32_t*>(base + scratch_at);
  }

  void* intermediate;  // [M, I]
  void* expert_rows;   // [M, H]
  int32_t* expert_offsets;
  int32_t* row_index;
  int32_t* row_position;
  int32_t* sort_scratch;

 private:
  static int64_t end(int64_t begin, int64_t bytes) {
    constexpr int64_t kLine = 256;
    return (begin + bytes + kLine - 1) / kLine * kLine;
  }

  Tensor buffer_;
};

cudaError_t sort(const DeviceScope& device, const Layer& layer, const Workspace& work) {
  routing::SortArgs args{};
  args.topk_ids = layer.topk_ids.data_ptr();
  args.ids_row_stride = layer.topk_ids.stride(0);
  args.ids_are_int64 = layer.topk_ids.scalar_type() == ScalarType::Long;
  args.num_pairs = static_cast<int>(layer.num_rows());
  args.top_k = static_cast<int>(layer.top_k());
  args.num_experts = static_cast<int>(layer.num_experts());
  args.expert_offsets = work.expert_offsets;
  args.row_index = work.row_index;
  args.row_position = work.row_position;
  args.scratch = work.sort_scratch;
  return routing::sort_by_expert(args, device.stream());
}

// intermediate = silu(gate) * up of the gathered rows
gemm::GroupedGemmArgs first_gemm(const Layer& layer, const Workspace& work) {
  gemm::GroupedGemmArgs args{};
  set_weights(args, layer.w13);
  set_activations(args, layer.hidden_states.data_ptr(), layer.num_tokens(),
                  layer.hidden_states.stride(0));
  args.row_index = work.row_index;
  args.top_k = static_cast<int>(layer.top_k());
  args.expert_offsets = work.expert_offsets;
  args.num_rows = static_cast<int>(layer.num_rows());
  args.out = work.intermediate;
  return args;
}

// expert_rows = intermediate @ w2.T
gemm::GroupedGemmArgs second_gemm(const Layer& layer, const Workspace& work) {
  gemm::GroupedGemmArgs args{};
  set_weights(args, layer.w2);
  set_activations(args, work.intermediate, layer.num_rows(), layer.intermediate_size());
  args.top_k = 1;
  args.expert_offsets = work.expert_offsets;
  args.num_rows = static_cast<int>(layer.num_rows());
  args.out = work.expert_rows;
  return args;
}

cudaError_t combine(const DeviceScope& device, const Layer& layer, const Workspace& work,
                    const Tensor& out, ElementType type) {
  routing::CombineArgs args{};
  args.rows = work.expert_rows;
  args.topk_weights = static_cast<const float*>(layer.topk_weights.data_ptr());
  args.row_position = work.row_position;
  args.out = out.data_ptr();
  args.rows_stride = layer.hidden_size();
  args.weights_row_stride = layer.topk_weights.stride(0);
  args.out_stride = out.stride(0);
  args.num_rows = static_cast<int>(layer.num_rows());
  args.num_tokens = static_cast<int>(layer.num_tokens());
  args.top_k = static_cast<int>(layer.top_k());
  args.hidden_size = static_cast<int>(layer.hidden_size());
  return routing::combine(args, type, device.stream());
}

void run(const Checker& check, const DeviceScope& device, const Layer& layer, const Tensor& out) {
  if (layer.num_tokens() == 0) return;
  const ElementType type = element_type(layer.hidden_states);
  const Workspace work(device, layer, layer.hidden_states.element_size());
  device.check_cuda(sort(device, layer, work));
  run_gemm(check, device, first_gemm(layer, work), type, gemm::EpilogueKind::kSwiglu, "tactic_w13",
           layer.tactic_w13);
  run_gemm(check, device, second_gemm(layer, work), type, gemm::EpilogueKind::kStore, "tactic_w2",
           layer.tactic_w2);
  device.check_cuda(combine(device, layer, work, out, type));
}

}  // namespace

Tensor fused_moe(Tensor hidden_states, Tensor w13, Tensor w2, Tensor topk_weights, Tensor topk_ids,
                 int64_t tactic_w13, int64_t tactic_w2) {
  const Checker check("fused_moe");
  const Layer layer{hidden_states, w13, w2, topk_weights, topk_ids, tactic_w13, tactic_w2};
  check_layer(check, layer);
  const DeviceScope device(check, hidden_states);
  Tensor out = device.empty({layer.num_tokens(), layer.hidden_size()}, hidden_states.scalar_type());
  run(check, device, layer, out);
  return out;
}

void fused_moe_out(Tensor hidden_states, Tensor w13, Tensor w2, Tensor topk_weights,
                   Tensor topk_ids, Tensor out, int64_t tactic_w13, int64_t tactic_w2) {
  const Checker check("fused_moe_out");
  const Layer layer{hidden_states, w13, w2, topk_weights, topk_ids, tactic_w13, tactic_w2};
  check_layer(check, layer);
  check.dtype("out", out, {hidden_states.scalar_type()});
  check.shape("out", out, {layer.num_tokens(), layer.hidden_size()});
  check.rows("out", out);
  check.distinct_rows("out", out);
  check.same_device("out", out, "hidden_states", hidden_states);
  run(check, DeviceScope(check, hidden_states), layer, out);
}

}  // namespace sm80moe::ops
