#include "ops/gemm_ops.h"

#include <limits>

#include "ops/run_gemm.h"

namespace sm80moe::ops {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
constexpr int64_t kLastEpilogue = static_cast<int64_t>(gemm::EpilogueKind::kSwiglu);

}  // namespace

Tensor grouped_gemm(Tensor a, Tensor w, Tensor expert_offsets, std::optional<Tensor> row_index,
                    int64_t top_k, int64_t epilogue, int64_t tactic) {
  const Checker check("grouped_gemm");
  check.dtype("a", a, {ScalarType::Half, ScalarType::BFloat16});
  check.dtype("w", w, {a.scalar_type()});
  check.dtype("expert_offsets", expert_offsets, {ScalarType::Int});
  if (row_index) check.dtype("row_index", *row_index, {ScalarType::Int});

  check.shape("a", a, {"S", "K"});
  check.shape("w", w, {"E", "N", a.size(1)});
  check.shape("expert_offsets", expert_offsets, {w.size(0) + 1});
  if (row_index) check.shape("row_index", *row_index, {"M"});

  check.num_experts("w", w.size(0));
  check.between("epilogue", epilogue, 0, kLastEpilogue);
  check.multiple("a", -1, a.size(1), kRowMultiple);
  const auto kind = static_cast<gemm::EpilogueKind>(epilogue);
  const int64_t gates = kind == gemm::EpilogueKind::kSwiglu ? 2 : 1;
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
  set_weights(args, w);
  set_activations(args, a.data_ptr(), a.size(0), a.stride(0));
  args.expert_offsets = static_cast<const int32_t*>(expert_offsets.data_ptr());
  if (row_index) args.row_index = static_cast<const int32_t*>(row_index->data_ptr());
  args.tile_counter = static_cast<int32_t*>(tile_counter.data_ptr());
  args.top_k = static_cast<int>(top_k);
  args.num_rows = static_cast<int>(num_rows);
  args.out = out.data_ptr();
  run_gemm(check, device, args, element_type(a), kind, "tactic", tactic);
  return out;
}

}  // namespace sm80moe::ops
