#pragma once
// The scale of each weight row, a number a column of the product, meets the accumulators.

#include "gemm/epilogue.cuh"
#include "gemm/weight_groups.cuh"

namespace sm80moe::gemm {

// Multiplies one warp's accumulators by the scale of each row's last group.
template <class Config, class Weight, class Columns>
SM80MOE_DEVICE void scale_columns(const GroupedGemmArgs& args, const TileColumns& columns,
                                  const WarpTile& tile,
                                  float (&acc)[Config::kMmasM][Config::kMmasN][4]) {
  const PackedArgs& packed = args.packed;
#pragma unroll
  for (int mma = 0; mma < Config::kMmasN; ++mma) {
    const bool is_up = Columns::is_up(mma * 8);
    const int col =
        tile.col0 + Columns::output_column(mma * 8) + lane_index() % 4 * (2 * Columns::kBlocks);
    if (col + is_up * columns.up >= columns.total) continue;
    float scale[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = packed_row(args, columns, tile.expert, col + i, is_up);
      scale[i] = packed.scale[(row + 1) * packed.groups - 1] / Weight::kUnit;
    }
#pragma unroll
    for (int i = 0; i < Config::kMmasM; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[i][mma][e] *= scale[e % 2];
  }
}

}  // namespace sm80moe::gemm
