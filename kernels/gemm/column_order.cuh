#pragma once
// Which column's weight row lands in which row of the shared-memory tile. See docs/layouts.md.
// Where the rows of a column lie in memory is data: GroupedGemmArgs.
//
// An mma gives a thread two neighbouring columns of each 8-column block. Copying weight rows in a
// permuted order, which costs nothing, makes the columns that one thread holds contiguous in the
// output (16-byte stores from registers), and puts an up row 8 rows after its gate row (SwiGLU
// without a shuffle).

#include "common/math.cuh"

namespace sm80moe::gemm {

// kBlocks 8-column blocks of output form a group. Of its tile rows, bits 1-2 (the thread's place in
// its quad) become the high bits of the column, the block's number the middle ones.
template <int kBlocks>
SM80MOE_HOST_DEVICE constexpr int contiguous_column(int block, int row_in_block) {
  return row_in_block / 2 * (2 * kBlocks) + block * 2 + row_in_block % 2;
}

// Both orders also have with_neighbours(), its own inverse: an order of the tile's rows in which
// any 32 of them, from a multiple of 32 on, hold the columns of whole sets of eight weight rows.
// The tile's own order is one already, but where GateUpColumns makes groups of 64 rows.

template <int kWarpN>
struct PlainColumns {
  static constexpr int kBlocks = min_of(4, kWarpN / 8);  // output blocks a thread stores together
  static constexpr int kRowsPerGroup = kBlocks * 8;
  static constexpr int kColumnsPerGroup = kBlocks * 8;

  SM80MOE_HOST_DEVICE static constexpr int output_column(int tile_row) {
    return tile_row / kRowsPerGroup * kColumnsPerGroup +
           contiguous_column<kBlocks>(tile_row / 8 % kBlocks, tile_row % 8);
  }
  SM80MOE_HOST_DEVICE static constexpr bool is_up(int) { return false; }
  SM80MOE_HOST_DEVICE static constexpr int with_neighbours(int tile_row) { return tile_row; }
};

template <int kWarpN>
struct GateUpColumns {
  static constexpr int kBlocks = min_of(4, kWarpN / 16);
  static constexpr int kRowsPerGroup = kBlocks * 16;
  static constexpr int kColumnsPerGroup = kBlocks * 8;

  SM80MOE_HOST_DEVICE static constexpr int output_column(int tile_row) {
    return tile_row / kRowsPerGroup * kColumnsPerGroup +
           contiguous_column<kBlocks>(tile_row / 16 % kBlocks, tile_row % 8);
  }
  SM80MOE_HOST_DEVICE static constexpr bool is_up(int tile_row) { return tile_row / 8 % 2 == 1; }
  // Where a group is 64 rows, bit 5, the block's high one, and bit 2 change places.
  SM80MOE_HOST_DEVICE static constexpr int with_neighbours(int tile_row) {
    if (kBlocks < 4) return tile_row;
    return (tile_row & ~0x24) | (tile_row & 0x04) << 3 | (tile_row & 0x20) >> 3;
  }
};

// A thread copies rows r, r + step, r + 2*step ...; because the order permutes bits, the column of
// r + i*step is the column of r plus the column of i*step when step is a power of two above r.
template <class Columns, int kRows>
constexpr bool additive_for_step(int step) {
  for (int row = 0; row < kRows; ++row)
    if (Columns::output_column(row) !=
        Columns::output_column(row % step) + Columns::output_column(row - row % step))
      return false;
  return true;
}

}  // namespace sm80moe::gemm
