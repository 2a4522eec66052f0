// int8_gemm table=kInt8RowsGeneral tactic=3 rows=5,0,17 n=136 k=72 output=1 seed=1: one grouped
// GEMM of int8 activations. output=0 gives 16 bits, 1 int8 of a known range; fixed=1: activations
// have one, too, and a zero point. Others as in gemm.cpp.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "driver/commands.h"
#include "driver/epilogue.h"
#include "driver/instances.h"
#include "driver/tensor.h"
#include "runtime/settings.h"

namespace driver {
namespace {

using sm80moe::ElementType;
using sm80moe::Int8Range;
using sm80moe::gemm::GroupedGemmArgs;
using sm80moe::gemm::Int8Output;

struct Shape {
  std::vector<int> rows;
  int n, k, tail, top_k;
  bool wrong_index, garbage_offsets, fixed, extreme;
  Int8Output output;

  int num_experts() const { return static_cast<int>(rows.size()); }
  int num_used() const { return std::accumulate(rows.begin(), rows.end(), 0); }
  int num_rows() const { return num_used() + tail; }
  int num_source_rows() const { return top_k ? (num_rows() + top_k - 1) / top_k : num_rows(); }
  int row_bytes() const { return static_cast<int>(sm80moe::int8_row_bytes(k)); }
};

Shape read_shape(const Options& options) {
  const auto number = [&options](const char* name, int otherwise) {
    return static_cast<int>(options.number(name, otherwise));
  };
  return {options.numbers("rows"),
          number("n", 128),
          number("k", 64),
          number("tail", 0),
          number("top_k", 0),
          number("wrong_index", 0) != 0,
          number("garbage_offsets", 0) != 0,
          number("fixed", 0) != 0,
          number("extreme", 0) != 0,
          static_cast<Int8Output>(number("output", 0))};
}

float power_of_two(simt::Random& random) {
  return std::ldexp(1.0f, -10 - static_cast<int>(random.below(3)));
}

class Problem {
 public:
  Problem(const Shape& shape, const Instance& instance, const Options& options, simt::Random random)
      : shape_(shape),
        type_(read_type(options)),
        has_scale_(options.number("scale", 0)),
        epilogue_(options, instance.epilogue, shape.num_experts(), shape.n, 0, type_, random),
        out_n_(epilogue_.num_columns()),
        out_bytes_(static_cast<int>(sm80moe::int8_row_bytes(out_n_))),
        a_("a", shape.num_source_rows(), shape.row_bytes(), shape.row_bytes()),
        w_("w", shape.num_experts() * shape.n, shape.row_bytes(), shape.row_bytes()),
        a_scale_("a_scale", shape.num_source_rows()),
        w_scale_("w_scale", shape.num_experts() * shape.n),
        w_sums_("w_sums", shape.num_experts() * shape.n),
        ranges_("ranges", 2),
        row_scale_("row_scale", shape.num_source_rows(), num_choices(), num_choices()),
        row_index_("row_index", shape.top_k ? shape.num_rows() : 0),
        expert_offsets_("expert_offsets", shape.num_experts() + 1),
        tile_counter_("tile_counter", 1),
        out16_("out", is_int8() ? 0 : shape.num_rows(), out_n_, out_n_),
        out8_("out", is_int8() ? shape.num_rows() : 0, out_bytes_, out_bytes_) {
    tile_counter_.set_flat(0, 0);
    ranges_.set_flat(0, {power_of_two(random), shape.fixed ? -37.0f : 0.0f});
    ranges_.set_flat(1, {2 * power_of_two(random), 21.0f});
    fill(a_, shape.num_source_rows(), random);
    fill(w_, shape.num_experts() * shape.n, random);
    for (int row = 0; row < shape.num_experts() * shape.n; ++row) {
      w_scale_.set_flat(row, power_of_two(random));
      int sum = 0;
      for (int k = 0; k < shape.k; ++k) sum += w_.at(row, k);
      w_sums_.set_flat(row, sum);
    }
    for (int row = 0; row < shape.num_source_rows(); ++row) {
      a_scale_.set_flat(row, power_of_two(random));
      for (int choice = 0; choice < num_choices(); ++choice)
        row_scale_.set(row, choice, static_cast<float>(short_fraction(random)));
    }
    fill_row_index(random);
    fill_offsets(random);
  }

