// decode tokens=2 top_k=4 experts=8 hidden=72 intermediate=40 seed=1: the whole layer for few rows.
// format=int8, int4, fp8 or mxfp4 packs the weights, with group=0 to 128 and zero_points=1; of w8a8
// activations become int8, too.
// Options are those of driver/epilogue.h, weigh_input=1, w2_bias=1 and residual=1.

#include "decode/decode.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "driver/commands.h"
#include "driver/epilogue.h"
#include "driver/int8.h"
#include "driver/tensor.h"
#include "driver/weights.h"
#include "runtime/settings.h"

namespace driver {
namespace {

using sm80moe::ElementType;
using sm80moe::WeightFormat;
using sm80moe::decode::FirstHalf;
using sm80moe::decode::LayerArgs;

constexpr uint16_t kUntouched = 0xffff;  // the poison of fresh device memory

struct Shape {
  ElementType type;
  int tokens, top_k, experts, hidden, intermediate;
  int pad;  // elements after each row of 16-bit elements, choices after each token's
  int gates;
  WeightFormat format;
  int group;
  bool zero_points;

  int num_pairs() const { return tokens * top_k; }
  WeightShape weights(int rows, int depth) const {
    return {experts, rows, depth, pad, group, zero_points};
  }
};

WeightFormat read_format(const Options& options) {
  const std::string name = options.text("format", "dense");
  if (name == "dense") return WeightFormat::kDense;
  const bool one_scale = options.number("group", 0) == 0 && !options.number("zero_points", 0);
  if (name == "int8") return one_scale ? WeightFormat::kInt8 : WeightFormat::kInt8Group;
  if (name == "int4") return WeightFormat::kInt4;
  if (name == "fp8") return WeightFormat::kFp8;
  if (name == "mxfp4") return WeightFormat::kMxfp4;
  if (name == "w8a8") return WeightFormat::kInt8Rows;
  usage_error("decode: format must be dense, int8, int4, fp8, mxfp4 or w8a8, got " + name);
}

Shape read_shape(const Options& options) {
  const auto number = [&](const char* name, int otherwise) {
    return static_cast<int>(options.number(name, otherwise));
  };
  const bool fp16 = options.text("type", "bf16") == "fp16";
  return {fp16 ? ElementType::kFloat16 : ElementType::kBFloat16,
          number("tokens", 1),
          number("top_k", 2),
          number("experts", 8),
          number("hidden", 72),
          number("intermediate", 40),
          number("pad", 0),
          number("gated", 1) ? 2 : 1,
          read_format(options),
          number("group", 0),
          number("zero_points", 0) != 0};
}

// A tensor of short fractions, smaller in some rows, so that no two neighbours have one int8 scale.
struct Matrix : Tensor<uint16_t> {
  Matrix(const char* name, int rows, int cols, const Shape& shape, simt::Random& random)
      : Tensor(name, rows, cols, cols + shape.pad), type(shape.type) {
    for (int row = 0; row < rows; ++row)
      for (int col = 0; col < cols; ++col)
        set(row, col, to_bits(std::ldexp(short_fraction(random), -(row % 3)), type));
  }
  double value(int64_t row, int col) const { return to_double(at(row, col), type); }
  const ElementType type;
};

template <class Id>
class Problem {
 public:
  Problem(const Shape& shape, const Options& options, simt::Random random)
      : shape_(shape),
        map_(options.number("map", 0), shape.experts, random),
        x_("hidden_states", shape.tokens, shape.hidden, shape, random),
        weigh_input_(options.number("weigh_input", 0)),
        has_w2_bias_(options.number("w2_bias", 0)),
        has_residual_(options.number("residual", 0)),
        epilogue_(options, sm80moe::gemm::EpilogueKind::kGated, shape.experts,
                  shape.gates * shape.intermediate, shape.pad, shape.type, random),
        w13_(make_weights(shape.format, shape.type,
                          shape.weights(shape.gates * shape.intermediate, shape.hidden), random)),
        w2_(make_weights(shape.format, shape.type, shape.weights(shape.hidden, shape.intermediate),
                         random)),
        w2_bias_("w2_bias", has_w2_bias_ ? shape.experts : 0, shape.hidden, shape, random),
        weights_("topk_weights", shape.tokens, shape.top_k, shape.top_k + shape.pad),
        ids_("topk_ids", shape.tokens, shape.top_k, shape.top_k + shape.pad),
        intermediate_("intermediate", shape.num_pairs(), shape.intermediate, shape.intermediate),
        out_("out", shape.tokens, shape.hidden, shape.hidden + shape.pad) {
    for (int t = 0; has_residual_ && t < shape.tokens; ++t)
      for (int h = 0; h < shape.hidden; ++h) {
        residual_.push_back(to_bits(short_fraction(random), shape.type));
        out_.set(t, h, residual_.back());
      }
    const std::string ids = options.text("ids", "any");
    const std::string weights = options.text("weights", "short");
    for (int pair = 0; pair < shape.num_pairs(); ++pair) {
      ids_.set(token(pair), choice(pair), id(ids, pair, random));
      // Where all products are the same, the first two cancel out before the third comes: in any
      // other order it is lost.
      constexpr double kCancelling[] = {1 << 30, -(1 << 30), 1};
      const double weight =
          weights == "cancelling" ? kCancelling[choice(pair) % 3] : short_fraction(random);
      weights_.set(token(pair), choice(pair),
                   is_valid(pair) ? static_cast<float>(weight) : std::nanf(""));
    }
  }

