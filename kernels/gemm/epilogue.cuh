#pragma once
// Epilogues: what becomes of the fp32 accumulators. A policy names the column order it needs and
// turns the accumulators of one output block into the pair of values that this thread stores.

#include "common/activation.cuh"
#include "common/numeric.cuh"
#include "common/warp.cuh"
#include "gemm/column_order.cuh"

namespace sm80moe::gemm {

// out[m, n] = acc
struct StoreEpilogue {
  static constexpr int kWeightRowsPerColumn = 1;
  template <int kWarpN>
  using Columns = PlainColumns<kWarpN>;

  template <int kMmasN>
  SM80MOE_DEVICE static float2 value(const float (&acc)[kMmasN][4], int block, int half) {
    return {acc[block][half * 2], acc[block][half * 2 + 1]};
  }
};

// out[m, i] = silu(gate[i]) * up[i], in fp32, straight from the accumulators.
struct SwigluEpilogue {
  static constexpr int kWeightRowsPerColumn = 2;
  template <int kWarpN>
  using Columns = GateUpColumns<kWarpN>;

  template <int kMmasN>
  SM80MOE_DEVICE static float2 value(const float (&acc)[kMmasN][4], int block, int half) {
    const float* gate = acc[block * 2] + half * 2;
    const float* up = acc[block * 2 + 1] + half * 2;
    return {silu(gate[0]) * up[0], silu(gate[1]) * up[1]};
  }
};

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

// Stores one warp's accumulators. `out` is the tensor, `row0` the warp tile's first row of which
// this lane holds row0 + i * row_step + lane / 4 (+ 8), `col0` its first output column.
template <class T, class Epilogue, int kWarpN, int kMmasM, int kMmasN>
SM80MOE_DEVICE void store_accumulators(T* out, int out_n, const float (&acc)[kMmasM][kMmasN][4],
                                       int row0, int row_step, int row_end, int col0) {
  using Columns = typename Epilogue::template Columns<kWarpN>;
  constexpr int kBlocks = Columns::kBlocks;
  constexpr int kGroups = kWarpN / Columns::kRowsPerGroup;
  const int lane = lane_index();

#pragma unroll
  for (int i = 0; i < kMmasM; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + i * row_step + half * 8 + lane / 4;
      if (row >= row_end) continue;
      T* out_row = out + static_cast<int64_t>(row) * out_n;
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const int col = col0 + group * Columns::kColumnsPerGroup + lane % 4 * (2 * kBlocks);
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

}  // namespace sm80moe::gemm
