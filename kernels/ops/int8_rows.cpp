#include "ops/int8_rows.h"

#include "ops/run_gemm.h"
#include "quantize/quantize.h"

namespace sm80moe::ops {

void check_int8_range(const Checker& check, const char* name, const std::optional<Tensor>& range,
                      const char* leader_name, const Tensor& leader) {
  if (!range.has_value()) return;
  check.dtype(name, *range, {ScalarType::Float});
  check.shape(name, *range, {2});
  check.contiguous(name, *range);
  check.same_device(name, *range, leader_name, leader);
}

void quantize_rows(const DeviceScope& device, const void* rows, int64_t row_stride,
                   ElementType type, const Int8Range* range, const Int8Rows& to) {
  quantize::QuantizeArgs args{};
  args.rows = rows;
  args.row_stride = row_stride;
  args.num_rows = static_cast<int>(to.num_rows);
  args.num_columns = static_cast<int>(to.num_columns);
  args.range = range;
  args.values = to.values;
  args.row_bytes = static_cast<int>(to.row_bytes());
  args.values_stride = to.stride;
  args.scale = to.scale;
  device.check_cuda(quantize::quantize_activations(args, type, device.stream()));
}

void set_int8_rows(gemm::GroupedGemmArgs& args, const Int8Rows& rows, const Int8Range* range,
                   ElementType type) {
  set_activations(args, rows.values, rows.num_rows, rows.stride / 2);  // in pairs
  args.int8.row_scale = range != nullptr ? &range->scale : rows.scale;
  args.int8.row_scale_stride = range != nullptr ? 0 : 1;
  args.int8.range = range;
  args.int8.is_bfloat16 = type == ElementType::kBFloat16;
}

std::tuple<Tensor, Tensor> quantize_activations(Tensor a, std::optional<Tensor> input_range) {
  const Checker check("quantize_activations");
  check.dtype("a", a, {ScalarType::Half, ScalarType::BFloat16});
  check.shape("a", a, {"S", "K"});
  check.multiple("a", -1, a.size(1), kRowMultiple);
  check.between("a's depth", a.size(1), 1, kMaxInt8Depth, "the most of w8a8");
  check.num_rows("a", a.size(0));
  check.rows("a", a);
  check_int8_range(check, "input_range", input_range, "a", a);

  const DeviceScope device(check, a);
  const int64_t num_rows = a.size(0), num_columns = a.size(1);
  Tensor values = device.empty({num_rows, num_columns}, ScalarType::Char);
  Tensor scale = device.empty({num_rows}, ScalarType::Float);
  if (num_rows == 0) return {values, scale};
  const Int8Rows to{static_cast<int8_t*>(values.data_ptr()), num_columns,
                    static_cast<float*>(scale.data_ptr()), num_rows, num_columns};
  quantize_rows(device, a.data_ptr(), a.stride(0), element_type(a), int8_range(input_range), to);
  return {values, scale};
}

}  // namespace sm80moe::ops
