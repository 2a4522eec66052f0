#pragma once
// Stored weights as pairs of 16-bit numbers, exactly: one or two integer instructions a pair and
// one fma.
//
// A 16-bit number in whose sign and exponent nothing is set, or the exponent's last bit alone, is
// as many of the smallest as its bits say. So bits are taken as they are; the fma makes the
// smallest a normal number and takes away what zero is stored as. The small floats are put where
// the larger type has the same fields; the product with a power of two then mends the exponent, of
// subnormal numbers too. Their bits are stored where bfloat16 wants them, or one or two shifts away
// (docs/layouts.md).

#include "common/numeric.cuh"
#include "common/ptx.cuh"

namespace sm80moe {

// The bits of `word` that `mask` has, and those of `others`.
SM80MOE_DEVICE uint32_t select_or(uint32_t word, uint32_t mask, uint32_t others) {
  return ptx::lop3 < (0xf0 & 0xcc) | 0xaa > (word, mask, others);
}

SM80MOE_DEVICE uint32_t rotate_right(uint32_t word, int bits) {
  return __funnelshift_r(word, word, bits);
}

template <class T>
struct SixteenBit;
template <>
struct SixteenBit<__nv_bfloat16> {
  static constexpr int kMantissaBits = 7, kBias = 127;
};
template <>
struct SixteenBit<__half> {
  static constexpr int kMantissaBits = 10, kBias = 15;
};
inline constexpr uint32_t kSigns = 0x80008000;

// 2 to the power of `exponent` in both halves, if that is a normal number.
template <class T>
SM80MOE_HOST_DEVICE constexpr uint32_t power_of_two(int exponent) {
  return static_cast<uint32_t>(SixteenBit<T>::kBias + exponent) << SixteenBit<T>::kMantissaBits |
         static_cast<uint32_t>(SixteenBit<T>::kBias + exponent)
             << (SixteenBit<T>::kMantissaBits + 16);
}

// Integers of up to 8 bits, times kUnit: that of the largest power of two and the smallest number.
template <class T>
struct Integers {
  static constexpr int kLargest = SixteenBit<T>::kBias;
  static constexpr int kUnitExponent = 1 - SixteenBit<T>::kMantissaBits;
  static constexpr float kUnit = 1.0f / (1 << -kUnitExponent);

  // Bits kShift and those above, of what has no others, less what below() or `below` made.
  template <int kShift>
  SM80MOE_DEVICE static uint32_t less(uint32_t bits, uint32_t below) {
    return fma_pair(bits, power_of_two<T>(kLargest - kShift), below, T{});
  }
  // What takes integers away, which are in both halves.
  SM80MOE_DEVICE static uint32_t below(uint32_t integers) {
    return fma_pair(integers, power_of_two<T>(kLargest) | kSigns, 0, T{});
  }
  // And 1 << kPower.
  template <int kPower>
  static constexpr uint32_t kBelow = power_of_two<T>(kUnitExponent + kPower) | kSigns;
};

// The bytes 0 and 2 of a word, 1 and 3 (kOdd = 1), less what is below.
template <class T, int kOdd>
SM80MOE_DEVICE uint32_t byte_pair(uint32_t bytes, uint32_t below) {
  return Integers<T>::template less<0>(__byte_perm(bytes, 0, kOdd ? 0x4341 : 0x4240), below);
}
// The nibbles 0 and 4 of a word, 1 and 5 (kOdd = 1).
template <class T, int kOdd>
SM80MOE_DEVICE uint32_t nibble_pair(uint32_t nibbles, uint32_t below) {
  return Integers<T>::template less<4 * kOdd>(nibbles & (kOdd ? 0x00f000f0 : 0x000f000f), below);
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
