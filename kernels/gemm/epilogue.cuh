#pragma once
// Epilogues: what becomes of the fp32 accumulators. A policy names the column order it needs, says
// which columns a tile has, and stores a warp's accumulators; on the host it chooses
// among tactics and prepares its arguments.
// General ones: general_epilogue.cuh.

#include "common/activation.cuh"
#include "common/numeric.cuh"
#include "common/warp.cuh"
#include "gemm/column_order.cuh"
#include "gemm/problem.h"

namespace sm80moe::gemm {

// Where a warp's accumulators belong in the result.
struct WarpTile {
  int expert;
  int row0, row_step, row_end;
  int col0;
  void* scratch;  // shared memory of the CTA: the policy's kScratchBytes

  // This lane's row in half 0 or 1 of a block of 16.
  SM80MOE_DEVICE int row(int block, int half) const {
    return row0 + block * row_step + half * 8 + lane_index() / 4;
  }
  // The first of the 2 * kBlocks columns that this lane has of a group.
  template <class Columns>
  SM80MOE_DEVICE int column(int group) const {
    return col0 + group * Columns::kColumnsPerGroup + lane_index() % 4 * (2 * Columns::kBlocks);
  }
};

// factor(source row, which of its pairs) of a row of the result.
template <class Factor>
SM80MOE_DEVICE float of_row(const GroupedGemmArgs& args, int row, const Factor& factor) {
  const int pair = args.row_index ? args.row_index[row] : row;
  const int source = args.row_index ? pair / args.top_k : row;
  const int choice = args.row_index ? pair - source * args.top_k : 0;
  // An index that the caller got wrong has read a row of zeros.
  if (pair < 0 || source >= args.num_source_rows) return 0;
  return factor(source, choice);
}

// Writes the output columns that one thread holds of one row: 2 * kBlocks neighbours, 16 bytes when
// kBlocks is 4.
template <int kBlocks>
SM80MOE_DEVICE void store_words(void* dst, const uint32_t (&words)[kBlocks]) {
  static_assert(kBlocks == 1 || kBlocks == 2 || kBlocks == 4);
  if constexpr (kBlocks == 4)
    *static_cast<uint4*>(dst) = make_uint4(words[0], words[1], words[2], words[3]);
  else if constexpr (kBlocks == 2)
    *static_cast<uint2*>(dst) = make_uint2(words[0], words[1]);
  else
    *static_cast<uint32_t*>(dst) = words[0];
}

// Stores one warp's accumulators; Epilogue::value makes the pair of an output block of a row.
template <class T, class Epilogue, int kWarpN, int kMmasM, int kMmasN>
SM80MOE_DEVICE void store_accumulators(T* out, int out_n, const float (&acc)[kMmasM][kMmasN][4],
                                       const WarpTile& tile) {
  using Columns = typename Epilogue::template Columns<kWarpN>;
  constexpr int kBlocks = Columns::kBlocks;
  constexpr int kGroups = kWarpN / Columns::kRowsPerGroup;

#pragma unroll
  for (int i = 0; i < kMmasM; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile.row(i, half);
      if (row >= tile.row_end) continue;
      T* out_row = out + static_cast<int64_t>(row) * out_n;
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const int col = tile.column<Columns>(group);
        if (col >= out_n) continue;
        uint32_t words[kBlocks];
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
          const float2 pair = Epilogue::value(acc[i], group * kBlocks + block, half);
          words[block] = pack_pair(pair.x, pair.y, T{});
        }
        store_words(out_row + col, words);
      }
    }
}

// out[m, n] = acc
struct StoreEpilogue {
  static constexpr int kTileRowsPerColumn = 1;
  template <int kWarpN>
  using Columns = PlainColumns<kWarpN>;

  template <class Config>
  static constexpr bool has_registers() {
    return true;
  }
  template <class Config>
  static constexpr int kScratchBytes = 0;
  static void prepare(GroupedGemmArgs&, int) {}
  SM80MOE_DEVICE static TileColumns columns(const GroupedGemmArgs& args, int cta_n) {
    return {args.n, cta_n, 0};
  }

  template <class T, class Config, class Accumulator>
  SM80MOE_DEVICE static void store(const GroupedGemmArgs& args, const TileColumns& columns,
                                   const WarpTile& tile, Accumulator& acc) {
    T* out = static_cast<T*>(args.out);
    store_accumulators<T, StoreEpilogue, Config::kWarpN>(out, columns.total, acc, tile);
  }

  template <int kMmasN>
  SM80MOE_DEVICE static float2 value(const float (&acc)[kMmasN][4], int block, int half) {
    return {acc[block][half * 2], acc[block][half * 2 + 1]};
  }
};

// out[m, i] = silu(gate[i]) * up[i], in fp32, straight from the accumulators.
struct SwigluEpilogue {
  static constexpr int kTileRowsPerColumn = 2;
  template <int kWarpN>
  using Columns = GateUpColumns<kWarpN>;

  template <class Config>
  static constexpr bool has_registers() {
    return true;
  }
  template <class Config>
  static constexpr int kScratchBytes = 0;
  static void prepare(GroupedGemmArgs&, int) {}
  SM80MOE_DEVICE static TileColumns columns(const GroupedGemmArgs& args, int cta_n) {
    return {args.n / 2, cta_n / 2, 0};
  }

  template <class T, class Config, class Accumulator>
  SM80MOE_DEVICE static void store(const GroupedGemmArgs& args, const TileColumns& columns,
                                   const WarpTile& tile, Accumulator& acc) {
    T* out = static_cast<T*>(args.out);
    store_accumulators<T, SwigluEpilogue, Config::kWarpN>(out, columns.total, acc, tile);
  }

  template <int kMmasN>
  SM80MOE_DEVICE static float2 value(const float (&acc)[kMmasN][4], int block, int half) {
    const float* gate = acc[block * 2] + half * 2;
    const float* up = acc[block * 2 + 1] + half * 2;
    return {silu(gate[0]) * up[0], silu(gate[1]) * up[1]};
  }
};

}  // namespace sm80moe::gemm