  LayerArgs args() const {
    LayerArgs args{};
    args.hidden_states = x_.data();
    const ColumnRows rows = epilogue_.gated() ? epilogue_.rows() : ColumnRows{0, 2, 1};
    fill_weights(args, rows);
    args.topk_weights = weights_.data();
    args.topk_ids = {ids_.data(), ids_.stride(), sizeof(Id) == 8, map_.data(), map_.num_ids()};
    args.intermediate = intermediate_.data();
    args.out = out_.data();
    args.hidden_states_row_stride = x_.stride();
    args.topk_weights_row_stride = weights_.stride();
    args.out_row_stride = out_.stride();
    args.num_tokens = shape_.tokens;
    args.top_k = shape_.top_k;
    args.num_experts = shape_.experts;
    args.hidden_size = shape_.hidden;
    args.intermediate_size = shape_.intermediate;
    args.first_half = !epilogue_.gated()                        ? FirstHalf::kUngated
                      : epilogue_.has_options() || weigh_input_ ? FirstHalf::kGated
                                                                : FirstHalf::kSwiglu;
    args.epilogue = epilogue_.args(rows);
    args.weighs_input = weigh_input_;
    args.residual = has_residual_ ? out_.data() : nullptr;
    args.residual_row_stride = out_.stride();
    args.w2_bias = has_w2_bias_ ? w2_bias_.data() : nullptr;
    args.w2_bias_expert_stride = w2_bias_.stride();
    return args;
  }

  void check() const {
    for (int pair = 0; pair < shape_.num_pairs(); ++pair)
      for (int i = 0; i < shape_.intermediate; ++i) check_intermediate(pair, i);
    for (int t = 0; t < shape_.tokens; ++t)
      for (int h = 0; h < shape_.hidden; ++h) check_out(t, h);
  }

 private:
  void fill_weights(LayerArgs& args, const ColumnRows& rows) const {
    constexpr int kUnit = 2;  // bytes
    sm80moe::gemm::GroupedGemmArgs w13{}, w2{};
    w13_->fill_args(w13, rows);
    args.w13 = w13.w;
    args.w13_column_stride = w13.w_column_bytes / kUnit;
    args.w13_second_row = w13.w_up_bytes / kUnit;
    args.w13_expert_stride = w13.w_expert_bytes / kUnit;
    args.w13_packed = w13.packed;
    w2_->fill_args(w2, {0, 1, 1});
    args.w2 = w2.w;
    args.w2_row_stride = w2.w_column_bytes / kUnit;
    args.w2_expert_stride = w2.w_expert_bytes / kUnit;
    args.w2_packed = w2.packed;
  }

  int token(int pair) const { return pair / shape_.top_k; }
  int choice(int pair) const { return pair % shape_.top_k; }
  int64_t expert(int pair) const { return map_[ids_.at(token(pair), choice(pair))]; }
  bool is_valid(int pair) const { return expert(pair) >= 0 && expert(pair) < shape_.experts; }

  Id id(const std::string& ids, int pair, simt::Random& random) const {
    using Limits = std::numeric_limits<Id>;
    const Id valid = static_cast<Id>(random.below(map_.num_ids()));
    const Id wrong[] = {-1, static_cast<Id>(shape_.experts), Limits::min(), Limits::max()};
    if (ids == "last") return static_cast<Id>(shape_.experts - 1);
    if (ids == "invalid") return wrong[pair % 4];
    if (ids == "mixed") return pair % 3 == 1 ? wrong[pair / 3 % 4] : valid;
    if (ids != "any") usage_error("decode: ids must be any, last, invalid or mixed, got " + ids);
    return valid;
  }

