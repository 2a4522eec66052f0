// sort and combine against plain loops.

#include "routing/routing.h"

#include <algorithm>
#include <cstdio>
#include <limits>

#include "driver/commands.h"
#include "driver/tensor.h"
#include "runtime/settings.h"

namespace driver {
namespace {

using sm80moe::ElementType;

// Stable counting sort of the valid pairs, as the specification has it.
struct Sorted {
  std::vector<int> offsets, row_index, row_position;

  Sorted(const std::vector<int64_t>& ids, int num_experts)
      : offsets(num_experts + 1), row_index(ids.size(), -1), row_position(ids.size(), -1) {
    int row = 0;
    for (int expert = 0; expert < num_experts; ++expert) {
      offsets[expert] = row;
      for (size_t pair = 0; pair < ids.size(); ++pair)
        if (ids[pair] == expert) {
          row_index[row] = static_cast<int>(pair);
          row_position[pair] = row++;
        }
    }
    offsets[num_experts] = row;
  }
};

void check_equal(const char* name, const Tensor<int32_t>& got, const std::vector<int>& wanted) {
  for (size_t i = 0; i < wanted.size(); ++i)
    if (got[i] != wanted[i])
      wrong_result(simt::format("  %s[%zu] must be %d, got %d", name, i, wanted[i], got[i]));
}

}  // namespace

template <class Id>
void sort_ids(const Options& options) {
  const int tokens = static_cast<int>(options.number("tokens", 50));
  const int top_k = static_cast<int>(options.number("top_k", 2));
  const int experts = static_cast<int>(options.number("experts", 8));
  const int stride = top_k + static_cast<int>(options.number("pad", 0));
  const bool one_expert = options.number("one_expert", 0);
  const bool invalid = options.number("invalid", 0);
  const int num_pairs = tokens * top_k;

  simt::Random random(simt::settings().seed);
  const ExpertMap map(options.number("map", 0), experts, random);
  Tensor<Id> ids("topk_ids", tokens, top_k, stride);
  std::vector<int64_t> pairs;
  for (int t = 0; t < tokens; ++t)
    for (int j = 0; j < top_k; ++j) {
      const Id wrong[] = {-1, static_cast<Id>(experts), std::numeric_limits<Id>::min(),
                          std::numeric_limits<Id>::max()};
      const bool is_wrong = invalid && random.below(3) == 0;
      const Id valid = static_cast<Id>(one_expert ? experts - 1 : random.below(map.num_ids()));
      ids.set(t, j, is_wrong ? wrong[random.below(4)] : valid);
      pairs.push_back(map[ids.at(t, j)]);
    }
  Tensor<int32_t> offsets("expert_offsets", experts + 1), index("row_index", num_pairs);
  Tensor<int32_t> position("row_position", num_pairs), counters("counters", 2);
  for (int pair = 0; pair < num_pairs; ++pair) {  // what a tensor holds at first is right here: -1
    index.set_flat(pair, num_pairs);
    position.set_flat(pair, num_pairs);
  }

  sm80moe::routing::SortArgs args{};
  args.topk_ids = {ids.data(), stride, sizeof(Id) == 8, map.data(), map.num_ids()};
  args.num_pairs = num_pairs;
  args.top_k = top_k;
  args.num_experts = experts;
  args.expert_offsets = offsets.data();
  args.row_index = index.data();
  args.row_position = position.data();
  args.counters = counters.data();
  args.num_counters = 2;
  check_status(sm80moe::routing::sort_by_expert(args, nullptr));

  const Sorted wanted(pairs, experts);
  check_equal("expert_offsets", offsets, wanted.offsets);
  check_equal("row_index", index, wanted.row_index);
  check_equal("row_position", position, wanted.row_position);
  check_equal("counters", counters, {0, 0});
}

void run_sort(const Options& options) {
  options.number("int64", 0) ? sort_ids<int64_t>(options) : sort_ids<int32_t>(options);
}

void run_combine(const Options& options) {
  const ElementType type = read_type(options);
  const int tokens = static_cast<int>(options.number("tokens", 4));
  const int top_k = static_cast<int>(options.number("top_k", 2));
  const int hidden = static_cast<int>(options.number("hidden", 8));
  const int pad = static_cast<int>(options.number("pad", 0));
  const bool wrong_position = options.number("wrong_position", 0);
  const bool unweighted = options.number("unweighted", 0);
  const bool has_residual = options.number("residual", 0);
  const int experts = static_cast<int>(options.number("bias", 0));  // 0: there are no biases
  const int num_rows = tokens * top_k;

  simt::Random random(simt::settings().seed);
  Tensor<uint16_t> rows("rows", num_rows, hidden, hidden + pad);
  Tensor<float> weights("topk_weights", tokens, top_k, top_k + pad);
  Tensor<int32_t> position("row_position", tokens, top_k, top_k);
  Tensor<uint16_t> out("out", tokens, hidden, hidden + pad);
  Tensor<uint16_t> bias("bias", experts, hidden, hidden + pad);
  Tensor<int32_t> ids("topk_ids", experts ? tokens : 0, top_k, top_k + pad);
  for (int expert = 0; expert < experts; ++expert)
    for (int col = 0; col < hidden; ++col)
      bias.set(expert, col, to_bits(short_fraction(random), type));
  // The residual is where the result will be.
  std::vector<double> residual(tokens * hidden);
  for (int i = 0; has_residual && i < tokens * hidden; ++i) {
    residual[i] = short_fraction(random);
    out.set(i / hidden, i % hidden, to_bits(residual[i], type));
  }
  const int wrong[] = {-1, num_rows, INT32_MIN, INT32_MAX};
  for (int row = 0; row < num_rows; ++row) {
    for (int col = 0; col < hidden; ++col)
      rows.set(row, col, to_bits(short_fraction(random), type));
    const int target = wrong_position && row % 2 ? wrong[row / 2 % 4] : num_rows - 1 - row;
    position.set_flat(row, target);
    weights.set(row / top_k, row % top_k, static_cast<float>(short_fraction(random)));
    if (experts) ids.set(row / top_k, row % top_k, static_cast<int>(random.below(experts)));
  }

  sm80moe::routing::CombineArgs args{};
  args.rows = rows.data();
  args.topk_weights = weights.data();
  args.row_position = position.data();
  args.out = out.data();
  args.rows_stride = rows.stride();
  args.weights_row_stride = weights.stride();
  args.out_stride = out.stride();
  args.num_rows = num_rows;
  args.num_tokens = tokens;
  args.top_k = top_k;
  args.hidden_size = hidden;
  args.unweighted = unweighted;
  args.residual = has_residual ? out.data() : nullptr;
  args.residual_stride = out.stride();
  args.bias = experts ? bias.data() : nullptr;
  args.bias_stride = bias.stride();
  args.topk_ids = {ids.data(), ids.stride(), false, nullptr, experts};
  args.num_experts = experts;
  check_status(sm80moe::routing::combine(args, type, nullptr));

  for (int t = 0; t < tokens; ++t)
    for (int col = 0; col < hidden; ++col) {
      double sum = residual[t * hidden + col];
      for (int j = 0; j < top_k; ++j) {
        const int row = position.at(t, j);
        if (row < 0 || row >= num_rows) continue;
        const double more = experts ? to_double(bias.at(ids.at(t, j), col), type) : 0;
        sum += (unweighted ? 1 : weights.at(t, j)) * (to_double(rows.at(row, col), type) + more);
      }
      const double got = to_double(out.at(t, col), type),
                   exact = to_double(to_bits(sum, type), type);
      if (got != exact)
        wrong_result(simt::format("  out[%d, %d] must be %g, got %g", t, col, exact, got));
    }
}

}  // namespace driver