  GroupedGemmArgs args() const {
    GroupedGemmArgs args{};
    const ColumnRows rows = epilogue_.rows();
    const int row_bytes = shape_.row_bytes();
    args.a = a_.data();
    args.w = w_.data() + rows.first * row_bytes;
    args.w_column_bytes = static_cast<uint32_t>(rows.step * row_bytes);
    args.w_up_bytes = int64_t{rows.second} * row_bytes;
    args.w_expert_bytes = int64_t{shape_.n} * row_bytes;
    args.row_index = shape_.top_k ? row_index_.data() : nullptr;
    args.expert_offsets = expert_offsets_.data();
    args.tile_counter = tile_counter_.data();
    args.out = is_int8() ? static_cast<void*>(out8_.data()) : out16_.data();
    args.a_row_chunks = static_cast<uint32_t>(row_bytes / 16);
    args.num_rows = shape_.num_rows();
    args.num_source_rows = shape_.num_source_rows();
    args.top_k = num_choices();
    args.num_experts = shape_.num_experts();
    args.n = shape_.n;
    args.k = row_bytes / 2;
    args.gated = epilogue_.gated();
    args.epilogue = epilogue_.args(rows);
    args.row_scale = has_scale_ ? row_scale_.data() : nullptr;
    args.row_scale_stride = row_scale_.stride();
    args.packed.scale = w_scale_.data();
    args.packed.first_row = rows.first;
    args.packed.row_step = rows.step;
    args.packed.up_rows = rows.second;
    args.packed.groups = 1;
    if (shape_.fixed) args.packed.codes = reinterpret_cast<const uint32_t*>(w_sums_.data());
    args.packed.code_words = 1;
    args.int8.row_scale = shape_.fixed ? &ranges_.data()->scale : a_scale_.data();
    args.int8.row_scale_stride = shape_.fixed ? 0 : 1;
    args.int8.range = shape_.fixed ? ranges_.data() : nullptr;
    args.int8.is_bfloat16 = type_ == ElementType::kBFloat16;
    args.int8.output = shape_.output;
    args.int8.out_stride = out_bytes_;
    args.int8.out_range = ranges_.data() + 1;
    return args;
  }

  void check() const {
    int row = 0;
    for (int expert = 0; expert < shape_.num_experts(); ++expert)
      for (int i = 0; i < shape_.rows[expert]; ++i, ++row) {
        std::vector<double> wanted(out_n_);
        for (int col = 0; col < out_n_; ++col) {
          const auto sum = [&](int w_row) { return dot(expert, row, w_row); };
          wanted[col] = epilogue_.value(expert, col, sum);
          if (!is_int8()) check_16_bits(expert, row, col, wanted[col]);
        }
        if (is_int8()) check_int8(row, wanted);
      }
    for (; row < shape_.num_rows(); ++row)
      for (int col = 0; col < (is_int8() ? out_bytes_ : out_n_); ++col)
        if (is_int8() ? out8_.at(row, col) != 0xff : out16_.at(row, col) != 0xffff)
          wrong_result(where(row, col) + " must stay untouched");
  }

 private:
  bool is_int8() const { return shape_.output != Int8Output::k16Bit; }
  int num_choices() const { return std::max(shape_.top_k, 1); }

  // Any int8; or all as large as they can be.
  void fill(Tensor<int8_t>& rows, int num_rows, simt::Random& random) {
    for (int row = 0; row < num_rows; ++row)
      for (int k = 0; k < shape_.row_bytes(); ++k) {
        const int any =
            shape_.extreme ? (row % 2 ? -128 : 127) : static_cast<int>(random.below(256)) - 128;
        rows.set(row, k, static_cast<int8_t>(k < shape_.k ? any : 0));
      }
  }

