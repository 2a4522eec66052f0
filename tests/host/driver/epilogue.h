#pragma once
// The options of an epilogue, as a run names them, and what they make of exact sums:
// activation=3 gated=0 order=2 bias=1 constants=1.

#include <cmath>

#include "common/epilogue_args.h"
#include "driver/options.h"
#include "driver/tensor.h"
#include "gemm/problem.h"

namespace driver {

// Which rows of a weight make a column, in rows.
struct ColumnRows {
  int first, step, second;
};

class Epilogue {
 public:
  // `kind` is what options may change, `num_rows` weight rows an expert has, `pad` elements follow
  // each expert's biases.
  Epilogue(const Options& options, sm80moe::gemm::EpilogueKind kind, int num_experts, int num_rows,
           int pad, sm80moe::ElementType type, simt::Random& random)
      : gated_(options.number("gated", sm80moe::gemm::is_gated(kind))),
        activation_(read_activation(options, kind)),
        order_(static_cast<int>(options.number("order", 0))),
        num_rows_(num_rows),
        has_bias_(options.number("bias", 0)),
        has_constants_(options.number("constants", 0)),
        type_(type),
        bias_("bias", has_bias_ ? num_experts : 0, num_rows, num_rows + pad),
        alpha_("swiglu_alpha", has_constants_ ? num_experts : 0),
        beta_("swiglu_beta", has_constants_ ? num_experts : 0),
        limit_("swiglu_limit", has_constants_ ? num_experts : 0) {
    for (int expert = 0; expert < num_experts; ++expert) {
      for (int row = 0; has_bias_ && row < num_rows; ++row)
        bias_.set(expert, row, to_bits(short_fraction(random), type));
      if (!has_constants_) continue;
      alpha_.set_flat(expert, static_cast<float>(1.5 + short_fraction(random)));
      beta_.set_flat(expert, static_cast<float>(short_fraction(random)));
      limit_.set_flat(expert, static_cast<float>(0.25 + std::fabs(short_fraction(random))));
    }
  }

  bool gated() const { return gated_; }
  bool has_options() const {
    return has_bias_ || has_constants_ || activation_ != sm80moe::ActivationKind::kSilu;
  }
  int num_columns() const { return gated_ ? num_rows_ / 2 : num_rows_; }

  ColumnRows rows() const {
    const int half = num_rows_ / 2;
    constexpr ColumnRows kPlain{0, 1, 0}, kInterleaved{0, 2, 1};
    if (!gated_) return kPlain;
    return order_ == 0   ? ColumnRows{0, 1, half}
           : order_ == 1 ? ColumnRows{half, 1, -half}
                         : kInterleaved;
  }

  sm80moe::EpilogueArgs args(const ColumnRows& rows) const {
    sm80moe::EpilogueArgs args{};
    if (has_bias_) args.bias.rows = bias_.data() + rows.first;
    args.bias.expert_stride = bias_.stride();
    args.bias.column_step = rows.step;
    args.bias.second = rows.second;
    args.activation = activation_;
    if (!has_constants_) return args;
    args.swiglu_alpha = {alpha_.data(), 1};
    args.swiglu_beta = {beta_.data(), 1};
    args.swiglu_limit = {limit_.data(), 1};
    return args;
  }

  // A column's value, where sum(row) is the scaled sum of a weight row, without bias.
  template <class Sum>
  double value(int expert, int column, const Sum& sum) const {
    const ColumnRows at = rows();
    const int first = at.first + column * at.step;
    const double gate = sum(first) + bias(expert, first);
    if (!gated_) return activated(gate, 1);
    const double up = sum(first + at.second) + bias(expert, first + at.second);
    if (!has_constants_) return activated(gate, 1) * up;
    const double limit = limit_[expert], clamped = std::fmin(gate, limit);
    return activated(clamped, alpha_[expert]) *
           (std::fmax(-limit, std::fmin(up, limit)) + beta_[expert]);
  }

  // fp32's own error, which is added to the rounding of the result.
  template <class Sum>
  double allowed(int expert, int column, const Sum& sum, double wanted) const {
    const ColumnRows at = rows();
    const int first = at.first + column * at.step;
    const double gate = std::fabs(sum(first) + bias(expert, first));
    const double up = gated_ ? std::fabs(sum(first + at.second)) + 2 : 1;
    return 1.01 * half_ulp(wanted, type_) + 2e-7 * gate * up;
  }

 private:
  static sm80moe::ActivationKind read_activation(const Options& options,
                                                 sm80moe::gemm::EpilogueKind kind) {
    using sm80moe::ActivationKind;
    const bool stores_sums = kind == sm80moe::gemm::EpilogueKind::kStore;
    const ActivationKind usual = stores_sums ? ActivationKind::kIdentity : ActivationKind::kSilu;
    return static_cast<ActivationKind>(options.number("activation", static_cast<int>(usual)));
  }

  double bias(int expert, int row) const {
    return has_bias_ ? to_double(bias_.at(expert, row), type_) : 0;
  }

  double activated(double x, double alpha) const {
    switch (activation_) {
      case sm80moe::ActivationKind::kSilu:
        return x / (1 + std::exp(-alpha * x));
      case sm80moe::ActivationKind::kGelu:
        return x * (1 + std::erf(x / std::sqrt(2.0))) / 2;
      case sm80moe::ActivationKind::kGeluTanh:
        return x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) / 2;
      case sm80moe::ActivationKind::kRelu:
        return std::fmax(x, 0);
      case sm80moe::ActivationKind::kRelu2:
        return std::fmax(x, 0) * std::fmax(x, 0);
      case sm80moe::ActivationKind::kIdentity:
        return x;
    }
    usage_error("activation must be the number of one");
  }

  const bool gated_;
  const sm80moe::ActivationKind activation_;
  const int order_, num_rows_;
  const bool has_bias_, has_constants_;
  const sm80moe::ElementType type_;
  Tensor<uint16_t> bias_;
  Tensor<float> alpha_, beta_, limit_;
};

}  // namespace driver
