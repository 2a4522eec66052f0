#pragma once
// Packed weights: how a lane's 4 bytes become fragments of mma. Scales are no matter of fragments:
// they multiply sums.
//
// The 16 bytes of a chunk hold 16 or 32 neighbours along the reduction, of 8 or 4 bits each. Word j
// of them has just the weights that lane j of a quad holds in the fragments of one or two mma, each
// 16 deep: in part p, numbers 16p + 2j and the next, and those 8 further on.
// quantization/packing.py packs; docs/layouts.md has pictures.

#include <climits>

#include "common/dequantize.cuh"
#include "common/packed_args.h"

namespace sm80moe {

// What a format may have beside a scale a row: scales that groups of a row share, and codes (a byte
// each) that decode() needs, as the word that column_word() makes of one that is in both halves.
template <WeightFormat kFormat_>
struct StoredNumbers {
  static constexpr WeightFormat kFormat = kFormat_;
  static constexpr int kBits = weight_bits(kFormat);
  static constexpr int kParts = 8 / kBits;  // 16-deep steps that a lane's 4 bytes last
  static constexpr bool kHasGroupScales = has_group_scales(kFormat);
  static constexpr bool kHasCodes = false;
  static constexpr uint32_t kNoCodeWord = 0;                    // where there are no codes
  static constexpr int kLeastGroup = 32, kMostGroup = INT_MAX;  // weights
  static constexpr float kUnit = 1;  // decode() gives the stored numbers times this

  SM80MOE_DEVICE static uint32_t column_word(uint32_t) { return kNoCodeWord; }
};

// int8, stored as 0 to 255, and a scale a row.
template <class T>
struct Int8Numbers : StoredNumbers<WeightFormat::kInt8> {
  static constexpr float kUnit = Integers<T>::kUnit;
  static constexpr uint32_t kNoCodeWord = Integers<T>::template kBelow<7>;

  SM80MOE_DEVICE static void decode(uint32_t raw, int, uint32_t below, uint32_t& b0, uint32_t& b1) {
    b0 = byte_pair<T, 0>(raw, below);
    b1 = byte_pair<T, 1>(raw, below);
  }
};

// The same in groups, each with a scale and perhaps a zero point, its code.
template <class T>
struct Int8GroupNumbers : Int8Numbers<T> {
  static constexpr WeightFormat kFormat = WeightFormat::kInt8Group;
  static constexpr bool kHasGroupScales = has_group_scales(kFormat);
  static constexpr bool kHasCodes = true;

  SM80MOE_DEVICE static uint32_t column_word(uint32_t codes) { return Integers<T>::below(codes); }
};

// int4, stored as 0 to 15, in groups, each with a scale and a zero point, its code.
template <class T>
struct Int4Numbers : StoredNumbers<WeightFormat::kInt4> {
  static constexpr float kUnit = Integers<T>::kUnit;
  static constexpr bool kHasCodes = true;
  static constexpr uint32_t kNoCodeWord = Integers<T>::template kBelow<3>;

  SM80MOE_DEVICE static uint32_t column_word(uint32_t codes) { return Integers<T>::below(codes); }
  SM80MOE_DEVICE static void decode(uint32_t raw, int part, uint32_t below, uint32_t& b0,
                                    uint32_t& b1) {
    b0 = nibble_pair<T, 0>(raw >> (8 * part), below);
    b1 = nibble_pair<T, 1>(raw >> (8 * part), below);
  }
};

// e4m3 in groups, each with a scale.
template <class T>
struct Fp8Numbers : StoredNumbers<WeightFormat::kFp8> {
  static constexpr int kLeastGroup = 128;
  static constexpr float kUnit = E4m3<T>::kUnit;

  SM80MOE_DEVICE static void decode(uint32_t raw, int, uint32_t, uint32_t& b0, uint32_t& b1) {
    b0 = E4m3<T>::first(raw);
    b1 = E4m3<T>::second(raw);
  }
};

// e2m1 in groups of 32, each with an exponent, its code: exact in 16 bits, so no sum changes units.
template <class T>
struct Mxfp4Numbers : StoredNumbers<WeightFormat::kMxfp4> {
  static constexpr bool kHasCodes = true;
  static constexpr int kMostGroup = 32;

  SM80MOE_DEVICE static uint32_t column_word(uint32_t codes) { return E2m1<T>::power(codes); }
  SM80MOE_DEVICE static void decode(uint32_t raw, int part, uint32_t power, uint32_t& b0,
                                    uint32_t& b1) {
    using Numbers = E2m1<T>;
    b0 = part == 0 ? Numbers::template pair<0>(raw, power) : Numbers::template pair<2>(raw, power);
    b1 = part == 0 ? Numbers::template pair<1>(raw, power) : Numbers::template pair<3>(raw, power);
  }
};

// The same where no weights have codes.
template <class Numbers>
struct WithoutCodes : Numbers {
  static constexpr bool kHasCodes = false;
};

}  // namespace sm80moe
