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
//
// Blocks of rows take turns in a loop, in which the sums move up: it is compiled for one of them,
// and the others find its instructions in the cache. Scales, which are far away, are fetched first.
struct Int8Epilogue : GeneralEpilogue {
 private:
  // Of the CTA's tile: what is common to a row, to a column; and what warps tell each other.
  template <class Config>
  struct Shared {
    float row_scale[Config::kCtaM];
    float column_scale[Config::kCtaN];
    uint32_t largest[2][Int8Store<Config, Gates>::kLargest];  // of what is stored, and was before
  };
  template <class Config>
  using Of = Columns<Config::kWarpN>;

 public:
  template <class Config>
  static constexpr int kScratchBytes = sizeof(Shared<Config>);

  template <class T, class Config, int kMmasM, int kMmasN>
  SM80MOE_DEVICE static void store(const GroupedGemmArgs& args, const TileColumns& columns,
                                   WarpTile tile, int32_t (&sums)[kMmasM][kMmasN][4]) {
    auto& shared = *static_cast<Shared<Config>*>(tile.scratch);
    const int warp_row = warp_index() / Config::kWarpsN * Config::kMmaM;
    const int warp_col = warp_index() % Config::kWarpsN * Config::kWarpN;
    const int first_row = tile.row0 - warp_row, first_col = tile.col0 - warp_col / 2;
    fetch_scales(args, columns, tile, first_row, first_col, shared);
    __syncthreads();
    const float* row_scale = shared.row_scale + warp_row + lane_index() / 4;
    const float* column_scale = shared.column_scale + warp_col + lane_index() % 4 * 2;
    // All warps of the CTA take every turn: they wait for each other.
#pragma unroll 1
    for (int row = first_row; row < tile.row_end; row += Config::kRowsPerBlock) {
      int32_t block[kMmasN][4];
      take_first(block, sums);
      subtract_zeros<Config>(args, columns, tile, block);
      float acc[1][kMmasN][4];
      scale_block(row_scale, column_scale, block, acc[0]);
      store_block<Config>(args, columns, tile, acc, shared);
      tile.row0 += Config::kRowsPerBlock;
      row_scale += Config::kRowsPerBlock;
    }
  }

 private:
  // A row's scale and a column's by each thread; zero past the last.
  template <class Config>
  SM80MOE_DEVICE static void fetch_scales(const GroupedGemmArgs& args, const TileColumns& columns,
                                          const WarpTile& tile, int first_row, int first_col,
                                          Shared<Config>& shared) {
    static_assert(Config::kCtaM <= Config::kThreads && Config::kCtaN <= Config::kThreads);
    const int i = threadIdx.x;
    if (i < Config::kCtaN) {
      const bool is_up = Of<Config>::is_up(i);
      const int col = first_col + Of<Config>::output_column(i);
      const bool valid = col + is_up * columns.up < columns.total;
      shared.column_scale[i] =
          valid ? args.packed.scale[packed_row(args, columns, tile.expert, col, is_up)] : 0;
    }
    if (i < Config::kCtaM)
      shared.row_scale[i] = first_row + i < tile.row_end ? row_scale_of(args, first_row + i) : 0;
  }

  // What an activation row's scale and, on the input, the router's weight come to.
  SM80MOE_DEVICE static float row_scale_of(const GroupedGemmArgs& args, int row) {
    return of_row(args, row, [&](int source, int choice) {
      const float scale = args.int8.row_scale[source * args.int8.row_scale_stride];
      if (args.row_scale == nullptr) return scale;
      return scale * args.row_scale[source * args.row_scale_stride + choice];
    });
  }

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

  template <int kMmasN>
  SM80MOE_DEVICE static void scale_block(const float* row_scale, const float* column_scale,
                                         const int32_t (&sums)[kMmasN][4],
                                         float (&acc)[kMmasN][4]) {
    const float of_row[] = {row_scale[0], row_scale[8]};
#pragma unroll
    for (int mma = 0; mma < kMmasN; ++mma) {
      const float2 of_column = *reinterpret_cast<const float2*>(column_scale + mma * 8);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int32_t* from = sums[mma] + half * 2;
        acc[mma][half * 2] = __int2float_rn(from[0]) * of_column.x * of_row[half];
        acc[mma][half * 2 + 1] = __int2float_rn(from[1]) * of_column.y * of_row[half];
      }
    }
  }

  template <class Config>
  SM80MOE_DEVICE static void store_block(const GroupedGemmArgs& args, const TileColumns& columns,
                                         const WarpTile& tile, float (&acc)[1][Config::kMmasN][4],
                                         Shared<Config>& shared) {
    if (args.int8.is_bfloat16)
      add_biases<__nv_bfloat16, Of<Config>>(args, columns, tile, acc);
    else
      add_biases<__half, Of<Config>>(args, columns, tile, acc);
    activate(args, tile, acc);
    if (args.int8.output == Int8Output::k16Bit)
      store_16_bits<Config>(args, columns, tile, acc);
    else
      store_int8<Config>(args, columns, tile, acc[0], shared);
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
                                        const WarpTile& tile, const float (&acc)[Config::kMmasN][4],
                                        Shared<Config>& shared) {
    // Each time the other numbers are written: those before may still be read.
    const int turn = args.gated ? tile.row0 / Config::kRowsPerBlock % 2 : 0;
    Int8Store<Config, Gates>::run(args, columns, tile, shared.largest[turn], acc);
    if (args.gated) return;
    Int8Store<Config, Ups>::run(args, columns, second_half(columns, tile), shared.largest[1], acc);
  }
};

}  // namespace sm80moe::gemm
