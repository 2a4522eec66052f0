#pragma once
// The scales of int8 activations and of their weights, which an epilogue multiplies sums by.

#include "gemm/column_scale.cuh"
#include "gemm/epilogue.cuh"

namespace sm80moe::gemm {

// Those of the rows and of the columns of a warp's tile. They are far away, so each warp fetches
// all of its own at once, and waits for no other.
template <class Config>
struct Int8Scales {
  float row[Config::kWarpM];
  float column[Config::kWarpN];

  static constexpr int kBytesOfCta =
      Config::kWarpsM * Config::kWarpsN * static_cast<int>(sizeof(Int8Scales));

  template <class Columns>
  SM80MOE_DEVICE static const Int8Scales& fetch(const GroupedGemmArgs& args,
                                                const TileColumns& columns, const WarpTile& tile) {
    auto& scales = static_cast<Int8Scales*>(tile.scratch)[warp_index()];
    for (int i = lane_index(); i < Config::kWarpN; i += kWarpSize)
      scales.column[i] = scale_of_column<Columns>(args, columns, tile, i);
    for (int i = lane_index(); i < Config::kWarpM; i += kWarpSize) {
      const int row = tile.row0 + i / Config::kMmaM * tile.row_step + i % Config::kMmaM;
      scales.row[i] = row < tile.row_end ? scale_of_row(args, row) : 0;
    }
    __syncwarp();
    return scales;
  }

  // Where those begin that this lane needs; blocks of rows are kMmaM apart.
  SM80MOE_DEVICE const float* of_rows() const { return row + lane_index() / 4; }
  SM80MOE_DEVICE const float* of_columns() const { return column + lane_index() % 4 * 2; }

  // The sums of a block of 16 rows as what they mean.
  SM80MOE_DEVICE static void apply(const float* of_rows, const float* of_columns,
                                   const int32_t (&sums)[Config::kMmasN][4],
                                   float (&values)[Config::kMmasN][4]) {
    const float halves[] = {of_rows[0], of_rows[8]};
#pragma unroll
    for (int mma = 0; mma < Config::kMmasN; ++mma) {
      const float2 pair = *reinterpret_cast<const float2*>(of_columns + mma * 8);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int32_t* from = sums[mma] + half * 2;
        values[mma][half * 2] = __int2float_rn(from[0]) * pair.x * halves[half];
        values[mma][half * 2 + 1] = __int2float_rn(from[1]) * pair.y * halves[half];
      }
    }
  }

 private:
  // Zero past the last.
  template <class Columns>
  SM80MOE_DEVICE static float scale_of_column(const GroupedGemmArgs& args,
                                              const TileColumns& columns, const WarpTile& tile,
                                              int tile_row) {
    const bool is_up = Columns::is_up(tile_row);
    const int col = tile.col0 + Columns::output_column(tile_row);
    if (col + is_up * columns.up >= columns.total) return 0;
    return args.packed.scale[packed_row(args, columns, tile.expert, col, is_up)];
  }
  // An activation row's scale times, on the input, the router's weight.
  SM80MOE_DEVICE static float scale_of_row(const GroupedGemmArgs& args, int row) {
    return of_row(args, row, [&](int source, int choice) {
      const float scale = args.int8.row_scale[source * args.int8.row_scale_stride];
      if (args.row_scale == nullptr) return scale;
      return scale * args.row_scale[source * args.row_scale_stride + choice];
    });
  }
};

}  // namespace sm80moe::gemm
