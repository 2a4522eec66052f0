// The router against plain loops in fp64.

#include <algorithm>
#include <limits>
#include <numeric>

#include "driver/commands.h"
#include "driver/tensor.h"
#include "routing/routing.h"
#include "runtime/settings.h"

namespace driver {
namespace {

using sm80moe::ElementType;
using sm80moe::routing::GroupScore;
using sm80moe::routing::ScoringKind;

constexpr int kNoExpert = -1;

// A number in [-4, 4) of which no two are likely to be close.
double any_number(simt::Random& random) { return random.below(1u << 20) * 0x1p-17 - 4; }

// Logits of one token: few different values, so that there are ties; none that are close; or what
// no router should give.
double logit(const std::string& values, simt::Random& random) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double ordinary = short_fraction(random);
  if (values == "distinct") return any_number(random);
  if (values == "wild") {
    const double wild[] = {ordinary, std::nan(""), kInfinity, -kInfinity};
    return wild[random.below(4)];
  }
  if (values == "zeros") return random.below(2) ? 0.0 : -0.0;
  return values == "nan" ? std::nan("") : ordinary;
}

// NaN below every number, infinities as the largest finite float: what topk_route documents.
double as_finite(double value) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  return std::isnan(value) ? -kLargest : std::min(std::max(value, -kLargest), kLargest);
}

// Rows of logits in a type of the caller's choosing.
class Logits {
 public:
  Logits(ElementType type, int rows, int cols, int stride)
      : type_(type),
        wide_("logits", type == ElementType::kFloat32 ? rows : 0, cols, stride),
        narrow_("logits", type == ElementType::kFloat32 ? 0 : rows, cols, stride) {}

  const void* data() const {
    return type_ == ElementType::kFloat32 ? static_cast<const void*>(wide_.data()) : narrow_.data();
  }
  void set(int row, int col, double value) {
    if (type_ == ElementType::kFloat32)
      wide_.set(row, col, static_cast<float>(value));
    else
      narrow_.set(row, col, to_bits(value, type_));
  }
  double at(int row, int col) const {
    return as_finite(type_ == ElementType::kFloat32 ? wide_.at(row, col)
                                                    : to_double(narrow_.at(row, col), type_));
  }

 private:
  const ElementType type_;
  Tensor<float> wide_;
  Tensor<uint16_t> narrow_;
};

// The positions of values, largest first, ties to the lowest.
std::vector<int> best_first(const std::vector<double>& values) {
  std::vector<int> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return values[a] > values[b]; });
  return order;
}

std::vector<double> scores_of(ScoringKind scoring, const std::vector<double>& logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double l : logits) sum += std::exp(l - largest);
  std::vector<double> scores;
  for (const double l : logits) {
    if (scoring == ScoringKind::kSoftmax) scores.push_back(std::exp(l - largest) / sum);
    if (scoring == ScoringKind::kSigmoid) scores.push_back(1 / (1 + std::exp(-l)));
    if (scoring == ScoringKind::kSqrtSoftplus)
      scores.push_back(std::sqrt(std::max(l, 0.0) + std::log1p(std::exp(-std::fabs(l)))));
  }
  return scores;
}

// Puts experts outside the best groups below all others.
void remove_other_groups(const sm80moe::routing::TopkArgs& args, std::vector<double>& choice) {
  const int size = args.num_experts / args.n_group;
  std::vector<double> group_scores;
  for (int group = 0; group < args.n_group; ++group) {
    std::vector<double> experts(choice.begin() + group * size, choice.begin() + (group + 1) * size);
    std::sort(experts.rbegin(), experts.rend());
    const bool two = args.group_score == GroupScore::kTop2Sum && size > 1;
    group_scores.push_back(two ? experts[0] + experts[1] : experts[0]);
  }
  const std::vector<int> order = best_first(group_scores);
  for (int rank = args.topk_group; rank < args.n_group; ++rank)
    for (int i = 0; i < size; ++i)
      choice[order[rank] * size + i] = -std::numeric_limits<double>::infinity();
}

// One token's experts and weights.
struct Routed {
  std::vector<int> experts;
  std::vector<double> weights;

