#pragma once
// What rows of activations and of dense weights are made of, and how products of them are summed.

#include "common/int8.h"
#include "common/ptx.cuh"

namespace sm80moe::gemm {

// Two int8, neighbours along the reduction: rows of pairs are copied, laid out and dealt out like
// rows of 16-bit numbers, and K counts pairs.
struct Int8Pair {
  int8_t first, second;
};

// What the mma of a whole row adds up.
template <class T>
struct SumOf {
  using type = float;
};
template <>
struct SumOf<Int8Pair> {
  using type = int32_t;
};
template <class T>
using Sum = typename SumOf<T>::type;

// d += a * b on a tile of 16 rows, 8 columns and 16 elements or pairs.
template <class T>
SM80MOE_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                 T type) {
  ptx::mma_m16n8k16(d, a, b0, b1, type);
}
SM80MOE_DEVICE void multiply_add(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                 Int8Pair) {
  ptx::mma_m16n8k32(d, a, b0, b1);
}

}  // namespace sm80moe::gemm
