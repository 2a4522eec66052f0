#include "plan/workspace.h"

#include <algorithm>

namespace sm80moe::plan {

WorkspaceLayout workspace_layout(const LayerShape& shape) {
  constexpr int64_t kElementBytes = 2, kIntBytes = sizeof(int32_t), kFloatBytes = sizeof(float);
  constexpr int64_t kAlignment = 256;
  int64_t end = 0;
  const auto place = [&end](int64_t bytes) {
    const int64_t begin = (end + kAlignment - 1) / kAlignment * kAlignment;
    end = begin + bytes;
    return begin;
  };

  // Of so many columns int8, padded, and their scales take no more than 16-bit numbers do.
  constexpr int64_t kLeastColumns = 16;
  const int64_t rows = shape.num_rows();
  const int64_t hidden_size = std::max(shape.hidden_size, kLeastColumns);
  WorkspaceLayout layout{};
  layout.intermediate = place(rows * shape.intermediate_size * kElementBytes);
  layout.intermediate_scale = place(rows * kFloatBytes);
  layout.expert_rows = place(rows * hidden_size * kElementBytes);
  layout.expert_offsets = place((shape.num_experts + 1) * kIntBytes);
  layout.row_index = place(rows * kIntBytes);
  layout.row_position = place(rows * kIntBytes);
  layout.tile_counters = place(kNumTileCounters * kIntBytes);
  layout.size = end;
  return layout;
}

}  // namespace sm80moe::plan
