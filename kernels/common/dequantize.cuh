#pragma once
// Stored weights as pairs of 16-bit numbers, exactly: two or three integer instructions a pair and
// one fma.
//
// A 16-bit number whose last bit of mantissa is worth one shows a small integer in the clear: from
// 128 on in bfloat16 (7 bits), from 1024 on in half (10 bits). So bits are put there, and the
// constant is taken away. The small floats are put where the larger type has the same fields; the
// product with a power of two then mends the exponent, of subnormal numbers too. Their bits are
// stored where bfloat16 wants them, or one or two shifts away (docs/layouts.md).

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

SM80MOE_DEVICE uint32_t rotate_right(uint32_t word, int bits) {
  return __funnelshift_r(word, word, bits);
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
// What is taken from numbers that show, for them to become what they were more than `zeros`, which
// are in both halves, as all codes are that stand for a pair.
template <class T>
SM80MOE_HOST_DEVICE constexpr uint32_t integers_below(uint32_t zeros) {
  return SixteenBit<T>::kIntegers | kSigns | zeros;
}

// The e4m3 numbers of a word, of each half the first or the second, times E4m3<T>::kUnit.
template <class T>
struct E4m3;
template <>
struct E4m3<__nv_bfloat16> {
  static constexpr float kUnit = 1;
  SM80MOE_DEVICE static uint32_t first(uint32_t word) { return number(word & 0x87f087f0); }
  SM80MOE_DEVICE static uint32_t second(uint32_t word) {
    return number(select_or(word << 4, 0x80f080f0, word >> 4 & 0x07000700));
  }

 private:
  SM80MOE_DEVICE static uint32_t number(uint32_t fields) {
    constexpr uint32_t kTwoTo120 = 0x7b807b80;
    return fma_pair(fields, kTwoTo120, 0, __nv_bfloat16{});
  }
};
template <>
struct E4m3<__half> {
  static constexpr float kUnit = 1.0f / 256;  // subnormal numbers stay exact: no fma
  SM80MOE_DEVICE static uint32_t first(uint32_t word) {
    return select_or(word, kSigns, word << 3 & 0x3f803f80);
  }
  SM80MOE_DEVICE static uint32_t second(uint32_t word) {
    const uint32_t mantissa = word << 7 & 0x07800780;
    return select_or(word << 4, kSigns, select_or(word >> 1, 0x38003800, mantissa));
  }
};

// The e2m1 numbers of a word, of each half number kIndex of four, times `power`, which
// E2m1<T>::power() made of codes: 2 to the power of code - 253.
template <class T>
struct E2m1;
template <>
struct E2m1<__nv_bfloat16> {
  template <int kIndex>
  SM80MOE_DEVICE static uint32_t pair(uint32_t word, uint32_t power) {
    return fma_pair(fields<kIndex>(word), power, 0, __nv_bfloat16{});
  }
  SM80MOE_DEVICE static uint32_t power(uint32_t codes) { return codes << 7; }

 private:
  template <int kIndex>
  SM80MOE_DEVICE static uint32_t fields(uint32_t word) {  // times 2 to the power of -126
    constexpr uint32_t kFields = 0x81c081c0;
    if (kIndex == 0) return word & kFields;
    if (kIndex == 1) return rotate_right(word, 4) & kFields;
    if (kIndex == 2) return word << 6 & kFields;
    return select_or(rotate_right(word, 6), 0x81808180, word << 2 & 0x00400040);
  }
};
template <>
struct E2m1<__half> {
  template <int kIndex>
  SM80MOE_DEVICE static uint32_t pair(uint32_t word, uint32_t power) {
    return fma_pair(fields<kIndex>(word), power, 0, __half{});
  }
  // Below half's range: nothing is left of a group 2 to the power of 30 smaller than the largest.
  SM80MOE_DEVICE static uint32_t power(uint32_t codes) {
    const uint32_t code = codes & 0xff;
    return (code > 224 ? code - 224 : 0) * 0x04000400;
  }

 private:
  template <int kIndex>
  SM80MOE_DEVICE static uint32_t fields(uint32_t word) {  // times 2 to the power of -14
    constexpr uint32_t kSizes = 0x0e000e00;
    if (kIndex == 0) return select_or(word, kSigns, word << 3 & kSizes);
    if (kIndex == 1) return select_or(rotate_right(word, 4), kSigns, word >> 1 & kSizes);
    if (kIndex == 2) return select_or(word << 6, kSigns, word << 9 & kSizes);
    const uint32_t exponent = word >> 3 & 0x0c000c00;
    return select_or(rotate_right(word, 6), kSigns, select_or(word << 5, 0x02000200, exponent));
  }
};

}  // namespace sm80moe
