#include "plan/workspace.h"

namespace sm80moe::plan {

WorkspaceLayout workspace_layout(const LayerShape& shape) {
  constexpr int64_t kElementBytes = 2, kIntBytes = sizeof(int32_t);
  constexpr int64_t kAlignment = 256;
  int64_t end = 0;
  const auto place = [&end](int64_t bytes) {
    const int64_t begin = (end + kAlignment - 1) / kAlignment * kAlignment;
    end = begin + bytes;
    return begin;
  };

  const int64_t rows = shape.num_rows();
  WorkspaceLayout layout{};
  layout.intermediate = place(rows * shape.intermediate_size * kElementBytes);
  layout.expert_rows = place(rows * shape.hidden_size * kElementBytes);
  layout.expert_offsets = place((shape.num_experts + 1) * kIntBytes);
  layout.row_index = place(rows * kIntBytes);
  layout.row_position = place(rows * kIntBytes);
  layout.tile_counters = place(kNumTileCounters * kIntBytes);
  layout.size = end;
  return layout;
}

}  // namespace sm80moe::plan
