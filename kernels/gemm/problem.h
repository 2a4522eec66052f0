#pragma once
// Plain data crossing from host to kernel. No Torch, no templates.

#include <cstdint>

#include "common/epilogue_args.h"
#include "common/int8.h"
#include "common/packed_args.h"

namespace sm80moe::gemm {

// Columns of the result: in all, in a tile, and from that of a gate row to that of its up row.
struct TileColumns {
  int total, per_tile, up;
};

// What a GEMM of int8 activations stores: 16-bit numbers, or int8 of a known range.
enum class Int8Output { k16Bit, kInt8 };

// What stands beside int8 activations. The scales of weight rows are with the packed weights; so,
// as codes of four bytes, are the sums of weight rows, if activations have a zero point.
struct Int8Args {
  const float* row_scale;    // [num_source_rows]
  int64_t row_scale_stride;  // from one row to the next; 0: all have the same
  const Int8Range* range;    // of all activations, or null
  bool is_bfloat16;          // the 16-bit type, of biases too
  Int8Output output;
  int out_stride;              // int8_row_bytes(columns)
  const Int8Range* out_range;  // of kInt8
};

// out[m, :] = epilogue(A[source(m), :] @ W[e].T)   for m in [expert_offsets[e],
// expert_offsets[e+1]) source(m) = row_index[m] / top_k, or m when row_index is null. Strides are
// in elements.
struct GroupedGemmArgs {
  const void* a;                  // [num_source_rows, k]
  const void* w;                  // [num_experts, n, k]: where the first column's row begins
  const int32_t* row_index;       // [num_rows] or null
  const int32_t* expert_offsets;  // [num_experts + 1]
  int32_t* tile_counter;          // [1], zero before the launch
  void* out;                // [num_rows, n] or [num_rows, n / 2], contiguous; see the epilogue
  int64_t w_expert_bytes;   // from one expert's weights to the next's
  int64_t w_up_bytes;       // from a column's gate row to its up row
  uint32_t w_column_bytes;  // from one column's weight row to the next column's
  uint32_t a_row_chunks;    // from one activation row to the next, in 16-byte chunks
  int num_rows;
  int num_source_rows;
  int top_k;
  int num_experts;
  int n;
  int k;
  // For kGated and kUngated, and packed weights, which one kernel computes; and whether there are
  // no options, for packed weights alone.
  bool gated, plain;
  TileColumns columns;  // which the launch of a tactic sets
  EpilogueArgs epilogue;
  const float* row_scale;    // [num_source_rows, top_k], of a row's pair; null stands for 1
  int64_t row_scale_stride;  // from one source row to the next
  PackedArgs packed;
  Int8Args int8;
};

// The numbers that the operators take. The first two know nothing of options.
enum class EpilogueKind { kStore, kSwiglu, kGated, kUngated };
inline constexpr int kNumEpilogues = 4;

constexpr bool is_gated(EpilogueKind kind) {
  return kind == EpilogueKind::kSwiglu || kind == EpilogueKind::kGated;
}
// The one without options, which loads and multiplies the same: it says how fast a tactic is.
constexpr EpilogueKind plain(EpilogueKind kind) {
  return is_gated(kind) ? EpilogueKind::kSwiglu : EpilogueKind::kStore;
}

// The one with options, where arguments say that there are none.
constexpr EpilogueKind general(EpilogueKind kind) {
  return is_gated(kind) ? EpilogueKind::kGated : EpilogueKind::kUngated;
}

// A row is addressed by a 32-bit count of 16-byte chunks from the start of its matrix.
inline constexpr int64_t kMaxMatrixChunks = int64_t{1} << 32;
// Columns, which may be two rows apart, are addressed by 32-bit counts of bytes.
inline constexpr int64_t kMaxRowBytes = int64_t{1} << 31;

// A tile of the grouped output: rows [m_begin, m_end) of one expert, column tile `tile_n`.
struct alignas(16) ExpertTile {
  int expert;
  int m_begin, m_end;
  int tile_n;
};

// A CTA's tiles between its loader and its consumer; see TileQueue.
struct TileQueueSlots {
  static constexpr int kLength = 8;
  ExpertTile tile[kLength];
};

// Of what schedulers list for all experts: the tiles before each, and the rows.
constexpr int scheduler_list_length(int num_experts) { return 2 * (num_experts + 1); }

// Shared memory beside what the tactic needs: the queue of tiles, then the list.
constexpr int scheduler_smem_bytes(int num_experts) {
  return static_cast<int>(sizeof(TileQueueSlots) +
                          scheduler_list_length(num_experts) * sizeof(int));
}

}  // namespace sm80moe::gemm
