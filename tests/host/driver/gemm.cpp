// gemm table=kBf16Store tactic=3 rows=5,0,17 n=136 k=72 seed=1: one grouped GEMM. Options of its
// epilogue are those of driver/epilogue.h, and scale=1.

#include <cstdio>
#include <memory>
#include <numeric>

#include "driver/commands.h"
#include "driver/epilogue.h"
#include "driver/instances.h"
#include "driver/tensor.h"
#include "driver/weights.h"
#include "gemm/problem.h"
#include "runtime/settings.h"

namespace driver {
namespace {

using sm80moe::ElementType;
using sm80moe::gemm::EpilogueKind;
using sm80moe::gemm::GroupedGemmArgs;

struct Shape {
  std::vector<int> rows;  // of each expert
  int n, k;
  int tail;   // rows that belong to no expert
  int top_k;  // 0: row m of A is row m; otherwise rows are gathered by an index of pairs
  int pad;    // elements after each row of A and W, and rows after each expert of W
  int group;  // packed weights of a row that share a scale; 0: all
  bool zero_points;
  bool wrong_index, garbage_offsets;

  int num_experts() const { return static_cast<int>(rows.size()); }
  int num_used() const { return std::accumulate(rows.begin(), rows.end(), 0); }
  int num_rows() const { return num_used() + tail; }
  int num_source_rows() const { return top_k ? (num_rows() + top_k - 1) / top_k : num_rows(); }
};

Shape read_shape(const Options& options) {
  Shape shape;
  shape.rows = options.numbers("rows");
  if (shape.rows.empty()) usage_error("gemm: rows=... must name each expert's rows");
  shape.n = static_cast<int>(options.number("n", 128));
  shape.k = static_cast<int>(options.number("k", 64));
  shape.tail = static_cast<int>(options.number("tail", 0));
  shape.top_k = static_cast<int>(options.number("top_k", 0));
  shape.pad = static_cast<int>(options.number("pad", 0));
  shape.group = static_cast<int>(options.number("group", 0));
  shape.zero_points = options.number("zero_points", 0);
  shape.wrong_index = options.number("wrong_index", 0);
  shape.garbage_offsets = options.number("garbage_offsets", 0);
  return shape;
}

class Problem {
 public:
  Problem(const Shape& shape, const Instance& instance, const Options& options, simt::Random random)
      : shape_(shape),
        type_(instance.type),
        stores_sums_(instance.epilogue == EpilogueKind::kStore),
        has_scale_(options.number("scale", 0)),
        epilogue_(options, instance.epilogue, shape.num_experts(), shape.n, shape.pad,
                  instance.type, random),
        out_n_(epilogue_.num_columns()),
        a_("a", shape.num_source_rows(), shape.k, shape.k + shape.pad),
        w_(make_weights(
            instance.format, type_,
            {shape.num_experts(), shape.n, shape.k, shape.pad, shape.group, shape.zero_points},
            random)),
        row_index_("row_index", shape.top_k ? shape.num_rows() : 0),
        expert_offsets_("expert_offsets", shape.num_experts() + 1),
        tile_counter_("tile_counter", 1),
        row_scale_("row_scale", has_scale_ ? shape.num_source_rows() : 0, num_choices(),
                   num_choices() + shape.pad),
        out_("out", shape.num_rows(), out_n_, out_n_) {
    tile_counter_.set_flat(0, 0);
    fill_activations(random);
    fill_row_index(random);
    fill_offsets(random);
    for (int row = 0; has_scale_ && row < shape.num_source_rows(); ++row)
      for (int choice = 0; choice < num_choices(); ++choice)
        row_scale_.set(row, choice, static_cast<float>(short_fraction(random)));
  }

  GroupedGemmArgs args() const {
    GroupedGemmArgs args{};
    args.a = a_.data();
    const ColumnRows rows = epilogue_.rows();
    w_->fill_args(args, rows);
    args.row_index = shape_.top_k ? row_index_.data() : nullptr;
    args.expert_offsets = expert_offsets_.data();
    args.tile_counter = tile_counter_.data();
    args.out = out_.data();
    args.a_row_chunks = static_cast<uint32_t>(a_.stride() / kElementsPerChunk);
    args.num_rows = shape_.num_rows();
    args.num_source_rows = shape_.num_source_rows();
    args.top_k = num_choices();
    args.num_experts = shape_.num_experts();
    args.n = shape_.n;
    args.k = shape_.k;
    args.gated = epilogue_.gated();
    args.epilogue = epilogue_.args(rows);
    args.row_scale = has_scale_ ? row_scale_.data() : nullptr;
    args.row_scale_stride = row_scale_.stride();
    return args;
  }

