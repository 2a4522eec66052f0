// plan tokens=4096 experts=8 top_k=2 hidden=4096 intermediate=14336 limit=0: the chunks and the
// workspace of a call. Runs nothing.

#include <algorithm>
#include <cstdio>

#include "driver/commands.h"
#include "plan/chunks.h"

namespace driver {

void run_plan(const Options& options) {
  using namespace sm80moe::plan;
  const Chunks chunks = plan_chunks(
      {options.number("tokens", 1), options.number("experts", 8), options.number("top_k", 2),
       options.number("hidden", 4096), options.number("intermediate", 4096)},
      options.number("limit", 0));
  std::printf("chunks %ld\n", static_cast<long>(chunks.count));
  if (chunks.count == 0) return;

  int64_t smallest = chunks.layer.num_tokens, largest = 0, end = 0;
  for (int64_t i = 0; i < chunks.count; ++i) {
    if (chunks.begin(i) != end) wrong_result("a chunk must begin where the one before ends");
    end = chunks.begin(i + 1);
    smallest = std::min(smallest, end - chunks.begin(i));
    largest = std::max(largest, end - chunks.begin(i));
  }
  if (end != chunks.layer.num_tokens) wrong_result("the last chunk must end with the last token");
  if (largest != chunks.shape().num_tokens) wrong_result("shape() must be the largest chunk's");
  std::printf("tokens smallest=%ld largest=%ld\n", static_cast<long>(smallest),
              static_cast<long>(largest));

  const WorkspaceLayout layout = workspace_layout(chunks.shape());
  const int64_t offsets[] = {
      layout.intermediate, layout.intermediate_scale, layout.expert_rows,   layout.expert_offsets,
      layout.row_index,    layout.row_position,       layout.tile_counters, layout.size};
  std::printf("offsets");
  for (const int64_t offset : offsets) std::printf(" %ld", static_cast<long>(offset));
  std::printf("\n");
}

}  // namespace driver
