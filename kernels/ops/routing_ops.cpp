#include "ops/routing_ops.h"

#include "ops/device.h"
#include "routing/routing.h"

namespace sm80moe::ops {

std::tuple<Tensor, Tensor> topk_route(Tensor router_logits, int64_t top_k, bool renormalize) {
  const Checker check("topk_route");
  check.dtype("router_logits", router_logits,
              {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
  check.shape("router_logits", router_logits, {"T", "E"});
  const int64_t num_tokens = router_logits.size(0), num_experts = router_logits.size(1);
  check.num_experts("router_logits", num_experts);
  check.between("top_k", top_k, 1, num_experts, "the number of experts");
  check.num_rows("router_logits", num_tokens * top_k);
  check.contiguous_last_dimension("router_logits", router_logits);

  const DeviceScope device(check, router_logits);
  Tensor topk_weights = device.empty({num_tokens, top_k}, ScalarType::Float);
  Tensor topk_ids = device.empty({num_tokens, top_k}, ScalarType::Int);
  if (num_tokens == 0) return {topk_weights, topk_ids};

  routing::TopkArgs args{};
  args.logits = router_logits.data_ptr();
  args.topk_weights = static_cast<float*>(topk_weights.data_ptr());
  args.topk_ids = static_cast<int32_t*>(topk_ids.data_ptr());
  args.logits_row_stride = router_logits.stride(0);
  args.num_tokens = static_cast<int>(num_tokens);
  args.num_experts = static_cast<int>(num_experts);
  args.top_k = static_cast<int>(top_k);
  args.renormalize = renormalize;
  device.check_cuda(routing::topk_route(args, element_type(router_logits), device.stream()));
  return {topk_weights, topk_ids};
}

std::tuple<Tensor, Tensor, Tensor> sort_by_expert(Tensor topk_ids, int64_t num_experts) {
  const Checker check("sort_by_expert");
  check.dtype("topk_ids", topk_ids, {ScalarType::Int, ScalarType::Long});
  check.shape("topk_ids", topk_ids, {"T", "k"});
  check.at_least_one_column("topk_ids", topk_ids);
  check.num_rows("topk_ids", topk_ids.numel());
  check.between("num_experts", num_experts, 1, kMaxExperts);
  check.contiguous_last_dimension("topk_ids", topk_ids);

  const DeviceScope device(check, topk_ids);
  const int64_t num_pairs = topk_ids.numel(), top_k = topk_ids.size(1);
  Tensor expert_offsets = device.empty({num_experts + 1}, ScalarType::Int);
  Tensor row_index = device.empty({num_pairs}, ScalarType::Int);
  Tensor row_position = device.empty({topk_ids.size(0), top_k}, ScalarType::Int);

  routing::SortArgs args{};
  args.topk_ids = topk_ids.data_ptr();
  args.ids_row_stride = topk_ids.stride(0);
  args.ids_are_int64 = topk_ids.scalar_type() == ScalarType::Long;
  args.num_pairs = static_cast<int>(num_pairs);
  args.top_k = static_cast<int>(top_k);
  args.num_experts = static_cast<int>(num_experts);
  args.expert_offsets = static_cast<int32_t*>(expert_offsets.data_ptr());
  args.row_index = static_cast<int32_t*>(row_index.data_ptr());
  args.row_position = static_cast<int32_t*>(row_position.data_ptr());
  const int64_t scratch_ints = routing::sort_scratch_ints(args.num_pairs, args.num_experts);
  Tensor scratch = device.empty({scratch_ints}, ScalarType::Int);
  args.scratch = static_cast<int32_t*>(scratch.data_ptr());
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
