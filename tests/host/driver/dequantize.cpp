// dequantize: every code of every format becomes exactly the number that it stands for, in both
// halves of a pair and in both types.

#include "common/dequantize.cuh"

#include <cuda_runtime.h>

#include <cmath>

#include "driver/commands.h"
#include "driver/instance_kind.h"
#include "driver/tensor.h"
#include "driver/weights.h"

namespace driver {
namespace {

using namespace sm80moe;

template <class T>
void expect(const char* what, unsigned code, uint32_t pair, double low, double high) {
  const double got_low = to_double(static_cast<uint16_t>(pair), element_type<T>());
  const double got_high = to_double(static_cast<uint16_t>(pair >> 16), element_type<T>());
  if (got_low != low || got_high != high)
    wrong_result(simt::format("  %s of code %u must be %g and %g, got %g and %g", what, code, low,
                              high, got_low, got_high));
}

// Two codes in the halves of a word, so many bits up, and ones in the bits that are none of theirs.
uint32_t word_of(unsigned low, unsigned high, int bits, int up) {
  const uint32_t mask = ((1u << bits) - 1) << up;
  return ~(mask | mask << 16) | low << up | high << (up + 16);
}

template <class T>
void expect_integers(const char* what, unsigned code, unsigned other, unsigned zero,
                     uint32_t pair) {
  constexpr double kUnit = Integers<T>::kUnit;
  expect<T>(what, code, pair, (int(code) - int(zero)) * kUnit, (int(other) - int(zero)) * kUnit);
}

template <class T>
void check_int8() {
  for (unsigned code = 0; code < 256; ++code)
    for (unsigned zero = 0; zero < 256; ++zero) {
      const unsigned other = 255 - code;
      const uint32_t below = Integers<T>::below(zero * 0x00010001);
      const auto even = byte_pair<T, 0>(word_of(code, other, 8, 0), below);
      const auto odd = byte_pair<T, 1>(word_of(code, other, 8, 8), below);
      expect_integers<T>("int8", code, other, zero, even);
      expect_integers<T>("int8", code, other, zero, odd);
      if (zero == 128 && below != Integers<T>::template kBelow<7>)
        wrong_result("  int8 without zero points must be 128 above zero");
    }
}

template <class T>
void check_int4() {
  for (unsigned code = 0; code < 16; ++code)
    for (unsigned zero = 0; zero < 16; ++zero) {
      const unsigned other = 15 - code;
      const uint32_t below = Integers<T>::below(zero * 0x00010001);
      const auto even = nibble_pair<T, 0>(word_of(code, other, 4, 0), below);
      const auto odd = nibble_pair<T, 1>(word_of(code, other, 4, 4), below);
      expect_integers<T>("int4", code, other, zero, even);
      expect_integers<T>("int4", code, other, zero, odd);
      if (zero == 8 && below != Integers<T>::template kBelow<3>)
        wrong_result("  int4 without zero points must be 8 above zero");
    }
}

// Two codes where a row's first word has weights k and k + 1, and ones in all other bits.
uint32_t word_of(WeightFormat format, int k, unsigned low, unsigned high) {
  uint32_t word = ~0u;
  for (int bit = 0; bit < weight_bits(format); ++bit) {
    if (!(low >> bit & 1)) word &= ~(1u << packed_bit(format, k, bit));
    if (!(high >> bit & 1)) word &= ~(1u << packed_bit(format, k + 1, bit));
  }
  return word;
}

template <class T>
void check_e4m3() {
  for (unsigned code = 0; code < 256; ++code) {
    if ((code & 0x7f) == 0x7f) continue;  // NaN
    const double value = small_float(code, 4, 3) * E4m3<T>::kUnit;
    const auto word = [&](int k) { return word_of(WeightFormat::kFp8, k, code, code ^ 0x80); };
    expect<T>("e4m3", code, E4m3<T>::first(word(0)), value, -value);
    expect<T>("e4m3", code, E4m3<T>::second(word(8)), value, -value);
  }
}

// Powers that the type has room for.
template <class T>
void check_e2m1(unsigned first_power) {
  for (unsigned code = 0; code < 16; ++code)
    for (unsigned power = first_power; power <= 254; ++power) {
      const double value = std::ldexp(small_float(code, 2, 1), static_cast<int>(power) - 253);
      const auto word = [&](int k) { return word_of(WeightFormat::kMxfp4, k, code, code ^ 8); };
      const uint32_t factor = E2m1<T>::power(power * 0x00010001);
      expect<T>("e2m1", code, E2m1<T>::template pair<0>(word(0), factor), value, -value);
      expect<T>("e2m1", code, E2m1<T>::template pair<1>(word(8), factor), value, -value);
      expect<T>("e2m1", code, E2m1<T>::template pair<2>(word(16), factor), value, -value);
      expect<T>("e2m1", code, E2m1<T>::template pair<3>(word(24), factor), value, -value);
    }
}

}  // namespace

void run_dequantize(const Options&) {
  check_int8<__nv_bfloat16>();
  check_int8<__half>();
  check_int4<__nv_bfloat16>();
  check_int4<__half>();
  check_e4m3<__nv_bfloat16>();
  check_e4m3<__half>();
  check_e2m1<__nv_bfloat16>(128);
  check_e2m1<__half>(240);
}

}  // namespace driver
