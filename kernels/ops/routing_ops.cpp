#include "ops/routing_ops.h"

#include "ops/device.h"
#include "routing/routing.h"

namespace sm80moe::ops {

namespace {

void check_groups(const Checker& check, int64_t num_experts, int64_t top_k, int64_t n_group,
                  int64_t topk_group) {
  check.between("n_group", n_group, 1, routing::kMaxGroups);
  if (num_experts % n_group != 0)
    check.fail("n_group must divide the number of experts, ", num_experts, ", got ", n_group);
  check.between("topk_group", topk_group, 1, n_group, "the number of groups");
  check.between("top_k", top_k, 1, num_experts / n_group * topk_group,
                n_group == 1 ? "the number of experts" : "the experts of topk_group groups");
}

// If there is a tensor at all it has an entry for each expert; null stands for none.
template <class T>
const T* per_expert(const Checker& check, const char* name, const std::optional<Tensor>& t,
                    ScalarType type, const Tensor& router_logits) {
  if (!t.has_value()) return nullptr;
  check.dtype(name, *t, {type});
  check.shape(name, *t, {router_logits.size(1)});
  check.contiguous(name, *t);
  check.same_device(name, *t, "router_logits", router_logits);
  return static_cast<const T*>(t->data_ptr());
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> topk_route(
    Tensor router_logits, int64_t top_k, bool renormalize, int64_t scoring,
    std::optional<Tensor> correction_bias, int64_t n_group, int64_t topk_group, int64_t group_score,
    double routed_scaling_factor, std::optional<Tensor> expert_map, bool return_tokens_per_expert) {
  const Checker check("topk_route");
  check.dtype("router_logits", router_logits,
              {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
  check.shape("router_logits", router_logits, {"T", "E"});
  const int64_t num_tokens = router_logits.size(0), num_experts = router_logits.size(1);
  check.num_experts("router_logits", num_experts);
  check.between("scoring", scoring, 0, routing::kNumScorings - 1);
  check.between("group_score", group_score, 0, routing::kNumGroupScores - 1);
  check_groups(check, num_experts, top_k, n_group, topk_group);
  check.num_rows("router_logits", num_tokens * top_k);
  check.contiguous_last_dimension("router_logits", router_logits);

  routing::TopkArgs args{};
  args.correction_bias = per_expert<float>(check, "correction_bias", correction_bias,
                                           ScalarType::Float, router_logits);
  args.expert_map =
      per_expert<int32_t>(check, "expert_map", expert_map, ScalarType::Int, router_logits);
  const DeviceScope device(check, router_logits);
  Tensor topk_weights = device.empty({num_tokens, top_k}, ScalarType::Float);
  Tensor topk_ids = device.empty({num_tokens, top_k}, ScalarType::Int);
  Tensor tokens_per_expert =
      device.empty({return_tokens_per_expert ? num_experts : 0}, ScalarType::Int);
  if (return_tokens_per_expert) {
    args.tokens_per_expert = static_cast<int32_t*>(tokens_per_expert.data_ptr());
    device.check_cuda(
        cudaMemsetAsync(args.tokens_per_expert, 0, num_experts * sizeof(int32_t), device.stream()));
  }
  if (num_tokens == 0) return {topk_weights, topk_ids, tokens_per_expert};

  args.logits = router_logits.data_ptr();
  args.logits_type = element_type(router_logits);
  args.logits_row_stride = router_logits.stride(0);
  args.topk_weights = static_cast<float*>(topk_weights.data_ptr());
  args.topk_ids = static_cast<int32_t*>(topk_ids.data_ptr());
  args.num_tokens = static_cast<int>(num_tokens);
  args.num_experts = static_cast<int>(num_experts);
  args.top_k = static_cast<int>(top_k);
  args.n_group = static_cast<int>(n_group);
  args.topk_group = static_cast<int>(topk_group);
  args.scoring = static_cast<routing::ScoringKind>(scoring);
  args.group_score = static_cast<routing::GroupScore>(group_score);
  args.renormalize = renormalize;
  args.routed_scaling_factor = static_cast<float>(routed_scaling_factor);
  device.check_cuda(routing::topk_route(args, device.stream()));
  return {topk_weights, topk_ids, tokens_per_expert};
}

std::tuple<Tensor, Tensor, Tensor> sort_by_expert(Tensor topk_ids, int64_t num_experts,
                                                  std::optional<Tensor> expert_map) {
  const Checker check("sort_by_expert");
  check.dtype("topk_ids", topk_ids, {ScalarType::Int, ScalarType::Long});
  check.shape("topk_ids", topk_ids, {"T", "k"});
  check.at_least_one_column("topk_ids", topk_ids);
  check.num_rows("topk_ids", topk_ids.numel());
  check.between("num_experts", num_experts, 1, kMaxExperts);
  check.contiguous_last_dimension("topk_ids", topk_ids);
  check.expert_map(expert_map, topk_ids);

  const DeviceScope device(check, topk_ids);
  const int64_t num_pairs = topk_ids.numel(), top_k = topk_ids.size(1);
  Tensor expert_offsets = device.empty({num_experts + 1}, ScalarType::Int);
  Tensor row_index = device.empty({num_pairs}, ScalarType::Int);
  Tensor row_position = device.empty({topk_ids.size(0), top_k}, ScalarType::Int);

  routing::SortArgs args{};
  args.topk_ids = expert_ids(topk_ids, expert_map, num_experts);
  args.num_pairs = static_cast<int>(num_pairs);
  args.top_k = static_cast<int>(top_k);
  args.num_experts = static_cast<int>(num_experts);
  args.expert_offsets = static_cast<int32_t*>(expert_offsets.data_ptr());
  args.row_index = static_cast<int32_t*>(row_index.data_ptr());
  args.row_position = static_cast<int32_t*>(row_position.data_ptr());
  device.check_cuda(routing::sort_by_expert(args, device.stream()));
  return {expert_offsets, row_index, row_position};
}

Tensor combine(Tensor rows, Tensor topk_weights, Tensor row_position) {
  const Checker check("combine");
  check.dtype("rows", rows, {ScalarType::Half, ScalarType::BFloat16});
  check.dtype("topk_weights", topk_weights, {ScalarType::Float});
  check.dtype("row_position", row_position, {ScalarType::Int});
  check.shape("rows", rows, {"M", "H"});
  check.shape("topk_weights", topk_weights, {"T", "k"});
  check.shape("row_position", row_position, {topk_weights.size(0), topk_weights.size(1)});
  check.multiple("rows", -1, rows.size(1), kRowMultiple);
  check.num_rows("rows", rows.size(0));
  check.at_least_one_column("row_position", row_position);
  check.num_rows("row_position", row_position.numel());
  check.rows("rows", rows);
  check.contiguous_last_dimension("topk_weights", topk_weights);
  check.same_device("topk_weights", topk_weights, "rows", rows);
  check.contiguous("row_position", row_position);
  check.same_device("row_position", row_position, "rows", rows);

  const DeviceScope device(check, rows);
  const int64_t num_tokens = topk_weights.size(0), hidden_size = rows.size(1);
  Tensor out = device.empty({num_tokens, hidden_size}, rows.scalar_type());
  if (num_tokens == 0) return out;

  routing::CombineArgs args{};
  args.rows = rows.data_ptr();
  args.topk_weights = static_cast<const float*>(topk_weights.data_ptr());
  args.row_position = static_cast<const int32_t*>(row_position.data_ptr());
  args.out = out.data_ptr();
  args.rows_stride = rows.stride(0);
  args.weights_row_stride = topk_weights.stride(0);
  args.out_stride = hidden_size;
  args.num_rows = static_cast<int>(rows.size(0));
  args.num_tokens = static_cast<int>(num_tokens);
  args.top_k = static_cast<int>(topk_weights.size(1));
  args.hidden_size = static_cast<int>(hidden_size);
  device.check_cuda(routing::combine(args, element_type(rows), device.stream()));
  return out;
}

}  // namespace sm80moe::ops
