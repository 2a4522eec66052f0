#pragma once
// Numbers as int8: value = (stored - zero point) * scale. What the kernels that store them share,
// so that they all round alike.

#include <cstdint>

#include "common/int8.h"
#include "common/math.cuh"

namespace sm80moe {

// Added to an integer of up to 22 bits this makes a float whose last bits are that integer: sums
// and differences with it convert between the two, at several times the rate of a conversion.
inline constexpr float kIntegerAsFloat = 12582912;  // 1.5 * 2 ** 23

struct Int8Quantizer {
  float scale, inverse;
  float low, high;  // of stored numbers before the zero point is added
  int zero_point;

  // The lowest 8 bits are the stored number: the nearest, ties to even, within the range. NaN
  // counts as lowest.
  SM80MOE_DEVICE uint32_t store(float value) const {
    const float steps = fminf(fmaxf(__fmul_rn(value, inverse), low), high);
    return __float_as_uint(__fadd_rn(steps, kIntegerAsFloat)) + zero_point;
  }
  // The same of a number that is within the range, or for which the scale is infinite or NaN.
  SM80MOE_DEVICE uint32_t store_unclamped(float value) const {
    return __float_as_uint(__fadd_rn(__fmul_rn(value, inverse), kIntegerAsFloat)) + zero_point;
  }
  // Four of them, the first in the lowest bits.
  SM80MOE_DEVICE uint32_t store(float a, float b, float c, float d) const {
    return low_bytes(store(a), store(b), store(c), store(d));
  }
  SM80MOE_DEVICE uint32_t store_unclamped(float a, float b, float c, float d) const {
    return low_bytes(store_unclamped(a), store_unclamped(b), store_unclamped(c),
                     store_unclamped(d));
  }

 private:
  SM80MOE_DEVICE static uint32_t low_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
  }
};

SM80MOE_DEVICE Int8Quantizer int8_quantizer(float scale, float zero_point) {
  return {scale, __frcp_rn(scale), -128 - zero_point, 127 - zero_point,
          static_cast<int>(zero_point)};
}

// The bits of |value|, which as integers have the order of the numbers, with infinity and NaN above
// all others.
SM80MOE_DEVICE uint32_t magnitude(float value) { return __float_as_uint(value) & 0x7fffffff; }

// The largest number becomes 127. NaN or infinity among the numbers is seen in the scale. Zeros
// have the smallest scale whose inverse is finite.
SM80MOE_DEVICE Int8Quantizer quantizer_of_largest(uint32_t largest_magnitude) {
  constexpr uint32_t kSmallest = 0x04000000;  // 2 ** -119
  const float largest = __uint_as_float(max_of(largest_magnitude, kSmallest));
  return int8_quantizer(__fmul_rn(largest, 1.0f / 127), 0);
}

}  // namespace sm80moe
