#include "ops/grouped_mm.h"

#include <torch/csrc/stable/ops.h>

#include "ops/run_gemm.h"
#include "routing/group_ends.h"

namespace sm80moe::ops {
namespace {

// From the ends of the groups to what the GEMM reads; also zeros the rows of `out` past the last.
struct Groups {
  Groups(const DeviceScope& device, const Tensor& ends, const Tensor& out)
      : buffer_(device.empty({ends.numel() + 2}, ScalarType::Int)) {
    tile_counter = static_cast<int32_t*>(buffer_.data_ptr());
    offsets = tile_counter + 1;

    routing::GroupEndsArgs args{};
    args.ends = static_cast<const int32_t*>(ends.data_ptr());
    args.group_offsets = offsets;
    args.counter = tile_counter;
    args.out = out.data_ptr();
    args.num_groups = static_cast<int>(ends.numel());
    args.num_rows = static_cast<int>(out.size(0));
    args.row_chunks = static_cast<int>(out.size(1) / kRowMultiple);
    device.check_cuda(routing::take_group_ends(args, device.info().num_sms, device.stream()));
  }

  int32_t *tile_counter, *offsets;

 private:
  Tensor buffer_;
};

}  // namespace

Tensor grouped_mm(Tensor mat_a, Tensor mat_b, Tensor offs, int64_t tactic) {
  const Checker check("grouped_mm");
  check.dtype("mat_a", mat_a, {ScalarType::Half, ScalarType::BFloat16});
  check.dtype("mat_b", mat_b, {mat_a.scalar_type()});
  check.dtype("offs", offs, {ScalarType::Int});

  check.shape("mat_a", mat_a, {"M", "K"});
  check.shape("mat_b", mat_b, {"E", mat_a.size(1), "N"});
  check.shape("offs", offs, {mat_b.size(0)});

  check.num_experts("mat_b", mat_b.size(0));
  check.multiple("mat_a", -1, mat_a.size(1), kRowMultiple);
  check.multiple("mat_b", -1, mat_b.size(2), kRowMultiple);
  check.num_rows("mat_a", mat_a.size(0));

  const Tensor w = torch::stable::transpose(mat_b, 1, 2);
  check.rows("mat_a", mat_a);
  check.rows("mat_b.mT", w);
  check.contiguous("offs", offs);
  check.same_device("mat_b", mat_b, "mat_a", mat_a);
  check.same_device("offs", offs, "mat_a", mat_a);

  const DeviceScope device(check, mat_a);
  Tensor out = device.empty({mat_a.size(0), w.size(1)}, mat_a.scalar_type());
  if (out.size(0) == 0) return out;
  const Groups groups(device, offs, out);

  gemm::GroupedGemmArgs args{};
  set_weights(args, w, kOneRow);
  set_activations(args, mat_a.data_ptr(), mat_a.size(0), mat_a.stride(0));
  args.expert_offsets = groups.offsets;
  args.tile_counter = groups.tile_counter;
  args.top_k = 1;
  args.num_rows = static_cast<int>(mat_a.size(0));
  args.out = out.data_ptr();
  run_gemm(check, device, args, element_type(mat_a), gemm::EpilogueKind::kStore, "tactic", tactic);
  return out;
}

}  // namespace sm80moe::ops
