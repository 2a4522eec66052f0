#pragma once
// Epilogues of int8 activations. The 16-bit type of results and biases is an argument, so that both
// types share the kernels.

#include "gemm/column_scale.cuh"
#include "gemm/general_epilogue.cuh"
#include "gemm/int8_store.cuh"

namespace sm80moe::gemm {

// Sums of stored weights are in the units that scale_columns takes.
struct WholeUnits {
  static constexpr float kUnit = 1;
};

// out[m, n] = acc * scale of the weight row, in 16 bits; activations' scales are in the sums.
struct RowGroupsEpilogue : StoreEpilogue {
  template <class T, class Config, class Accumulator>
  SM80MOE_DEVICE static void store(const GroupedGemmArgs& args, const TileColumns& columns,
                                   const WarpTile& tile, Accumulator& acc) {
    scale_columns<Config, WholeUnits, Columns<Config::kWarpN>>(args, columns, tile, acc);
    if (args.int8.is_bfloat16)
      StoreEpilogue::store<__nv_bfloat16, Config>(args, columns, tile, acc);
    else
      StoreEpilogue::store<__half, Config>(args, columns, tile, acc);
  }
};

// What GeneralEpilogue makes of the sums of stored products, times both scales; in 16 bits, or as
// int8 that another GEMM multiplies.
struct Int8Epilogue : GeneralEpilogue {
  template <class Config>
  static constexpr int kScratchBytes = 2 * Int8Store<Config, Gates>::kScratchBytes;

  template <class T, class Config, int kMmasM, int kMmasN>
  SM80MOE_DEVICE static void store(const GroupedGemmArgs& args, const TileColumns& columns,
                                   const WarpTile& tile, int32_t (&sums)[kMmasM][kMmasN][4]) {
    float acc[kMmasM][kMmasN][4] = {};
    scale_sums<Config>(args, columns, tile, sums, acc);
    if (args.int8.is_bfloat16)
      add_biases<__nv_bfloat16, Of<Config>>(args, columns, tile, acc);
    else
      add_biases<__half, Of<Config>>(args, columns, tile, acc);
    activate(args, tile, acc);
    if (args.int8.output == Int8Output::k16Bit)
      store_16_bits<Config>(args, columns, tile, acc);
    else
      store_int8<Config>(args, columns, tile, acc);
  }

 private:
  template <class Config>
  using Of = Columns<Config::kWarpN>;

  // acc = (sums - what zero points added to them) * scales of both rows; zero past the last column.
  // A branch around each block of rows keeps the compiler from mixing their instructions, for which
  // there are no registers.
  template <class Config, int kMmasM, int kMmasN>
  SM80MOE_DEVICE static void scale_sums(const GroupedGemmArgs& args, const TileColumns& columns,
                                        const WarpTile& tile,
                                        const int32_t (&sums)[kMmasM][kMmasN][4],
                                        float (&acc)[kMmasM][kMmasN][4]) {
    const auto* w_sums = reinterpret_cast<const int32_t*>(args.packed.codes);
    const int zero_point = w_sums != nullptr ? static_cast<int>(args.int8.range->zero_point) : 0;
#pragma unroll
    for (int block = 0; block < kMmasM; ++block) {
      if (tile.row0 + block * tile.row_step >= tile.row_end) continue;
      const float row_scale[] = {row_scale_of(args, tile, block, 0),
                                 row_scale_of(args, tile, block, 1)};
      for_each_column<Config, Of<Config>>(args, columns, tile, [&](int w_row, int mma, int i) {
        const float scale = args.packed.scale[w_row];
        const int zeros = zero_point != 0 ? zero_point * w_sums[w_row] : 0;
#pragma unroll
        for (int e = i; e < 4; e += 2)
          acc[block][mma][e] = __int2float_rn(sums[block][mma][e] - zeros) * scale;
      });
#pragma unroll
      for (int mma = 0; mma < kMmasN; ++mma)
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[block][mma][e] *= row_scale[e / 2];
    }
  }

  // What an activation row's scale and, on the input, the router's weight come to.
  SM80MOE_DEVICE static float row_scale_of(const GroupedGemmArgs& args, const WarpTile& tile,
                                           int block, int half) {
    const int row = tile.row(block, half);
    if (row >= tile.row_end) return 0;
    return of_row(args, row, [&](int source, int choice) {
      const float scale = args.int8.row_scale[source * args.int8.row_scale_stride];
      if (args.row_scale == nullptr) return scale;
      return scale * args.row_scale[source * args.row_scale_stride + choice];
    });
  }

  template <class Config, int kMmasM, int kMmasN>
  SM80MOE_DEVICE static void store_16_bits(const GroupedGemmArgs& args, const TileColumns& columns,
                                           const WarpTile& tile,
                                           const float (&acc)[kMmasM][kMmasN][4]) {
    if (args.int8.is_bfloat16)
      store_halves<__nv_bfloat16, Config::kWarpN>(args, columns, tile, acc);
    else
      store_halves<__half, Config::kWarpN>(args, columns, tile, acc);
  }

  template <class Config, int kMmasM, int kMmasN>
  SM80MOE_DEVICE static void store_int8(const GroupedGemmArgs& args, const TileColumns& columns,
                                        const WarpTile& tile,
                                        const float (&acc)[kMmasM][kMmasN][4]) {
    auto* scratch = static_cast<uint8_t*>(tile.scratch);
    Int8Store<Config, Gates>::run(args, columns, tile, scratch, acc);
    if (args.gated) return;
    scratch += Int8Store<Config, Gates>::kScratchBytes;
    Int8Store<Config, Ups>::run(args, columns, second_half(columns, tile), scratch, acc);
  }
};

}  // namespace sm80moe::gemm
