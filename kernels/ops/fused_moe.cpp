#include "ops/fused_moe.h"

#include <limits>

#include "decode/decode.h"
#include "ops/int8_rows.h"
#include "ops/packed_weight.h"
#include "ops/run_gemm.h"
#include "ops/settings.h"
#include "plan/chunks.h"
#include "routing/routing.h"

namespace sm80moe::ops {
namespace {

// The keyword arguments of a call, but for the tactics.
struct LayerOptions {
  const std::optional<Tensor>&expert_map, &w13_bias, &w2_bias;
  bool gated;
  int64_t activation, gate_up_order;
  const std::optional<Tensor>&swiglu_alpha, &swiglu_beta, &swiglu_limit;
  bool apply_router_weight_on_input;
  const std::optional<Tensor>& residual;
  bool batch_invariant;
};

// What both weights have beside them if they are packed.
struct PackedWeights {
  PackedWeight w13, w2;
};

// The arguments of one call, checked.
struct Layer {
  const Tensor &hidden_states, &w13, &w2, &topk_weights, &topk_ids;
  const LayerOptions& options;
  int64_t tactic_w13, tactic_w2;
  const PackedWeights* packed = nullptr;

  int64_t num_tokens() const { return hidden_states.size(0); }
  int64_t hidden_size() const { return hidden_states.size(1); }
  int64_t intermediate_size() const { return w13.size(1) / gates(); }
  int64_t num_experts() const { return w13.size(0); }
  int64_t top_k() const { return topk_ids.size(1); }
  // Rows of W13 that make a column of the intermediate.
  int64_t gates() const { return options.gated ? 2 : 1; }
  EpilogueOptions epilogue() const {
    return {options.w13_bias,     options.activation,  options.gate_up_order,
            options.swiglu_alpha, options.swiglu_beta, options.swiglu_limit};
  }
  WeightFormat weight_format() const {
    return packed ? packed_format(packed->w13) : WeightFormat::kDense;
  }
  bool is_w8a8() const { return meets_int8(weight_format()); }
  // Whether the first GEMM does nothing but SwiGLU, in whatever order.
  bool is_plain() const {
    return options.gated && epilogue().is_plain() && !options.apply_router_weight_on_input;
  }
  plan::LayerShape shape() const {
    return {num_tokens(), num_experts(), top_k(), hidden_size(), intermediate_size()};
  }
};

void check_dense_weights(const Checker& check, const Layer& layer) {
  const Tensor &hidden_states = layer.hidden_states, &w13 = layer.w13, &w2 = layer.w2;
  check.dtype("w13", w13, {hidden_states.scalar_type()});
  check.dtype("w2", w2, {hidden_states.scalar_type()});
  check.shape("w13", w13, {"E", layer.options.gated ? "2I" : "I", hidden_states.size(1)});
  check.shape("w2", w2, {w13.size(0), hidden_states.size(1), w13.size(1) / layer.gates()});
  check.num_experts("w13", w13.size(0));
}

// Once the sizes are right: a row of a wrong size has a wrong stride, too.
void check_dense_rows(const Checker& check, const Layer& layer) {
  check.rows("w13", layer.w13);
  check.rows("w2", layer.w2);
  check.same_device("w13", layer.w13, "hidden_states", layer.hidden_states);
  check.same_device("w2", layer.w2, "hidden_states", layer.hidden_states);
}

void check_packed_weights(const Checker& check, const Layer& layer) {
  const Tensor& x = layer.hidden_states;
  check_packed(check, "w13", layer.w13, layer.packed->w13, layer.hidden_size(), "hidden_states", x);
  check_packed(check, "w2", layer.w2, layer.packed->w2, layer.intermediate_size(), "hidden_states",
               x);
  check.shape("w2", layer.w2, {layer.num_experts(), layer.hidden_size(), layer.w2.size(2)});
  const bool is_static = layer.packed->w13.input.has_value();
  if (layer.packed->w2.input.has_value() != is_static)
    check.fail("w2_input must be ", is_static ? "a tensor" : "None", " like w13_input, got ",
               is_static ? "None" : "a tensor");
}

void check_layer(const Checker& check, const Layer& layer) {
  const auto& [hidden_states, w13, w2, topk_weights, topk_ids, options, tactic_w13, tactic_w2,
               packed] = layer;
  check.dtype("hidden_states", hidden_states, {ScalarType::Half, ScalarType::BFloat16});
  check.dtype("topk_weights", topk_weights, {ScalarType::Float});
  check.dtype("topk_ids", topk_ids, {ScalarType::Int, ScalarType::Long});

  check.shape("hidden_states", hidden_states, {"T", "H"});
  if (packed == nullptr)
    check_dense_weights(check, layer);
  else
    check_packed_weights(check, layer);
  check.shape("topk_ids", topk_ids, {hidden_states.size(0), "k"});
  check.shape("topk_weights", topk_weights, {hidden_states.size(0), topk_ids.size(1)});

  check.multiple("hidden_states", -1, hidden_states.size(1), kRowMultiple);
  check.multiple("w13", 1, w13.size(1), layer.gates() * kRowMultiple);
  check.at_least_one_column("topk_ids", topk_ids);
  check.num_rows("topk_ids", topk_ids.numel());
  check.rows("hidden_states", hidden_states);
  if (packed == nullptr) check_dense_rows(check, layer);
  check.contiguous_last_dimension("topk_weights", topk_weights);
  check.contiguous_last_dimension("topk_ids", topk_ids);
  check.same_device("topk_weights", topk_weights, "hidden_states", hidden_states);
  check.same_device("topk_ids", topk_ids, "hidden_states", hidden_states);
  check.expert_map(options.expert_map, topk_ids);

  const char* leader = "hidden_states";
  const int64_t num_experts = w13.size(0), hidden_size = hidden_states.size(1);
  check_activation(check, options.gated, layer.epilogue(), num_experts, leader, hidden_states);
  check.optional_rows("w13_bias", options.w13_bias, {num_experts, w13.size(1)}, leader,
                      hidden_states);
  check.optional_rows("w2_bias", options.w2_bias, {num_experts, hidden_size}, leader,
                      hidden_states);
  check.optional_rows("residual", options.residual, {hidden_states.size(0), hidden_size}, leader,
                      hidden_states);
}

// Tokens that are processed at once, and the result's rows for them.
struct Chunk {
  Chunk(const Layer& layer, const Tensor& out, int64_t begin, int64_t end)
      : layer(layer),
        hidden_states(row(layer.hidden_states, begin)),
        topk_weights(row(layer.topk_weights, begin)),
        topk_ids(expert_ids(layer.topk_ids, layer.options.expert_map, layer.num_experts())),
        residual(row(layer.options.residual, begin)),
        out(row(out, begin)),
        out_stride(out.stride(0)),
        num_tokens(end - begin) {
    topk_ids.ids = row(layer.topk_ids, begin);
  }

