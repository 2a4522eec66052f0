// ends rows=3,0,2 tail=4 columns=16: what a GEMM reads of groups that are told by their ends.

#include "routing/group_ends.h"

#include <limits>

#include "driver/commands.h"
#include "driver/tensor.h"
#include "runtime/settings.h"

namespace driver {
namespace {

constexpr uint16_t kUntouched = 0xffff;  // the poison of fresh device memory
constexpr int kElementsPerChunk = 8;     // of 16 bytes

struct Ends {
  std::vector<int> values;
  int num_rows;

  explicit Ends(const Options& options) : num_rows(0) {
    for (const int rows : options.numbers("rows")) values.push_back(num_rows += rows);
    if (values.empty()) usage_error("ends: rows=... must name each group's rows");
    num_rows += static_cast<int>(options.number("tail", 0));
    const std::string garbage = options.text("garbage", "none");
    if (garbage == "low") values.back() = std::numeric_limits<int>::min();
    if (garbage == "high") values.back() = std::numeric_limits<int>::max();
  }

  int num_groups() const { return static_cast<int>(values.size()); }
  bool covers(int row) const { return row < values.back(); }
};

}  // namespace

void run_ends(const Options& options) {
  const Ends ends(options);
  const int columns = static_cast<int>(options.number("columns", kElementsPerChunk));
  Tensor<int32_t> input("ends", ends.num_groups()), offsets("offsets", ends.num_groups() + 1);
  Tensor<int32_t> counter("counter", 1);
  Tensor<uint16_t> out("out", ends.num_rows, columns, columns);
  for (int group = 0; group < ends.num_groups(); ++group) input.set_flat(group, ends.values[group]);

  sm80moe::routing::GroupEndsArgs args{};
  args.ends = input.data();
  args.group_offsets = offsets.data();
  args.counter = counter.data();
  args.out = out.data();
  args.num_groups = ends.num_groups();
  args.num_rows = ends.num_rows;
  args.row_chunks = columns / kElementsPerChunk;
  check_status(sm80moe::routing::take_group_ends(args, simt::settings().num_sms, nullptr));

  if (counter[0] != 0) wrong_result(simt::format("  counter must be 0, got %d", counter[0]));
  for (int group = 0; group <= ends.num_groups(); ++group) {
    const int wanted = group == 0 ? 0 : ends.values[group - 1];
    if (offsets[group] != wanted)
      wrong_result(simt::format("  offsets[%d] must be %d, got %d", group, wanted, offsets[group]));
  }
  for (int row = 0; row < ends.num_rows; ++row)
    for (int col = 0; col < columns; ++col) {
      const uint16_t wanted = ends.covers(row) ? kUntouched : 0;
      if (out.at(row, col) != wanted)
        wrong_result(
            simt::format("  out[%d, %d] must be %#x, got %#x", row, col, wanted, out.at(row, col)));
    }
}

}  // namespace driver