  Routed(const sm80moe::routing::TopkArgs& args, const std::vector<double>& logits) {
    const std::vector<double> scores = scores_of(args.scoring, logits);
    std::vector<double> choice = logits;
    if (args.correction_bias || args.n_group > 1)
      for (int e = 0; e < args.num_experts; ++e)
        choice[e] = as_finite(scores[e] + (args.correction_bias ? args.correction_bias[e] : 0));
    if (args.n_group > 1) remove_other_groups(args, choice);
    experts = best_first(choice);
    experts.resize(args.top_k);
    double sum = 0;
    for (const int e : experts) sum += scores[e];
    const double divisor = args.renormalize && sum > 0 ? sum : 1;
    for (const int e : experts) weights.push_back(scores[e] / divisor * args.routed_scaling_factor);
  }
};

void check_token(const sm80moe::routing::TopkArgs& args, int token, const Routed& wanted) {
  for (int k = 0; k < args.top_k; ++k) {
    const int64_t at = static_cast<int64_t>(token) * args.top_k + k;
    const int id = args.expert_map ? args.expert_map[wanted.experts[k]] : wanted.experts[k];
    if (args.topk_ids[at] != id)
      wrong_result(
          simt::format("  topk_ids[%d, %d] must be %d, got %d", token, k, id, args.topk_ids[at]));
    const double weight = wanted.weights[k], got = args.topk_weights[at];
    if (!(std::fabs(got - weight) <= 1e-5 * weight + 1e-37))
      wrong_result(
          simt::format("  topk_weights[%d, %d] must be %g, got %g", token, k, weight, got));
  }
}

ScoringKind read_scoring(const Options& options) {
  const std::string name = options.text("scoring", "softmax");
  if (name == "softmax") return ScoringKind::kSoftmax;
  if (name == "sigmoid") return ScoringKind::kSigmoid;
  if (name == "sqrtsoftplus") return ScoringKind::kSqrtSoftplus;
  usage_error("scoring must be softmax, sigmoid or sqrtsoftplus, got " + name);
}

}  // namespace

void run_topk(const Options& options) {
  const int tokens = static_cast<int>(options.number("tokens", 5));
  const int experts = static_cast<int>(options.number("experts", 8));
  const int stride = experts + static_cast<int>(options.number("pad", 0));
  const std::string values = options.text("values", "ties");

  sm80moe::routing::TopkArgs args{};
  args.logits_type = read_type(options);
  args.logits_row_stride = stride;
  args.num_tokens = tokens;
  args.num_experts = experts;
  args.top_k = static_cast<int>(options.number("top_k", 2));
  args.n_group = static_cast<int>(options.number("n_group", 1));
  args.topk_group = static_cast<int>(options.number("topk_group", 1));
  args.group_score = static_cast<GroupScore>(options.number("top2_sum", 1));
  args.scoring = read_scoring(options);
  args.renormalize = options.number("renormalize", 1);
  args.routed_scaling_factor = static_cast<float>(options.number("factor", 1));

  simt::Random random(simt::settings().seed);
  Logits logits(args.logits_type, tokens, experts, stride);
  for (int t = 0; t < tokens; ++t)
    for (int e = 0; e < experts; ++e) logits.set(t, e, logit(values, random));
  Tensor<float> bias("correction_bias", experts), weights("topk_weights", tokens * args.top_k);
  Tensor<int32_t> map("expert_map", experts), ids("topk_ids", tokens * args.top_k);
  Tensor<int32_t> counts("tokens_per_expert", experts);
  std::vector<int> wanted_counts(experts);
  for (int e = 0; e < experts; ++e) {
    bias.set_flat(e, static_cast<float>(any_number(random)));
    map.set_flat(e, e % 3 ? experts - e : kNoExpert);
    counts.set_flat(e, 0);
  }
  args.logits = logits.data();
  args.topk_weights = weights.data();
  args.topk_ids = ids.data();
  if (options.number("bias", 0)) args.correction_bias = bias.data();
  if (options.number("map", 0)) args.expert_map = map.data();
  if (options.number("count", 0)) args.tokens_per_expert = counts.data();
  check_status(sm80moe::routing::topk_route(args, nullptr));

  for (int t = 0; t < tokens; ++t) {
    std::vector<double> row;
    for (int e = 0; e < experts; ++e) row.push_back(logits.at(t, e));
    const Routed wanted(args, row);
    check_token(args, t, wanted);
    if (args.tokens_per_expert)
      for (const int e : wanted.experts) ++wanted_counts[e];
  }
  for (int e = 0; e < experts; ++e)
    if (counts[e] != wanted_counts[e])
      wrong_result(simt::format("  tokens_per_expert[%d] must be %d, got %d", e, wanted_counts[e],
                                counts[e]));
}

}  // namespace driver