  static void* row(const Tensor& t, int64_t index) {
    return static_cast<char*>(t.data_ptr()) + index * t.stride(0) * t.element_size();
  }
  static void* row(const std::optional<Tensor>& t, int64_t index) {
    return t.has_value() ? row(*t, index) : nullptr;
  }
  int num_rows() const { return static_cast<int>(num_tokens * layer.top_k()); }

  const Layer& layer;
  void *hidden_states, *topk_weights;
  ExpertIds topk_ids;
  void* residual;  // or null
  void* out;
  int64_t out_stride;
  int64_t num_tokens;
};

// One allocation, cut into the buffers of a chunk.
class Workspace {
 public:
  Workspace(const DeviceScope& device, const plan::WorkspaceLayout& layout)
      : buffer_(device.empty({layout.size}, ScalarType::Byte)) {
    auto* base = static_cast<char*>(buffer_.data_ptr());
    intermediate = base + layout.intermediate;
    intermediate_scale = reinterpret_cast<float*>(base + layout.intermediate_scale);
    expert_rows = base + layout.expert_rows;
    expert_offsets = reinterpret_cast<int32_t*>(base + layout.expert_offsets);
    row_index = reinterpret_cast<int32_t*>(base + layout.row_index);
    row_position = reinterpret_cast<int32_t*>(base + layout.row_position);
    tile_counters = reinterpret_cast<int32_t*>(base + layout.tile_counters);
  }

