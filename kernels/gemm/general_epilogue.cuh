#pragma once
// The epilogue with options: a scale for each row, biases, any activation, gated or not. Branches
// that all threads take alike choose while it runs, so that all options share a kernel; what an
// option needs is read only if it is there.

#include <type_traits>

#include "gemm/epilogue.cuh"

namespace sm80moe::gemm {

// out[m, i] = activation(gate[i]) * up[i], or out[m, n] = activation(acc[n]), where gate, up and
// acc are sums times the row's scale plus the bias.
//
// What is not gated lies like gates and ups: the tile's second half of columns where ups would be.
struct GeneralEpilogue {
  static constexpr int kTileRowsPerColumn = 2;
  template <int kWarpN>
  using Columns = GateUpColumns<kWarpN>;

  // Beside 160 accumulators a thread there are no registers left for all this.
  template <class Config>
  static constexpr bool has_registers() {
    return Config::kMmasM * Config::kMmasN * 4 <= 128;
  }
  template <class Config>
  static constexpr int kScratchBytes = 0;
  // What follows from the tile's width is an argument, and takes no register in the main loop.
  static void prepare(GroupedGemmArgs& args, int cta_n) {
    const int half = cta_n / 2;
    args.columns = args.gated ? TileColumns{args.n / 2, half, 0} : TileColumns{args.n, cta_n, half};
    if (args.gated) return;
    args.w_up_bytes = static_cast<int64_t>(half) * args.w_column_bytes;
    args.epilogue.bias.second = half * args.epilogue.bias.column_step;
  }
  SM80MOE_DEVICE static TileColumns columns(const GroupedGemmArgs& args, int) {
    return args.columns;
  }

  template <class T, class Config, int kMmasM, int kMmasN>
  SM80MOE_DEVICE static void store(const GroupedGemmArgs& args, const TileColumns& columns,
                                   const WarpTile& tile, float (&acc)[kMmasM][kMmasN][4]) {
    scale_rows(args, tile, acc);
    add_biases<T, Columns<Config::kWarpN>>(args, columns, tile, acc);
    activate(args, tile, acc);
    store_halves<T, Config::kWarpN>(args, columns, tile, acc);
  }

 protected:
  // What store_accumulators takes of the accumulators: every other block.
  template <int kFirst>
  struct EveryOther {
    template <int kWarpN>
    using Columns = GateUpColumns<kWarpN>;
    template <int kMmasN>
    SM80MOE_DEVICE static float2 value(const float (&acc)[kMmasN][4], int block, int half) {
      return {acc[block * 2 + kFirst][half * 2], acc[block * 2 + kFirst][half * 2 + 1]};
    }
  };
  using Gates = EveryOther<0>;
  using Ups = EveryOther<1>;

  template <class T, int kWarpN, int kMmasM, int kMmasN>
  SM80MOE_DEVICE static void store_halves(const GroupedGemmArgs& args, const TileColumns& columns,
                                          const WarpTile& tile,
                                          const float (&acc)[kMmasM][kMmasN][4]) {
    T* out = static_cast<T*>(args.out);
    store_accumulators<T, Gates, kWarpN>(out, columns.total, acc, tile);
    if (args.gated) return;
    store_accumulators<T, Ups, kWarpN>(out, columns.total, acc, second_half(columns, tile));
  }
  SM80MOE_DEVICE static WarpTile second_half(const TileColumns& columns, const WarpTile& tile) {
    WarpTile further = tile;
    further.col0 += columns.up;
    return further;
  }

  template <int kMmasM, int kMmasN>
  SM80MOE_DEVICE static void scale_rows(const GroupedGemmArgs& args, const WarpTile& tile,
                                        float (&acc)[kMmasM][kMmasN][4]) {
    if (args.row_scale == nullptr) return;
#pragma unroll
    for (int i = 0; i < kMmasM; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = tile.row(i, half);
        if (row >= tile.row_end) continue;
        const float factor = of_row(args, row, [&](int source, int choice) {
          return args.row_scale[source * args.row_scale_stride + choice];
        });
#pragma unroll
        for (int j = 0; j < kMmasN; ++j) {
          acc[i][j][half * 2] *= factor;
          acc[i][j][half * 2 + 1] *= factor;
        }
      }
  }

  template <class T, class Columns, int kMmasM, int kMmasN>
  SM80MOE_DEVICE static void add_biases(const GroupedGemmArgs& args, const TileColumns& columns,
                                        const WarpTile& tile, float (&acc)[kMmasM][kMmasN][4]) {
    const BiasArgs& bias = args.epilogue.bias;
    if (bias.rows == nullptr) return;
    const T* of_expert = static_cast<const T*>(bias.rows) + tile.expert * bias.expert_stride;
#pragma unroll
    for (int j = 0; j < kMmasN; ++j) {
      const int group = j / 2 / Columns::kBlocks, block = j / 2 % Columns::kBlocks, is_up = j % 2;
      const int col = tile.column<Columns>(group);
      if (col + is_up * columns.up >= columns.total) continue;
      const T* first = of_expert + (col + block * 2) * bias.column_step + is_up * bias.second;
      const float left = to_float(first[0]), right = to_float(first[bias.column_step]);
#pragma unroll
      for (int i = 0; i < kMmasM; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          acc[i][j][half * 2] += left;
          acc[i][j][half * 2 + 1] += right;
        }
    }
  }

