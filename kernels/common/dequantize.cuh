#pragma once
// Stored weights as pairs of 16-bit numbers, exactly: two or three integer instructions a pair and
// one fma.
//
// A 16-bit number whose last bit of mantissa is worth one shows a small integer in the clear: from
// 128 on in bfloat16 (7 bits), from 1024 on in half (10 bits). So bits are put there, and the
// constant is taken away. The small floats are put where the larger type has the same fields; the
// product with a power of two then mends the exponent, of subnormal numbers too.

#include "common/numeric.cuh"
#include "common/ptx.cuh"

namespace sm80moe {

// The bits of `word` that `mask` has, and those of `others`.
SM80MOE_DEVICE uint32_t select_or(uint32_t word, uint32_t mask, uint32_t others) {
  return ptx::lop3 < (0xf0 & 0xcc) | 0xaa > (word, mask, others);
}
SM80MOE_DEVICE uint32_t select_xor(uint32_t word, uint32_t mask, uint32_t others) {
  return ptx::lop3 < (0xf0 & 0xcc) ^ 0xaa > (word, mask, others);
}

template <class T>
struct SixteenBit;
template <>
struct SixteenBit<__nv_bfloat16> {
  static constexpr uint32_t kOnes = 0x3f803f80;
  static constexpr uint32_t kIntegers = 0x43004300;  // 128, and what is in the last 7 bits
};
template <>
struct SixteenBit<__half> {
  static constexpr uint32_t kOnes = 0x3c003c00;
  static constexpr uint32_t kIntegers = 0x64006400;  // 1024, and what is in the last 10 bits
};
inline constexpr uint32_t kSigns = 0x80008000;

// The signed bytes 0 and 2 of a word.
SM80MOE_DEVICE uint32_t int8_pair(uint32_t bytes, __nv_bfloat16) {
  // Seven bits show; the eighth turns the 128 that is taken away into 256.
  const uint32_t shown = select_or(bytes, 0x007f007f, 0x43004300);
  const uint32_t taken = select_or(bytes, 0x00800080, 0xc300c300);
  return fma_pair(shown, SixteenBit<__nv_bfloat16>::kOnes, taken, __nv_bfloat16{});
}
SM80MOE_DEVICE uint32_t int8_pair(uint32_t bytes, __half) {
  const uint32_t shown = select_xor(bytes, 0x00ff00ff, 0x64806480);  // 1024 + 128 + the byte
  return fma_pair(shown, SixteenBit<__half>::kOnes, 0xe480e480, __half{});
}

// The unsigned nibbles 0 and 4 of a word, less `taken`, which integers_below() made.
template <class T>
SM80MOE_DEVICE uint32_t nibble_pair(uint32_t nibbles, uint32_t taken) {
  const uint32_t shown = select_or(nibbles, 0x000f000f, SixteenBit<T>::kIntegers);
  return fma_pair(shown, SixteenBit<T>::kOnes, taken, T{});
}
// What is taken from a number that shows, for it to become what it was more than `zero`.
template <class T>
SM80MOE_HOST_DEVICE constexpr uint32_t integers_below(uint32_t zero) {
  return SixteenBit<T>::kIntegers | kSigns | zero * 0x00010001;
}

// The e4m3 bytes 0 and 2 of a word, times E4m3<T>::kUnit.
template <class T>
struct E4m3;
template <>
struct E4m3<__nv_bfloat16> {
  static constexpr float kUnit = 1;
  SM80MOE_DEVICE static uint32_t pair(uint32_t bytes) {
    constexpr uint32_t kTwoTo120 = 0x7b807b80;
    const uint32_t fields = (bytes & 0x007f007f) << 4;
    return fma_pair(select_or(bytes << 8, kSigns, fields), kTwoTo120, 0, __nv_bfloat16{});
  }
};
template <>
struct E4m3<__half> {
  static constexpr float kUnit = 1.0f / 256;  // subnormal numbers stay exact: no fma
  SM80MOE_DEVICE static uint32_t pair(uint32_t bytes) {
    return select_or(bytes << 8, kSigns, (bytes & 0x007f007f) << 7);
  }
};

// The e2m1 nibbles 0 and 4 of a word, times `power`, which E2m1<T>::power() made of a code: 2 to
// the power of code - 253.
template <class T>
struct E2m1;
template <>
struct E2m1<__nv_bfloat16> {
  SM80MOE_DEVICE static uint32_t pair(uint32_t nibbles, uint32_t power) {
    const uint32_t fields = (nibbles & 0x00070007) << 6;  // times 2 to the power of -126
    return fma_pair(select_or(nibbles << 12, kSigns, fields), power, 0, __nv_bfloat16{});
  }
  SM80MOE_DEVICE static uint32_t power(uint32_t code) { return code * 0x00800080; }
};
template <>
struct E2m1<__half> {
  SM80MOE_DEVICE static uint32_t pair(uint32_t nibbles, uint32_t power) {
    const uint32_t fields = (nibbles & 0x00070007) << 9;  // times 2 to the power of -14
    return fma_pair(select_or(nibbles << 12, kSigns, fields), power, 0, __half{});
  }
  // Below half's range: nothing is left of a group 2 to the power of 30 smaller than the largest.
  SM80MOE_DEVICE static uint32_t power(uint32_t code) {
    return (code > 224 ? code - 224 : 0) * 0x04000400;
  }
};

}  // namespace sm80moe
