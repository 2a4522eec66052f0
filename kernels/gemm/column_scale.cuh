#pragma once
// The scale of each weight row, a number a column of the product, meets the accumulators.

#include "gemm/epilogue.cuh"
#include "gemm/weight_groups.cuh"

namespace sm80moe::gemm {

// Calls visit(weight row, mma, i) for both columns, i, that this lane has of an mma, and all mma,
// up to the result's last column.
template <class Config, class Columns, class Visit>
SM80MOE_DEVICE void for_each_column(const GroupedGemmArgs& args, const TileColumns& columns,
                                    const WarpTile& tile, Visit&& visit) {
#pragma unroll
  for (int mma = 0; mma < Config::kMmasN; ++mma) {
    const bool is_up = Columns::is_up(mma * 8);
    const int col =
        tile.col0 + Columns::output_column(mma * 8) + lane_index() % 4 * (2 * Columns::kBlocks);
    if (col + is_up * columns.up >= columns.total) continue;
#pragma unroll
    for (int i = 0; i < 2; ++i)
      visit(packed_row(args, columns, tile.expert, col + i, is_up), mma, i);
  }
}

// Multiplies one warp's accumulators by what scales are left: that of each row's last group, unless
// sums of groups have met theirs.
template <class Config, class Weight, class Columns>
SM80MOE_DEVICE void scale_columns(const GroupedGemmArgs& args, const TileColumns& columns,
                                  const WarpTile& tile,
                                  float (&acc)[Config::kMmasM][Config::kMmasN][4]) {
  constexpr float kUnits = 1 / Weight::kUnit;
  if constexpr (GroupTile<Config, Weight>::kHasGroupSums) {
#pragma unroll
    for (auto& block : acc)
#pragma unroll
      for (auto& mma : block)
#pragma unroll
        for (float& sum : mma) sum *= kUnits;
    return;
  }
  const PackedArgs& packed = args.packed;
  for_each_column<Config, Columns>(args, columns, tile, [&](int row, int mma, int i) {
    const int64_t last = first_word(row, packed.groups) + to_word(packed.groups - 1);
    const float scale = packed.scale[last] * kUnits;
#pragma unroll
    for (int block = 0; block < Config::kMmasM; ++block) {
      acc[block][mma][i] *= scale;
      acc[block][mma][i + 2] *= scale;
    }
  });
}

}  // namespace sm80moe::gemm
