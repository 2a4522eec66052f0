#pragma once
// Results as int8: what the next GEMM multiplies.

#include "common/int8.cuh"
#include "gemm/epilogue.cuh"

namespace sm80moe::gemm {

// Stores those accumulators of a warp's block of 16 rows that Halves::value gives: half of a CTA's
// columns, whole groups of kInt8Group. A group lies in a few neighbouring warps of a row of warps.
template <class Config, class Halves>
class Int8Store {
 public:
  // Of each row of a CTA's block the largest magnitude that a warp has.
  static constexpr int kLargest = Config::kWarpsN * Config::kRowsPerBlock;

  using Accumulator = float[Config::kMmasN][4];

  // All warps of the CTA call; a barrier has passed since they last read `largest`, which is
  // shared.
  SM80MOE_DEVICE static void run(const GroupedGemmArgs& args, const TileColumns& columns,
                                 const WarpTile& tile, uint32_t* largest, const Accumulator& acc) {
    if (args.int8.output == Int8Output::kInt8Fixed) {
      const Int8Range& range = *args.int8.out_range;
      const Int8Quantizer quantizer = int8_quantizer(range.scale, range.zero_point);
#pragma unroll
      for (int half = 0; half < 2; ++half) store_row(args, tile, quantizer, acc, half);
      return;
    }
    share_largest(largest, acc);
    __syncthreads();
    store_groups(args, columns, tile, largest, acc);
  }

 private:
  using Columns = typename Halves::template Columns<Config::kWarpN>;
  static constexpr int kPairs = Config::kMmasN / 2;  // of neighbouring columns, a lane, a row
  static constexpr int kWarps = kInt8Group * 2 / Config::kWarpN;  // that share a group
  static_assert(kWarps > 0 && Config::kWarpsN % kWarps == 0 && Config::kWarpsK == 1);

  // Where the numbers of this lane's row begin.
  SM80MOE_DEVICE static int row_offset(int half) {
    const int warp_row = warp_index() / Config::kWarpsN * Config::kMmaM;
    return (warp_row + half * 8 + lane_index() / 4) * Config::kWarpsN;
  }

  SM80MOE_DEVICE static void share_largest(uint32_t* largest, const Accumulator& acc) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t of_row = 0;
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const float2 values = Halves::value(acc, pair, half);
        of_row = max_of(of_row, max_of(magnitude(values.x), magnitude(values.y)));
      }
      of_row = quad_max(of_row);
      if (lane_index() % 4 == 0)
        largest[row_offset(half) + warp_index() % Config::kWarpsN] = of_row;
    }
  }

  SM80MOE_DEVICE static void store_groups(const GroupedGemmArgs& args, const TileColumns& columns,
                                          const WarpTile& tile, const uint32_t* largest,
                                          const Accumulator& acc) {
    const int first_warp = warp_index() % Config::kWarpsN / kWarps * kWarps;
    // One lane of those that share a scale.
    const bool stores_scale =
        tile.column<Columns>(0) % kInt8Group == 0 && tile.col0 < columns.total;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t of_row = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp)
        of_row = max_of(of_row, largest[row_offset(half) + first_warp + warp]);
      const Int8Quantizer quantizer = quantizer_of_largest(of_row);
      store_row(args, tile, quantizer, acc, half);
      const int row = tile.row(0, half);
      if (stores_scale && row < tile.row_end)
        args.int8.out_scale[tile.col0 / kInt8Group * int64_t{args.num_rows} + row] =
            quantizer.scale;
    }
  }

  // A row's columns up to its padding, which are zeros.
  SM80MOE_DEVICE static void store_row(const GroupedGemmArgs& args, const WarpTile& tile,
                                       const Int8Quantizer& quantizer, const Accumulator& acc,
                                       int half) {
    const int row = tile.row(0, half);
    if (row >= tile.row_end) return;
    auto* out_row = static_cast<uint8_t*>(args.out) + int64_t{row} * args.int8.out_stride;
    constexpr int kBlocks = Columns::kBlocks;  // pairs that are neighbours
#pragma unroll
    for (int group = 0; group < kPairs / kBlocks; ++group) {
      const int col = tile.column<Columns>(group);
      if (col >= args.int8.out_stride) continue;
      uint32_t words[kBlocks / 2];
#pragma unroll
      for (int word = 0; word < kBlocks / 2; ++word) {
        const float2 first = Halves::value(acc, group * kBlocks + word * 2, half);
        const float2 second = Halves::value(acc, group * kBlocks + word * 2 + 1, half);
        words[word] = quantizer.store(first.x, first.y, second.x, second.y);
      }
      store_words(out_row + col, words);
    }
  }
};

}  // namespace sm80moe::gemm