  void *intermediate, *expert_rows;
  float* intermediate_scale;
  int32_t *expert_offsets, *row_index, *row_position, *tile_counters;

 private:
  Tensor buffer_;
};

cudaError_t sort(const DeviceScope& device, const Chunk& chunk, const Workspace& work) {
  const Layer& layer = chunk.layer;
  routing::SortArgs args{};
  args.topk_ids = chunk.topk_ids;
  args.num_pairs = chunk.num_rows();
  args.top_k = static_cast<int>(layer.top_k());
  args.num_experts = static_cast<int>(layer.num_experts());
  args.expert_offsets = work.expert_offsets;
  args.row_index = work.row_index;
  args.row_position = work.row_position;
  args.counters = work.tile_counters;
  args.num_counters = plan::kNumTileCounters;
  return routing::sort_by_expert(args, device.stream());
}

// What a tensor that may be missing begins with, and how far apart its rows are.
struct OptionalRows {
  explicit OptionalRows(const std::optional<Tensor>& t)
      : data(t ? t->data_ptr() : nullptr), stride(t ? t->stride(0) : 0) {}
  const void* data;
  int64_t stride;
};

// intermediate = silu(gate) * up of the gathered rows, or what options make of it
gemm::GroupedGemmArgs first_gemm(const Chunk& chunk, const Workspace& work) {
  const Layer& layer = chunk.layer;
  const LayerOptions& options = layer.options;
  const ColumnRows rows =
      options.gated ? gate_up_rows(options.gate_up_order, layer.w13.size(1)) : kOneRow;
  gemm::GroupedGemmArgs args{};
  set_weights(args, layer.w13, rows);
  if (layer.packed) set_packed(args, layer.packed->w13, rows, layer.hidden_size());
  args.epilogue = epilogue_args(layer.epilogue(), rows);
  if (options.apply_router_weight_on_input)
    args.row_scale = static_cast<const float*>(chunk.topk_weights);
  args.row_scale_stride = layer.topk_weights.stride(0);
  set_activations(args, chunk.hidden_states, chunk.num_tokens, layer.hidden_states.stride(0));
  args.row_index = work.row_index;
  args.top_k = static_cast<int>(layer.top_k());
  args.expert_offsets = work.expert_offsets;
  args.tile_counter = work.tile_counters;
  args.num_rows = chunk.num_rows();
  args.out = work.intermediate;
  return args;
}

// expert_rows = intermediate @ w2.T
gemm::GroupedGemmArgs second_gemm(const Chunk& chunk, const Workspace& work) {
  const Layer& layer = chunk.layer;
  gemm::GroupedGemmArgs args{};
  set_weights(args, layer.w2, kOneRow);
  if (layer.packed) set_packed(args, layer.packed->w2, kOneRow, layer.intermediate_size());
  set_activations(args, work.intermediate, chunk.num_rows(), layer.intermediate_size());
  args.top_k = 1;
  args.expert_offsets = work.expert_offsets;
  args.tile_counter = work.tile_counters + 1;
  args.num_rows = chunk.num_rows();
  args.epilogue.activation =
      ActivationKind::kIdentity;  // of the one kernel that packed weights have
  args.out = work.expert_rows;
  return args;
}

// The first GEMM's activations as int8, in memory that the second GEMM will write.
Int8Rows first_int8(const Chunk& chunk, const Workspace& work) {
  return dense_int8_rows(work.expert_rows, chunk.num_tokens, chunk.layer.hidden_size());
}
// The second one's. Those of a known range the first GEMM stores. Otherwise it stores 16 bits,
// since a row's largest is known when all its tiles are, and int8 take their place.
Int8Rows second_int8(const Chunk& chunk, const Workspace& work) {
  const int64_t columns = chunk.layer.intermediate_size();
  const int64_t stride = chunk.layer.packed->w2.input ? int8_row_bytes(columns) : 2 * columns;
  auto* values = static_cast<int8_t*>(work.intermediate);
  return {values, stride, work.intermediate_scale, chunk.num_rows(), columns};
}

gemm::GroupedGemmArgs first_int8_gemm(const Chunk& chunk, const Workspace& work, ElementType type) {
  const PackedWeights& packed = *chunk.layer.packed;
  gemm::GroupedGemmArgs args = first_gemm(chunk, work);
  set_int8_rows(args, first_int8(chunk, work), int8_range(packed.w13.input), type);
  args.int8.output = packed.w2.input ? gemm::Int8Output::kInt8 : gemm::Int8Output::k16Bit;
  args.int8.out_stride = static_cast<int>(second_int8(chunk, work).row_bytes());
  args.int8.out_range = int8_range(packed.w2.input);
  return args;
}

gemm::GroupedGemmArgs second_int8_gemm(const Chunk& chunk, const Workspace& work,
                                       ElementType type) {
  gemm::GroupedGemmArgs args = second_gemm(chunk, work);
  set_int8_rows(args, second_int8(chunk, work), int8_range(chunk.layer.packed->w2.input), type);
  return args;
}

cudaError_t combine(const DeviceScope& device, const Chunk& chunk, const Workspace& work,
                    ElementType type) {
  const Layer& layer = chunk.layer;
  routing::CombineArgs args{};
  args.rows = work.expert_rows;
  args.topk_weights = static_cast<const float*>(chunk.topk_weights);
  args.row_position = work.row_position;
  args.out = chunk.out;
  args.rows_stride = layer.hidden_size();
  args.weights_row_stride = layer.topk_weights.stride(0);
  args.out_stride = chunk.out_stride;
  args.num_rows = chunk.num_rows();
  args.num_tokens = static_cast<int>(chunk.num_tokens);
  args.top_k = static_cast<int>(layer.top_k());
  args.hidden_size = static_cast<int>(layer.hidden_size());

  const OptionalRows bias(layer.options.w2_bias);
  args.unweighted = layer.options.apply_router_weight_on_input;
  args.residual = chunk.residual;
  args.residual_stride = OptionalRows(layer.options.residual).stride;
  args.bias = bias.data;
  args.bias_stride = bias.stride;
  args.topk_ids = chunk.topk_ids;
  args.num_experts = static_cast<int>(layer.num_experts());
  return routing::combine(args, type, device.stream());
}

// From one index of a dimension to the next, in units of 16 bits.
int64_t decode_stride(const Tensor& weights, int64_t dimension) {
  return weights.stride(dimension) * static_cast<int64_t>(weights.element_size()) / 2;
}

void set_decode_options(decode::LayerArgs& args, const Chunk& chunk) {
  const Layer& layer = chunk.layer;
  const LayerOptions& options = layer.options;
  const OptionalRows bias(options.w2_bias);
  // Two neighbouring columns in place of gate and up, and of W2.
  constexpr ColumnRows kNeighbours{0, 2, 1};
  const ColumnRows rows =
      options.gated ? gate_up_rows(options.gate_up_order, layer.w13.size(1)) : kNeighbours;
  const int64_t row_stride = decode_stride(layer.w13, 1);
  args.w13 = static_cast<const uint16_t*>(layer.w13.data_ptr()) + rows.first * row_stride;
  args.w13_column_stride = rows.step * row_stride;
  args.w13_second_row = rows.second * row_stride;
  if (layer.packed) {
    args.w13_packed = packed_args(layer.packed->w13, rows);
    args.w2_packed = packed_args(layer.packed->w2, kNeighbours);
  }
  args.first_half = layer.is_plain() ? decode::FirstHalf::kSwiglu
                    : options.gated  ? decode::FirstHalf::kGated
                                     : decode::FirstHalf::kUngated;
  args.epilogue = epilogue_args(layer.epilogue(), rows);
  args.weighs_input = options.apply_router_weight_on_input;
  args.residual = chunk.residual;
  args.residual_row_stride = OptionalRows(options.residual).stride;
  args.w2_bias = bias.data;
  args.w2_bias_expert_stride = bias.stride;
}

decode::LayerArgs decode_args(const Chunk& chunk, const Workspace& work) {
  const Layer& layer = chunk.layer;
  decode::LayerArgs args{};
  set_decode_options(args, chunk);
  args.hidden_states = chunk.hidden_states;
  args.w2 = layer.w2.data_ptr();
  args.topk_weights = static_cast<const float*>(chunk.topk_weights);
  args.topk_ids = chunk.topk_ids;
  args.intermediate = work.intermediate;
  args.out = chunk.out;
  args.hidden_states_row_stride = layer.hidden_states.stride(0);
  args.w13_expert_stride = decode_stride(layer.w13, 0);
  args.w2_expert_stride = decode_stride(layer.w2, 0);
  args.w2_row_stride = decode_stride(layer.w2, 1);
  args.topk_weights_row_stride = layer.topk_weights.stride(0);
  args.out_row_stride = chunk.out_stride;
  args.num_tokens = static_cast<int>(chunk.num_tokens);
  args.top_k = static_cast<int>(layer.top_k());
  args.num_experts = static_cast<int>(layer.num_experts());
  args.hidden_size = static_cast<int>(layer.hidden_size());
  args.intermediate_size = static_cast<int>(layer.intermediate_size());
  return args;
}

// From a tensor's first byte to its last.
int64_t span_bytes(const Tensor& tensor) {
  int64_t elements = 1;
  for (int64_t i = 0; i < tensor.dim(); ++i) elements += (tensor.size(i) - 1) * tensor.stride(i);
  return elements * static_cast<int64_t>(tensor.element_size());
}

// Whether the kernel for few rows runs the call. Its size decides, not that of its chunks: a limit
// on the workspace changes no kernel.
bool is_decode(const DeviceScope& device, const Layer& layer) {
  const bool is_free =
      layer.tactic_w13 == kSelect && layer.tactic_w2 == kSelect && !layer.options.batch_invariant;
  // Ranges that are known beforehand may have zero points, which those kernels do not.
  const bool has_ranges = layer.packed && layer.packed->w13.input;
  const bool can_address = span_bytes(layer.w13) <= decode::kMaxWeightBytes &&
                           span_bytes(layer.w2) <= decode::kMaxWeightBytes;
  return is_free && !has_ranges && can_address &&
         layer.shape().num_rows() <=
             decode::max_pairs(device.info(), layer.num_experts(), layer.hidden_size(),
                               layer.intermediate_size(), layer.weight_format());
}

void run_chunk(const Checker& check, const DeviceScope& device, const Chunk& chunk,
               const Workspace& work) {
  const ElementType type = element_type(chunk.layer.hidden_states);
  if (is_decode(device, chunk.layer)) {
    device.check_cuda(decode::run_layer(decode_args(chunk, work), type, device.index(),
                                        device.info(), device.stream()));
    return;
  }
  const Layer& layer = chunk.layer;
  const auto kind = layer.is_plain()      ? gemm::EpilogueKind::kSwiglu
                    : layer.options.gated ? gemm::EpilogueKind::kGated
                                          : gemm::EpilogueKind::kUngated;
  const auto among = layer.options.batch_invariant ? gemm::Tactics::kOneOrder : gemm::Tactics::kAll;
  device.check_cuda(sort(device, chunk, work));
  const bool is_w8a8 = layer.is_w8a8();
  if (is_w8a8)
    quantize_rows(device, chunk.hidden_states, layer.hidden_states.stride(0), type,
                  int8_range(layer.packed->w13.input), first_int8(chunk, work));
  run_gemm(check, device, is_w8a8 ? first_int8_gemm(chunk, work, type) : first_gemm(chunk, work),
           type, kind, "tactic_w13", layer.tactic_w13, among);
  if (is_w8a8 && !layer.packed->w2.input)
    quantize_rows(device, work.intermediate, layer.intermediate_size(), type, nullptr,
                  second_int8(chunk, work));
  run_gemm(check, device, is_w8a8 ? second_int8_gemm(chunk, work, type) : second_gemm(chunk, work),
           type, gemm::EpilogueKind::kStore, "tactic_w2", layer.tactic_w2, among);
  device.check_cuda(combine(device, chunk, work, type));
}

plan::Chunks plan_chunks(const Checker& check, const plan::LayerShape& shape) {
  const int64_t limit = workspace_limit();
  const plan::Chunks chunks = plan::plan_chunks(shape, limit);
  if (chunks.count == 0)
    check.fail("workspace_limit must hold the rows of one token, got ", limit, " bytes");
  return chunks;
}

// Chunks follow one another on the stream, so they can share a workspace.
void run(const Checker& check, const DeviceScope& device, const Layer& layer, const Tensor& out) {
  if (layer.num_tokens() == 0) return;
  const plan::Chunks chunks = plan_chunks(check, layer.shape());
  const Workspace work(device, plan::workspace_layout(chunks.shape()));
  for (int64_t i = 0; i < chunks.count; ++i)
    run_chunk(check, device, Chunk(layer, out, chunks.begin(i), chunks.begin(i + 1)), work);
}

Tensor run_new(const Checker& check, const Layer& layer) {
  check_layer(check, layer);
  const DeviceScope device(check, layer.hidden_states);
  Tensor out =
      device.empty({layer.num_tokens(), layer.hidden_size()}, layer.hidden_states.scalar_type());
  run(check, device, layer, out);
  return out;
}

void run_into(const Checker& check, const Layer& layer, const Tensor& out) {
  check_layer(check, layer);
  check.dtype("out", out, {layer.hidden_states.scalar_type()});
  check.shape("out", out, {layer.num_tokens(), layer.hidden_size()});
  check.rows("out", out);
  check.distinct_rows("out", out);
  check.same_device("out", out, "hidden_states", layer.hidden_states);
  run(check, DeviceScope(check, layer.hidden_states), layer, out);
}

}  // namespace

Tensor fused_moe(Tensor hidden_states, Tensor w13, Tensor w2, Tensor topk_weights, Tensor topk_ids,
                 std::optional<Tensor> expert_map, std::optional<Tensor> w13_bias,
                 std::optional<Tensor> w2_bias, bool gated, int64_t activation,
                 int64_t gate_up_order, std::optional<Tensor> swiglu_alpha,
                 std::optional<Tensor> swiglu_beta, std::optional<Tensor> swiglu_limit,
                 bool apply_router_weight_on_input, std::optional<Tensor> residual,
                 bool batch_invariant, int64_t tactic_w13, int64_t tactic_w2) {
  const Checker check("fused_moe");
  const LayerOptions options{
      expert_map,    w13_bias,       w2_bias,     gated,        activation,
      gate_up_order, swiglu_alpha,   swiglu_beta, swiglu_limit, apply_router_weight_on_input,
      residual,      batch_invariant};
  const Layer layer{hidden_states, w13, w2, topk_weights, topk_ids, options, tactic_w13, tactic_w2};
  return run_new(check, layer);
}

Tensor fused_moe_quantized(Tensor hidden_states, Tensor w13, Tensor w13_scale,
                           std::optional<Tensor> w13_codes, Tensor w2, Tensor w2_scale,
                           std::optional<Tensor> w2_codes, Tensor topk_weights, Tensor topk_ids,
                           int64_t weight_format, int64_t group_size,
                           std::optional<Tensor> w13_input, std::optional<Tensor> w2_input,
                           std::optional<Tensor> expert_map, std::optional<Tensor> w13_bias,
                           std::optional<Tensor> w2_bias, bool gated, int64_t activation,
                           int64_t gate_up_order, std::optional<Tensor> swiglu_alpha,
                           std::optional<Tensor> swiglu_beta, std::optional<Tensor> swiglu_limit,
                           bool apply_router_weight_on_input, std::optional<Tensor> residual,
                           bool batch_invariant, int64_t tactic_w13, int64_t tactic_w2) {
  const Checker check("fused_moe_quantized");
  const LayerOptions options{
      expert_map,    w13_bias,       w2_bias,     gated,        activation,
      gate_up_order, swiglu_alpha,   swiglu_beta, swiglu_limit, apply_router_weight_on_input,
      residual,      batch_invariant};
  const PackedScheme scheme{weight_format, group_size};
  const PackedWeights packed{{w13_scale, w13_codes, scheme, w13_input},
                             {w2_scale, w2_codes, scheme, w2_input}};
  const Layer layer{hidden_states, w13,        w2,        topk_weights, topk_ids,
                    options,       tactic_w13, tactic_w2, &packed};
  return run_new(check, layer);
}

void fused_moe_quantized_out(Tensor hidden_states, Tensor w13, Tensor w13_scale,
                             std::optional<Tensor> w13_codes, Tensor w2, Tensor w2_scale,
                             std::optional<Tensor> w2_codes, Tensor topk_weights, Tensor topk_ids,
                             int64_t weight_format, int64_t group_size, Tensor out,
                             std::optional<Tensor> w13_input, std::optional<Tensor> w2_input,
                             std::optional<Tensor> expert_map, std::optional<Tensor> w13_bias,
                             std::optional<Tensor> w2_bias, bool gated, int64_t activation,
                             int64_t gate_up_order, std::optional<Tensor> swiglu_alpha,
                             std::optional<Tensor> swiglu_beta, std::optional<Tensor> swiglu_limit,
                             bool apply_router_weight_on_input, std::optional<Tensor> residual,
                             bool batch_invariant, int64_t tactic_w13, int64_t tactic_w2) {
  const Checker check("fused_moe_quantized_out");
  const LayerOptions options{
      expert_map,    w13_bias,       w2_bias,     gated,        activation,
      gate_up_order, swiglu_alpha,   swiglu_beta, swiglu_limit, apply_router_weight_on_input,
      residual,      batch_invariant};
  const PackedScheme scheme{weight_format, group_size};
  const PackedWeights packed{{w13_scale, w13_codes, scheme, w13_input},
                             {w2_scale, w2_codes, scheme, w2_input}};
  const Layer layer{hidden_states, w13,        w2,        topk_weights, topk_ids,
                    options,       tactic_w13, tactic_w2, &packed};
  run_into(check, layer, out);
}

void fused_moe_out(Tensor hidden_states, Tensor w13, Tensor w2, Tensor topk_weights,
                   Tensor topk_ids, Tensor out, std::optional<Tensor> expert_map,
                   std::optional<Tensor> w13_bias, std::optional<Tensor> w2_bias, bool gated,
                   int64_t activation, int64_t gate_up_order, std::optional<Tensor> swiglu_alpha,
                   std::optional<Tensor> swiglu_beta, std::optional<Tensor> swiglu_limit,
                   bool apply_router_weight_on_input, std::optional<Tensor> residual,
                   bool batch_invariant, int64_t tactic_w13, int64_t tactic_w2) {
  const Checker check("fused_moe_out");
  const LayerOptions options{
      expert_map,    w13_bias,       w2_bias,     gated,        activation,
      gate_up_order, swiglu_alpha,   swiglu_beta, swiglu_limit, apply_router_weight_on_input,
      residual,      batch_invariant};
  const Layer layer{hidden_states, w13, w2, topk_weights, topk_ids, options, tactic_w13, tactic_w2};
  run_into(check, layer, out);
}

int64_t workspace_size(int64_t num_tokens, int64_t num_experts, int64_t top_k, int64_t hidden_size,
                       int64_t intermediate_size) {
  constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
  const Checker check("workspace_size");
  check.between("num_tokens", num_tokens, 0, kMaxInt);
  check.between("num_experts", num_experts, 1, kMaxExperts);
  check.between("top_k", top_k, 1, kMaxInt);
  check.between("hidden_size", hidden_size, 1, kMaxInt);
  check.between("intermediate_size", intermediate_size, 1, kMaxInt);
  check.num_rows("num_tokens", num_tokens * top_k);
  if (num_tokens == 0) return 0;
  const plan::LayerShape shape{num_tokens, num_experts, top_k, hidden_size, intermediate_size};
  return plan::workspace_layout(plan_chunks(check, shape).shape()).size;
}

}  // namespace sm80moe::ops
