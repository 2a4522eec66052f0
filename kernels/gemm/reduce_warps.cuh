#pragma once
// Adds up the accumulators of the warps that shared out the reduction.

#include "common/warp.cuh"

namespace sm80moe::gemm {

// Warps come in kWarpsK groups of kGroupWarps. Afterwards group 0 holds the sum, added in group
// order, so the result never depends on timing. `smem` is free again after the CTA's next barrier.
template <class Sum, int kWarpsK, int kGroupWarps, int kMmasM, int kMmasN>
struct WarpReduction {
  static constexpr int kSumsPerWarp = kMmasM * kMmasN * 4 * kWarpSize;
  static constexpr int kSmemBytes =
      (kWarpsK - 1) * kGroupWarps * kSumsPerWarp * static_cast<int>(sizeof(Sum));

  SM80MOE_DEVICE static void run(Sum (&acc)[kMmasM][kMmasN][4], Sum* smem) {
    if constexpr (kWarpsK == 1) return;
    const int group = warp_index() / kGroupWarps;
    if (group > 0) {
      Sum* mine = smem + (warp_index() - kGroupWarps) * kSumsPerWarp + lane_index();
      for_each(acc, [&](Sum& value, int i) { mine[i * kWarpSize] = value; });
    }
    __syncthreads();
    if (group > 0) return;
    for (int other = 1; other < kWarpsK; ++other) {
      const Sum* theirs =
          smem + ((other - 1) * kGroupWarps + warp_index()) * kSumsPerWarp + lane_index();
      for_each(acc, [&](Sum& value, int i) { value += theirs[i * kWarpSize]; });
    }
  }

 private:
  template <class Visit>
  SM80MOE_DEVICE static void for_each(Sum (&acc)[kMmasM][kMmasN][4], Visit&& visit) {
#pragma unroll
    for (int i = 0; i < kMmasM; ++i)
#pragma unroll
      for (int j = 0; j < kMmasN; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) visit(acc[i][j][e], (i * kMmasN + j) * 4 + e);
  }
};

}  // namespace sm80moe::gemm
