#pragma once
// Results as int8: what the next GEMM multiplies.

#include "common/int8.cuh"
#include "gemm/epilogue.cuh"

namespace sm80moe::gemm {

// Stores those sums of a warp's block of 16 rows that Halves::value gives, half of the columns, up
// to the padding of rows, which is what zeros are stored as.
template <class Config, class Halves>
SM80MOE_DEVICE void store_int8_rows(const GroupedGemmArgs& args, const WarpTile& tile,
                                    const float (&acc)[Config::kMmasN][4]) {
  using Columns = typename Halves::template Columns<Config::kWarpN>;
  constexpr int kBlocks = Columns::kBlocks;  // pairs that are neighbours
  const Int8Range& range = *args.int8.out_range;
  const Int8Quantizer quantizer = int8_quantizer(range.scale, range.zero_point);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = tile.row(0, half);
    if (row >= tile.row_end) continue;
    auto* out_row = static_cast<uint8_t*>(args.out) + int64_t{row} * args.int8.out_stride;
#pragma unroll
    for (int group = 0; group < Config::kMmasN / 2 / kBlocks; ++group) {
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
}

}  // namespace sm80moe::gemm