  void fill_row_index(simt::Random& random) {
    if (!shape_.top_k) return;
    std::vector<int> pairs(shape_.num_rows());
    std::iota(pairs.begin(), pairs.end(), 0);
    random.shuffle(pairs);
    const int wrong[] = {-1, INT32_MIN, INT32_MAX, shape_.num_source_rows() * shape_.top_k};
    for (int row = 0; row < shape_.num_rows(); ++row) {
      if (shape_.wrong_index && row % 3 == 1) pairs[row] = wrong[row / 3 % 4];
      row_index_.set_flat(row, pairs[row]);
    }
  }

  void fill_offsets(simt::Random& random) {
    int before = 0;
    for (int expert = 0; expert <= shape_.num_experts(); ++expert) {
      const int start[] = {-7, INT32_MAX};
      const int garbage =
          expert < 2 ? start[expert] : static_cast<int>(random.next()) >> random.below(32);
      expert_offsets_.set_flat(expert, shape_.garbage_offsets ? garbage : before);
      if (expert < shape_.num_experts()) before += shape_.rows[expert];
    }
  }

  double dot(int expert, int row, int w_row) const {
    const int pair = shape_.top_k ? row_index_[row] : row;
    const int source = shape_.top_k ? pair / shape_.top_k : row;
    if (pair < 0 || source >= shape_.num_source_rows()) return 0;
    const int at = expert * shape_.n + w_row;
    const int zero = shape_.fixed ? static_cast<int>(ranges_[0].zero_point) : 0;
    double sum = 0;
    for (int k = 0; k < shape_.k; ++k) sum += (a_.at(source, k) - zero) * w_.at(at, k);
    sum *= shape_.fixed ? ranges_[0].scale : a_scale_[source];
    if (has_scale_) sum *= row_scale_.at(source, shape_.top_k ? pair % shape_.top_k : 0);
    return sum * w_scale_[at];
  }

  void check_16_bits(int expert, int row, int col, double wanted) const {
    const auto sum = [&](int w_row) { return dot(expert, row, w_row); };
    const double got = to_double(out16_.at(row, col), type_);
    const double allowed = epilogue_.allowed(expert, col, sum, wanted);
    if (!(std::fabs(got - wanted) <= allowed))
      wrong_result(where(row, col) + simt::format(" must be %g, got %g", wanted, got));
  }

  // Stored numbers are the nearest; fp32's error may decide where two are as near.
  void check_int8(int row, const std::vector<double>& wanted) const {
    constexpr double kNearest = 0.501;
    const Int8Range& range = ranges_[1];
    for (int col = 0; col < out_n_; ++col) {
      const double steps = std::clamp(wanted[col] / range.scale + range.zero_point, -128.0, 127.0);
      const int got = static_cast<int8_t>(out8_.at(row, col));
      if (!(std::fabs(got - steps) <= kNearest))
        wrong_result(where(row, col) + simt::format(" must be near %g, got %d", steps, got));
    }
    for (int col = out_n_; col < out_bytes_; ++col)
      if (static_cast<int8_t>(out8_.at(row, col)) != static_cast<int>(range.zero_point))
        wrong_result(where(row, col) + " must be what zero is stored as");
  }

  std::string where(int row, int col) const { return simt::format("  out[%d, %d]", row, col); }

  const Shape shape_;
  const ElementType type_;
  const bool has_scale_;
  const Epilogue epilogue_;
  const int out_n_, out_bytes_;
  Tensor<int8_t> a_, w_;
  Tensor<float> a_scale_, w_scale_;
  Tensor<int32_t> w_sums_;
  Tensor<Int8Range> ranges_;
  Tensor<float> row_scale_;
  Tensor<int32_t> row_index_, expert_offsets_, tile_counter_;
  Tensor<uint16_t> out16_;
  Tensor<uint8_t> out8_;
};

}  // namespace

void run_int8_gemm(const Options& options) {
  const Instance instance = find_instance(options, "kInt8RowsGeneral");
  const Shape shape = read_shape(options);
  simt::settings().check_global_races = !shape.garbage_offsets;
  const Problem problem(shape, instance, options, simt::Random(simt::settings().seed));
  sm80moe::DeviceInfo info;
  check_status(sm80moe::get_device_info(0, &info));
  check_status(instance.launch(problem.args(), 0, info, nullptr));
  if (!shape.garbage_offsets) problem.check();
}

}  // namespace driver
