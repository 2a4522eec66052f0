#pragma once
// Weight formats. A format says how one weight element is stored and how a warp turns a
// 16-row x 16-deep block of the weight tile in shared memory into two B fragments.

#include "common/ptx.cuh"
#include "common/smem_layout.cuh"

namespace sm80moe::gemm {

// 16-bit weights as checkpoints hold them.
template <class T>
struct DenseWeight {
  using Stored = T;

  // Byte offset in the tile that this lane passes to load_fragments for rows [row, row + 16) at the
  // start of a row; SwizzledTile::advance_pairs moves it along the reduction.
  template <class Tile>
  SM80MOE_DEVICE static int lane_offset(int row, int lane) {
    return Tile::byte_offset(row + lane / 16 * 8 + lane % 8, lane / 8 % 2);
  }

  // b[0], b[1]: the fragment of rows 0-7; b[2], b[3]: of rows 8-15.
  SM80MOE_DEVICE static void load_fragments(uint32_t (&b)[4], uint32_t address) {
    ptx::ldmatrix_x4(b, address);
  }
};

}  // namespace sm80moe::gemm
