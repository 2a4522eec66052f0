#pragma once
// The memory that a layer needs beside its result: one block, cut into buffers.

#include <cstdint>

namespace sm80moe::plan {

struct LayerShape {
  int64_t num_tokens, num_experts, top_k, hidden_size, intermediate_size;

  int64_t num_rows() const { return num_tokens * top_k; }
};

inline constexpr int kNumTileCounters = 2;  // one a GEMM

// Where each buffer begins, in bytes from the start of the block, and how long the block is.
struct WorkspaceLayout {
  int64_t intermediate;        // [num_rows, intermediate_size] 16-bit, or int8
  int64_t intermediate_scale;  // [num_rows] float, of int8
  int64_t expert_rows;         // [num_rows, hidden_size] 16-bit; before, int8 activations
  int64_t expert_offsets;      // [num_experts + 1] int32
  int64_t row_index;           // [num_rows] int32
  int64_t row_position;        // [num_rows] int32
  int64_t tile_counters;       // [kNumTileCounters] int32
  int64_t size;
};

// More tokens never take less.
WorkspaceLayout workspace_layout(const LayerShape& shape);

}  // namespace sm80moe::plan