  // Gated results are where the gates were. A branch around each block of rows keeps the compiler
  // from mixing their instructions, for which there are no registers.
  template <int kMmasM, int kMmasN>
  SM80MOE_DEVICE static void activate(const GroupedGemmArgs& args, const WarpTile& tile,
                                      float (&acc)[kMmasM][kMmasN][4]) {
    const EpilogueArgs& options = args.epilogue;
    with_activation(options.activation, [&](auto activation) {
      set_alpha(activation, options, tile.expert);
#pragma unroll
      for (int i = 0; i < kMmasM; ++i)
        if (tile.row0 + i * tile.row_step < tile.row_end)
          activate_block(activation, args, tile.expert, acc[i]);
    });
  }

  template <class Activation, int kMmasN>
  SM80MOE_DEVICE static void activate_block(const Activation& activation,
                                            const GroupedGemmArgs& args, int expert,
                                            float (&acc)[kMmasN][4]) {
    if (args.gated) {
      if constexpr (std::is_same<Activation, Silu>::value) limit_swiglu(args.epilogue, expert, acc);
      for_each_pair(acc, [&](float& gate, float& up) { gate = activation.apply(gate) * up; });
    } else {
      for_each_pair(acc, [&](float& even, float& odd) {
        even = activation.apply(even);
        odd = activation.apply(odd);
      });
    }
  }

  template <int kMmasN>
  SM80MOE_DEVICE static void limit_swiglu(const EpilogueArgs& options, int expert,
                                          float (&acc)[kMmasN][4]) {
    if (!SwigluLimits::exist(options)) return;
    const SwigluLimits limits(options, expert);
    for_each_pair(acc, [&](float& gate, float& up) { limits.apply(gate, up); });
  }

  template <int kMmasN, class Visit>
  SM80MOE_DEVICE static void for_each_pair(float (&acc)[kMmasN][4], Visit&& visit) {
#pragma unroll
    for (int j = 0; j < kMmasN; j += 2)
#pragma unroll
      for (int e = 0; e < 4; ++e) visit(acc[j][e], acc[j + 1][e]);
  }
};

// Takes the first block of rows out of accumulators, which move up.
template <class Sum, int kMmasM, int kMmasN>
SM80MOE_DEVICE void take_first(Sum (&block)[kMmasN][4], Sum (&acc)[kMmasM][kMmasN][4]) {
#pragma unroll
  for (int j = 0; j < kMmasN; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      block[j][e] = acc[0][j][e];
#pragma unroll
      for (int i = 1; i < kMmasM; ++i) acc[i - 1][j][e] = acc[i][j][e];
    }
}

// The same for packed weights, of which there are many formats: it is compiled for one block of
// rows, and blocks take turns in a loop, in which the accumulators move up. All options for all
// blocks at once would be most of what the compiler has to do; beside the mainloop the moves are
// nothing.
struct BlockwiseEpilogue : GeneralEpilogue {
  template <class Config>
  static constexpr bool has_registers() {
    return true;
  }

  template <class T, class Config, int kMmasM, int kMmasN>
  SM80MOE_DEVICE static void store(const GroupedGemmArgs& args, const TileColumns& columns,
                                   WarpTile tile, float (&acc)[kMmasM][kMmasN][4]) {
    if constexpr (kMmasM == 1) {
      if (args.plain)
        store_plain<T, Config::kWarpN>(args, columns, tile, acc);
      else
        GeneralEpilogue::store<T, Config>(args, columns, tile, acc);
    } else {
#pragma unroll 1
      for (; tile.row0 < tile.row_end; tile.row0 += tile.row_step) {
        float block[1][kMmasN][4];
        take_first(block[0], acc);
        GeneralEpilogue::store<T, Config>(args, columns, tile, block);
      }
    }
  }

 private:
  // What the other comes to without options, which takes it its time to find out. Taller tiles have
  // no registers for both.
  template <class T, int kWarpN, int kMmasN>
  SM80MOE_DEVICE static void store_plain(const GroupedGemmArgs& args, const TileColumns& columns,
                                         const WarpTile& tile, const float (&block)[1][kMmasN][4]) {
    if (args.gated)
      store_accumulators<T, SwigluEpilogue, kWarpN>(static_cast<T*>(args.out), columns.total, block,
                                                    tile);
    else
      store_halves<T, kWarpN>(args, columns, tile, block);
  }
};

}  // namespace sm80moe::gemm