  void check_intermediate(int pair, int i) const {
    const uint16_t bits = intermediate_.at(pair, i);
    const std::string where = simt::format("  intermediate[%d, %d]", pair, i);
    if (!is_valid(pair)) {
      if (bits != kUntouched) wrong_result(where + " must stay untouched");
      return;
    }
    const int e = static_cast<int>(expert(pair));
    const std::vector<double> x = multiplied(x_, token(pair), shape_.hidden);
    const auto sum = [&](int row) {
      double sum = 0;
      for (int h = 0; h < shape_.hidden; ++h) sum += x[h] * w13_->value(e, row, h);
      return weigh_input_ ? sum * weights_.at(token(pair), choice(pair)) : sum;
    };
    const double wanted = epilogue_.value(e, i, sum), got = to_double(bits, shape_.type);
    // The sums are exact, activations add fp32's own error to the rounding.
    if (!(std::fabs(got - wanted) <= epilogue_.allowed(e, i, sum, wanted)))
      wrong_result(where + simt::format(" must be %g, got %g", wanted, got));
  }

  // A row as a GEMM multiplies it.
  std::vector<double> multiplied(const Tensor<uint16_t>& rows, int row, int columns) const {
    std::vector<double> values;
    double largest = 0;
    for (int col = 0; col < columns; ++col) {
      values.push_back(to_double(rows.at(row, col), shape_.type));
      largest = std::max(largest, std::fabs(values.back()));
    }
    if (shape_.format != WeightFormat::kInt8Rows) return values;
    const float scale = int8_scale(largest);
    for (double& value : values) value = double{scale} * stored(static_cast<float>(value), scale);
    return values;
  }

  // From the kernel's own intermediate values on: a product rounded once, an fp32 sum in the order
  // of the choices. A token is not judged where fp32's error may decide how a product is rounded.
  void check_out(int t, int h) const {
    float wanted = 0;
    if (has_residual_)
      wanted = static_cast<float>(to_double(residual_[t * shape_.hidden + h], shape_.type));
    for (int pair = t * shape_.top_k; pair < (t + 1) * shape_.top_k; ++pair) {
      if (!is_valid(pair)) continue;
      double product = 0, size = 0;
      const std::vector<double> x = multiplied(intermediate_, pair, shape_.intermediate);
      for (int i = 0; i < shape_.intermediate; ++i) {
        const double term = x[i] * w2_->value(static_cast<int>(expert(pair)), h, i);
        product += term;
        size += std::fabs(term);
      }
      const double error = std::ldexp(size, -20);
      const uint16_t rounded = to_bits(product, shape_.type);
      if (rounded != to_bits(product - error, shape_.type) ||
          rounded != to_bits(product + error, shape_.type))
        return;
      auto row = static_cast<float>(to_double(rounded, shape_.type));
      if (has_w2_bias_) row += static_cast<float>(w2_bias_.value(expert(pair), h));
      wanted = std::fma(weigh_input_ ? 1.0f : weights_.at(t, choice(pair)), row, wanted);
    }
    const double got = to_double(out_.at(t, h), shape_.type);
    const double exact = to_double(to_bits(wanted, shape_.type), shape_.type);
    if (got != exact)
      wrong_result(simt::format("  out[%d, %d] must be %g, got %g", t, h, exact, got));
  }

  const Shape shape_;
  const ExpertMap map_;
  const Matrix x_;
  const bool weigh_input_, has_w2_bias_, has_residual_;
  const Epilogue epilogue_;
  const std::unique_ptr<Weights> w13_, w2_;
  const Matrix w2_bias_;
  Tensor<float> weights_;
  Tensor<Id> ids_;
  const Tensor<uint16_t> intermediate_;
  Tensor<uint16_t> out_;            // holds the residual before the run
  std::vector<uint16_t> residual_;  // of which this is a copy
};

template <class Id>
void run_problem(const Options& options) {
  const Shape shape = read_shape(options);
  const Problem<Id> problem(shape, options, simt::Random(simt::settings().seed));
  sm80moe::DeviceInfo info;
  cudaError_t status = sm80moe::get_device_info(0, &info);
  if (status == cudaSuccess)
    status = sm80moe::decode::run_layer(problem.args(), shape.type, 0, info, nullptr);
  if (status != cudaSuccess) wrong_result(simt::format("  the launch failed with %d", status));
  problem.check();
}

}  // namespace

void run_decode(const Options& options) {
  options.number("int64", 0) ? run_problem<int64_t>(options) : run_problem<int32_t>(options);
}

}  // namespace driver
