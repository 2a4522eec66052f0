#include "driver/weights.h"

#include <algorithm>
#include <cmath>

#include "driver/tensor.h"

namespace driver {
namespace {

using sm80moe::ElementType;
using sm80moe::WeightFormat;
using sm80moe::gemm::GroupedGemmArgs;

class DenseWeights : public Weights {
 public:
  DenseWeights(ElementType type, const WeightShape& shape, simt::Random& random)
      : type_(type),
        row_stride_(shape.k + shape.pad),
        expert_stride_(row_stride_ * (shape.n + shape.pad)),
        w_("w", (shape.n + shape.pad) * (shape.num_experts - 1) + shape.n, shape.k, row_stride_) {
    for (int expert = 0; expert < shape.num_experts; ++expert)
      for (int row = 0; row < shape.n; ++row)
        for (int k = 0; k < shape.k; ++k)
          w_.set_flat(index(expert, row, k), to_bits(short_fraction(random), type));
  }

  double value(int expert, int row, int k) const override {
    return to_double(w_[index(expert, row, k)], type_);
  }
  void fill_args(GroupedGemmArgs& args, const ColumnRows& rows) const override {
    const auto row_bytes = static_cast<int64_t>(row_stride_ * sizeof(uint16_t));
    args.w = reinterpret_cast<const char*>(w_.data()) + rows.first * row_bytes;
    args.w_column_bytes = static_cast<uint32_t>(rows.step * row_bytes);
    args.w_up_bytes = rows.second * row_bytes;
    args.w_expert_bytes = expert_stride_ * sizeof(uint16_t);
  }

 private:
  int64_t index(int expert, int row, int k) const {
    return expert * expert_stride_ + row * row_stride_ + k;
  }

  const ElementType type_;
  const int64_t row_stride_, expert_stride_;
  Tensor<uint16_t> w_;
};

// The number that a stored code stands for, of integers with zero points more than that.
double stored_value(WeightFormat format, unsigned code) {
  if (format == WeightFormat::kFp8) return small_float(code, 4, 3);
  if (format == WeightFormat::kMxfp4) return small_float(code, 2, 1);
  if (format == WeightFormat::kInt8Rows) return static_cast<int8_t>(code);
  return code;
}

class PackedWeights : public Weights {
 public:
  PackedWeights(WeightFormat format, const WeightShape& shape, simt::Random& random)
      : format_(format),
        bits_(sm80moe::stored_bits(format)),
        shape_(shape),
        // What the kernel knows of groups is the logarithm of their size. Those of mxfp4 have one.
        group_shift_(format == WeightFormat::kMxfp4 ? 5
                     : shape.group                  ? std::ilogb(shape.group)
                                                    : 31),
        groups_(((shape.k - 1) >> group_shift_) + 1),
        scales_a_row_(format == WeightFormat::kMxfp4 ? 1 : groups_),
        code_words_((groups_ + 3) / 4),
        row_bytes_(16 * ((shape.k * bits_ + 127) / 128)),
        row_stride_(row_bytes_ + 16 * (shape.pad / 8)),
        expert_stride_(row_stride_ * (shape.n + shape.pad)),
        w_("w", (shape.n + shape.pad) * (shape.num_experts - 1) + shape.n, row_bytes_, row_stride_),
        scale_("scale", shape.num_experts * shape.n * scales_a_row_),
        codes_("codes", has_codes() ? shape.num_experts * shape.n * code_words_ * 4 : 0) {
    for (int64_t row = 0; row < shape.num_experts * shape.n; ++row) fill_row(row, random);
  }

  double value(int expert, int row, int k) const override {
    const int64_t at = int64_t{expert} * shape_.n + row;
    const int group = k >> group_shift_;
    const double stored = stored_value(format_, code(at, k));
    if (format_ == WeightFormat::kMxfp4)
      return stored * std::ldexp(scale_[word(at, 1, 0)], codes_[code_at(at, group)] - 253);
    return (stored - zero(at, group)) * scale_[word(at, groups_, group)];
  }
  void fill_args(GroupedGemmArgs& args, const ColumnRows& rows) const override {
    args.w = w_.data() + rows.first * row_stride_;
    args.w_column_bytes = static_cast<uint32_t>(rows.step * row_stride_);
    args.w_up_bytes = rows.second * row_stride_;
    args.w_expert_bytes = expert_stride_;
    args.packed.format = format_;
    args.packed.scale = scale_.data();
    args.packed.codes = has_codes() ? reinterpret_cast<const uint32_t*>(codes_.data()) : nullptr;
    args.packed.first_row = rows.first;
    args.packed.row_step = rows.step;
    args.packed.up_rows = rows.second;
    args.packed.groups = scales_a_row_;
    args.packed.group_shift = group_shift_;
    args.packed.code_words = has_codes() ? code_words_ : 0;
  }