  void check() const {
    int row = 0;
    for (int expert = 0; expert < shape_.num_experts(); ++expert)
      for (int i = 0; i < shape_.rows[expert]; ++i, ++row)
        for (int col = 0; col < out_n_; ++col) check_element(expert, row, col);
    for (; row < shape_.num_rows(); ++row)
      for (int col = 0; col < out_n_; ++col)
        if (out_.at(row, col) != kUntouched) wrong_result(where(row, col) + " must stay untouched");
  }

 private:
  static constexpr uint16_t kUntouched = 0xffff;  // the poison of fresh device memory
  static constexpr int kElementsPerChunk = 8;     // of 16 bytes

  int num_choices() const { return std::max(shape_.top_k, 1); }

  void fill_activations(simt::Random& random) {
    for (int row = 0; row < shape_.num_source_rows(); ++row)
      for (int k = 0; k < shape_.k; ++k) a_.set(row, k, to_bits(short_fraction(random), type_));
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
    const int source = shape_.top_k ? row_index_[row] / shape_.top_k : row;
    if (source < 0 || source >= shape_.num_source_rows() || (shape_.top_k && row_index_[row] < 0))
      return 0;
    double sum = 0;
    for (int k = 0; k < shape_.k; ++k)
      sum += to_double(a_.at(source, k), type_) * w_->value(expert, w_row, k);
    if (!has_scale_) return sum;
    return sum * row_scale_.at(source, shape_.top_k ? row_index_[row] % shape_.top_k : 0);
  }

  // Sums are exact, so only the rounding to 16 bits is left; activations add fp32's own error to
  // it.
  void check_element(int expert, int row, int col) const {
    const auto sum = [&](int w_row) { return dot(expert, row, w_row); };
    const double got = to_double(out_.at(row, col), type_);
    const double wanted = stores_sums_ ? sum(col) : epilogue_.value(expert, col, sum);
    const bool right = stores_sums_
                           ? got == to_double(to_bits(wanted, type_), type_)
                           : std::fabs(got - wanted) <= epilogue_.allowed(expert, col, sum, wanted);
    if (!right) wrong_result(where(row, col) + simt::format(" must be %g, got %g", wanted, got));
  }

  std::string where(int row, int col) const { return simt::format("  out[%d, %d]", row, col); }

  const Shape shape_;
  const ElementType type_;
  const bool stores_sums_, has_scale_;
  const Epilogue epilogue_;
  const int out_n_;
  Tensor<uint16_t> a_;
  const std::unique_ptr<Weights> w_;
  Tensor<int32_t> row_index_, expert_offsets_, tile_counter_;
  Tensor<float> row_scale_;
  Tensor<uint16_t> out_;
};

}  // namespace

Instance find_instance(const Options& options, const std::string& default_table) {
  const std::string table = options.text("table", default_table);
  const auto tactic = static_cast<int>(options.number("tactic", 0));
  for (const Instance& instance : instances())
    if (instance.table == table && instance.tactic == tactic) return instance;
  usage_error("no table " + table + " with tactic " + std::to_string(tactic));
}

void run_list(const Options&) {
  using namespace sm80moe::gemm;
  for (const Instance& instance : instances()) {
    const Tactic& tactic = kTactics[instance.tactic];
    const bool gated = is_gated(instance.epilogue);
    std::printf("instance table=%s tactic=%d gated=%d reachable=%d cta_m=%d cta_n=%d cta_k=%d ",
                instance.table.c_str(), instance.tactic, gated, instance.reachable, tactic.cta_m,
                tactic.cta_n, tactic.cta_k);
    std::printf("warps_m=%d warps_n=%d warps_k=%d stages=%d\n", tactic.warps_m, tactic.warps_n,
                tactic.warps_k, tactic.stages);
  }
}

void run_gemm(const Options& options) {
  const Instance instance = find_instance(options, "kBf16Store");
  const Shape shape = read_shape(options);
  simt::settings().check_global_races = !shape.garbage_offsets;

  const Problem problem(shape, instance, options, simt::Random(simt::settings().seed));
  sm80moe::DeviceInfo info;
  cudaError_t status = sm80moe::get_device_info(0, &info);
  if (status == cudaSuccess) status = instance.launch(problem.args(), 0, info, nullptr);
  if (status != cudaSuccess) wrong_result(simt::format("  the launch failed with %d", status));
  if (!shape.garbage_offsets) problem.check();
}

}  // namespace driver
