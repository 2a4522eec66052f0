#pragma once
// Tiles of 8 rows: weights are the 16-row operand of mma, activations the one of 8 columns, so that
// no half of an mma is empty where experts have few rows. Half as many mma multiply the same
// weights.

#include "common/warp.cuh"
#include "gemm/element.cuh"

namespace sm80moe::gemm {

// sums[i] += rows 16i to 16i + 15 of the weights times 8 rows of activations, 16 deep. `w` has the
// fragments of both operands' usual roles: of a B fragment of 8 rows and the next 8 an A fragment
// is made by their order alone. `x` is what ldmatrix deals out of rows of activations.
template <class T, int kPairs>
SM80MOE_DEVICE void multiply_swapped(float (&sums)[kPairs][4], const uint32_t (&w)[kPairs][4],
                                     const uint32_t* x) {
#pragma unroll
  for (int i = 0; i < kPairs; ++i)
    multiply_add(sums[i], {w[i][0], w[i][2], w[i][1], w[i][3]}, x[0], x[1], T{});
}

// Turns sums, of which lane 4r + t has columns r of two 8-column blocks and rows 2t and 2t + 1,
// into accumulators, of which it has row r and columns 2t and 2t + 1. There is no second half of
// rows.
template <int kPairs>
SM80MOE_DEVICE void turn_sums(const float (&sums)[kPairs][4], float (&acc)[2 * kPairs][4]) {
  const int row = lane_index() / 4;
#pragma unroll
  for (int block = 0; block < 2 * kPairs; ++block) {
    const float* of_rows = sums[block / 2] + block % 2 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int source = (lane_index() % 4 * 2 + i) * 4 + row / 2;
      const float even = __shfl_sync(kFullWarp, of_rows[0], source);
      const float odd = __shfl_sync(kFullWarp, of_rows[1], source);
      acc[block][i] = row % 2 == 0 ? even : odd;
      acc[block][2 + i] = 0;
    }
  }
}

}  // namespace sm80moe::gemm
