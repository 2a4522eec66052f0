#pragma once
// Epilogues of int8 activations. The 16-bit type of results and biases is an argument, so that both
// types share the kernels.

#include "gemm/general_epilogue.cuh"
#include "gemm/int8_scales.cuh"
#include "gemm/int8_store.cuh"

namespace sm80moe::gemm {

// What `Plain` makes of the sums of stored products, times both scales.
template <class Plain>
struct Int8Epilogue : Plain {
  template <class Config>
  static constexpr int kScratchBytes = Int8Scales<Config>::kBytesOfCta;

  template <class T, class Config, int kMmasM, int kMmasN>
  SM80MOE_DEVICE static void store(const GroupedGemmArgs& args, const TileColumns& columns,
                                   const WarpTile& tile, const int32_t (&sums)[kMmasM][kMmasN][4]) {
    using Of = typename Plain::template Columns<Config::kWarpN>;
    const auto& scales = Int8Scales<Config>::template fetch<Of>(args, columns, tile);
    float acc[kMmasM][kMmasN][4];
#pragma unroll
    for (int block = 0; block < kMmasM; ++block)
      scales.apply(scales.of_rows() + block * Config::kMmaM, scales.of_columns(), sums[block],
                   acc[block]);
    if (args.int8.is_bfloat16)
      Plain::template store<__nv_bfloat16, Config>(args, columns, tile, acc);
    else
      Plain::template store<__half, Config>(args, columns, tile, acc);
  }
};

// What GeneralEpilogue makes of them, in 16 bits or as int8 that another GEMM multiplies.
//
// Blocks of rows take turns in a loop, in which the sums move up: it is compiled for one of them,
// and the others find its instructions in the cache.
struct Int8GeneralEpilogue : GeneralEpilogue {
  template <class Config>
  static constexpr int kScratchBytes = Int8Scales<Config>::kBytesOfCta;

  template <class T, class Config, int kMmasM, int kMmasN>
  SM80MOE_DEVICE static void store(const GroupedGemmArgs& args, const TileColumns& columns,
                                   WarpTile tile, int32_t (&sums)[kMmasM][kMmasN][4]) {
    const auto& scales = Int8Scales<Config>::template fetch<Of<Config>>(args, columns, tile);
    const float *of_rows = scales.of_rows(), *of_columns = scales.of_columns();
#pragma unroll 1
    for (; tile.row0 < tile.row_end; tile.row0 += Config::kRowsPerBlock) {
      int32_t block[kMmasN][4];
      take_first(block, sums);
      subtract_zeros<Config>(args, columns, tile, block);
      float acc[1][kMmasN][4];
      scales.apply(of_rows, of_columns, block, acc[0]);
      store_block<Config>(args, columns, tile, acc);
      of_rows += Config::kMmaM;
    }
  }

 private:
  template <class Config>
  using Of = Columns<Config::kWarpN>;

  // Takes away what the activations' zero point has added to the sums.
  template <class Config>
  SM80MOE_DEVICE static void subtract_zeros(const GroupedGemmArgs& args, const TileColumns& columns,
                                            const WarpTile& tile,
                                            int32_t (&sums)[Config::kMmasN][4]) {
    const auto* w_sums = reinterpret_cast<const int32_t*>(args.packed.codes);  // a word a row
    if (w_sums == nullptr) return;
    const int zero_point = static_cast<int>(args.int8.range->zero_point);
    for_each_column<Config, Of<Config>>(args, columns, tile, [&](int w_row, int mma, int i) {
      const int zeros = zero_point * w_sums[w_row];
      sums[mma][i] -= zeros;
      sums[mma][i + 2] -= zeros;
    });
  }

  template <class Config>
  SM80MOE_DEVICE static void store_block(const GroupedGemmArgs& args, const TileColumns& columns,
                                         const WarpTile& tile, float (&acc)[1][Config::kMmasN][4]) {
    if (args.int8.is_bfloat16)
      add_biases<__nv_bfloat16, Of<Config>>(args, columns, tile, acc);
    else
      add_biases<__half, Of<Config>>(args, columns, tile, acc);
    activate(args, tile, acc);
    if (args.int8.output == Int8Output::k16Bit)
      store_16_bits<Config>(args, columns, tile, acc);
    else
      store_int8<Config>(args, columns, tile, acc[0]);
  }

  template <class Config>
  SM80MOE_DEVICE static void store_16_bits(const GroupedGemmArgs& args, const TileColumns& columns,
                                           const WarpTile& tile,
                                           const float (&acc)[1][Config::kMmasN][4]) {
    if (args.int8.is_bfloat16)
      store_halves<__nv_bfloat16, Config::kWarpN>(args, columns, tile, acc);
    else
      store_halves<__half, Config::kWarpN>(args, columns, tile, acc);
  }

  template <class Config>
  SM80MOE_DEVICE static void store_int8(const GroupedGemmArgs& args, const TileColumns& columns,
                                        const WarpTile& tile,
                                        const float (&acc)[Config::kMmasN][4]) {
    store_int8_rows<Config, Gates>(args, tile, acc);
    if (!args.gated) store_int8_rows<Config, Ups>(args, second_half(columns, tile), acc);
  }
};

}  // namespace sm80moe::gemm