 private:
  bool is_grouped_int() const {
    return format_ == WeightFormat::kInt8Group || format_ == WeightFormat::kInt4;
  }
  bool has_codes() const {
    return format_ == WeightFormat::kMxfp4 || (is_grouped_int() && shape_.zero_points);
  }
  double zero(int64_t row, int group) const {
    if (!is_grouped_int() && format_ != WeightFormat::kInt8) return 0;
    return has_codes() ? codes_[code_at(row, group)] : 1 << (bits_ - 1);
  }
  // Words of eight rows lie side by side.
  static int64_t word(int64_t row, int words, int number) {
    return (row / 8 * words + number) * 8 + row % 8;
  }
  int64_t code_at(int64_t row, int group) const {
    return word(row, code_words_, group / 4) * 4 + group % 4;
  }

  void fill_row(int64_t row, simt::Random& random) {
    for (int byte = 0; byte < row_bytes_; ++byte) w_.set_flat(byte_at(row) + byte, 0);
    for (int k = 0; k < shape_.k; ++k) set_code(row, k, random_code(random));
    for (int i = 0; i < scales_a_row_; ++i)
      scale_.set_flat(word(row, scales_a_row_, i),
                      std::ldexp(1.0f, static_cast<int>(random.below(4)) - 10));
    if (!has_codes()) return;
    for (int i = 0; i < code_words_ * 4; ++i) {
      const int last = format_ == WeightFormat::kMxfp4 ? 254 : (1 << bits_) - 1;
      codes_.set_flat(code_at(row, i), static_cast<uint8_t>(last - random.below(5)));
    }
  }
  // Of e4m3 those whose long sums are exact; driver/dequantize.cpp tries all.
  unsigned random_code(simt::Random& random) const {
    const unsigned code = random.below(1u << bits_);
    return format_ == WeightFormat::kFp8 ? (code & 0x9f) + 0x18 : code;
  }

  int64_t byte_at(int64_t row) const {
    return row / shape_.n * expert_stride_ + row % shape_.n * row_stride_;
  }
  unsigned code(int64_t row, int k) const {
    unsigned code = 0;
    for (int bit = 0; bit < bits_; ++bit) {
      const int64_t at = packed_bit(format_, k, bit);
      code |= (w_[byte_at(row) + at / 8] >> at % 8 & 1u) << bit;
    }
    return code;
  }
  void set_code(int64_t row, int k, unsigned code) {
    for (int bit = 0; bit < bits_; ++bit) {
      const int64_t at = packed_bit(format_, k, bit), byte = byte_at(row) + at / 8;
      w_.set_flat(byte, static_cast<uint8_t>(w_[byte] | (code >> bit & 1u) << at % 8));
    }
  }

  const WeightFormat format_;
  const int bits_;
  const WeightShape shape_;
  const int group_shift_, groups_, scales_a_row_, code_words_;
  const int64_t row_bytes_, row_stride_, expert_stride_;
  Tensor<uint8_t> w_;
  Tensor<float> scale_;
  Tensor<uint8_t> codes_;
};

}  // namespace

int64_t packed_bit(WeightFormat format, int k, int bit) {
  // Of the small floats, in a half word or beyond it in the other.
  constexpr int kFp8[2][8] = {{4, 5, 6, 7, 8, 9, 10, 15}, {0, 1, 2, 3, 12, 13, 14, 11}};
  constexpr int kMxfp4[4][4] = {{6, 7, 8, 15}, {10, 11, 12, 19}, {0, 1, 2, 9}, {4, 13, 14, 21}};
  const int bits = sm80moe::stored_bits(format);
  if (format == WeightFormat::kInt8Rows) return int64_t{k} * bits + bit;
  const int chunk_depth = 128 / bits;
  const int in_chunk = k % chunk_depth, step = in_chunk / 16;
  const int high = in_chunk % 16 / 8, lane = in_chunk % 8 / 2, half = in_chunk % 2;
  const int number = step * 2 + high;
  int at = number * bits + bit;
  if (format == WeightFormat::kFp8) at = kFp8[number][bit];
  if (format == WeightFormat::kMxfp4) at = kMxfp4[number][bit];
  return k / chunk_depth * int64_t{128} + lane * 32 + (half * 16 + at) % 32;
}

double small_float(unsigned code, int exponent_bits, int mantissa_bits) {
  const int mantissa = code & ((1 << mantissa_bits) - 1);
  const int exponent = code >> mantissa_bits & ((1 << exponent_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int one = exponent > 0 ? 1 << mantissa_bits : 0;
  const double size = std::ldexp(one + mantissa, std::max(exponent, 1) - bias - mantissa_bits);
  return code >> (exponent_bits + mantissa_bits) ? -size : size;
}

std::unique_ptr<Weights> make_weights(WeightFormat format, ElementType type,
                                      const WeightShape& shape, simt::Random& random) {
  if (format == WeightFormat::kDense) return std::make_unique<DenseWeights>(type, shape, random);
  return std::make_unique<PackedWeights>(format, shape, random);
}

}  // namespace driver
