// quantize type=bf16 rows=5 columns=72 stride=80 range=1 seed=1: activations to int8, which must be
// the reference's to the last bit. in_place=1: they take the place of 16-bit rows.

#include "quantize/quantize.h"

#include <algorithm>
#include <cmath>

#include "driver/commands.h"
#include "driver/int8.h"
#include "driver/tensor.h"
#include "runtime/settings.h"

namespace driver {
namespace {

// Numbers of many sizes, the largest the last of some rows; in other rows nothing but zeros, or the
// type's largest and smallest.
uint16_t number(int row, sm80moe::ElementType type, simt::Random& random) {
  const bool bfloat = type == sm80moe::ElementType::kBFloat16;
  if (row % 4 == 1) return 0;
  if (row % 4 == 2) return static_cast<uint16_t>(random.below(2) ? 1 : bfloat ? 0x7f7f : 0x7bff);
  return to_bits(std::ldexp(short_fraction(random), -static_cast<int>(random.below(9))), type);
}

}  // namespace

void run_quantize(const Options& options) {
  const sm80moe::ElementType type = read_type(options);
  const auto rows = static_cast<int>(options.number("rows", 4));
  const auto columns = static_cast<int>(options.number("columns", 8));
  const auto stride = static_cast<int>(options.number("stride", columns));
  const auto pad = static_cast<int>(options.number("pad", 0));
  const bool has_range = options.number("range", 0), in_place = options.number("in_place", 0);

  simt::Random random(simt::settings().seed);
  Tensor<uint16_t> in("rows", rows, columns, columns + pad);
  for (int row = 0; row < rows; ++row) {
    for (int col = 0; col < columns; ++col) in.set(row, col, number(row, type, random));
    if (row % 4 == 3) in.set(row, columns - 1, to_bits(-16, type));
  }
  Tensor<sm80moe::Int8Range> range("range", 1);
  range.set_flat(0, {0.0078125f * 3, -11});
  std::vector<double> numbers;
  for (int row = 0; row < rows; ++row)
    for (int col = 0; col < columns; ++col) numbers.push_back(to_double(in.at(row, col), type));
  Tensor<int8_t> apart("values", in_place ? 0 : rows, stride, stride);
  Tensor<float> scale("scale", rows);

  sm80moe::quantize::QuantizeArgs args{};
  args.rows = in.data();
  args.row_stride = in.stride();
  args.num_rows = rows;
  args.num_columns = columns;
  args.range = has_range ? range.data() : nullptr;
  args.values = in_place ? reinterpret_cast<int8_t*>(in.data()) : apart.data();
  args.row_bytes = stride;
  args.values_stride = in_place ? 2 * in.stride() : stride;
  args.scale = scale.data();
  check_status(sm80moe::quantize::quantize_activations(args, type, nullptr));

  for (int row = 0; row < rows; ++row) {
    const double* of_row = numbers.data() + row * columns;
    double largest = 0;
    for (int col = 0; col < columns; ++col) largest = std::max(largest, std::fabs(of_row[col]));
    const float wanted_scale = has_range ? range[0].scale : int8_scale(largest);
    if (scale[row] != wanted_scale)
      wrong_result(simt::format("  scale[%d] must be %g, got %g", row, wanted_scale, scale[row]));
    for (int col = 0; col < stride; ++col) {
      const int zero = has_range ? static_cast<int>(range[0].zero_point) : 0;
      const auto value = static_cast<float>(col < columns ? of_row[col] : 0);
      const int wanted = col < columns ? stored(value, wanted_scale, zero) : 0;
      const int got = args.values[row * args.values_stride + col];
      if (got != wanted)
        wrong_result(simt::format("  values[%d, %d] must be %d, got %d", row, col, wanted, got));
    }
  }
}

}  // namespace driver
