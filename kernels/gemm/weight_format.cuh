#pragma once
// Weight formats. A format says how weights are stored, and how a warp turns the tile in shared
// memory into B fragments. Its scales are no matter of fragments: they multiply the accumulators.

#include "common/ptx.cuh"
#include "common/smem_layout.cuh"
#include "gemm/dequantize.cuh"
#include "gemm/problem.h"
#include "gemm/tactics.h"

namespace sm80moe::gemm {

// 16-bit weights as checkpoints hold them.
template <class T>
struct DenseWeight {
  static constexpr WeightFormat kFormat = WeightFormat::kDense;
  static constexpr int kBits = weight_bits(kFormat);
  static constexpr bool kIsPacked = false;
  static constexpr bool kHasGroupScales = false, kHasCodes = false;
  static constexpr uint32_t kNoCodeWord = 0;
  static constexpr bool has_tactic(const Tactic&) { return true; }

  // Byte offset in the tile that this lane passes to load_fragments for rows [row, row + 16) at the
  // start of a row; SwizzledTile::advance moves it along the reduction.
  template <class Tile>
  SM80MOE_DEVICE static int lane_offset(int row, int lane) {
    return Tile::byte_offset(row + lane / 16 * 8 + lane % 8, lane / 8 % 2);
  }

  // b[0], b[1]: the fragment of rows 0-7; b[2], b[3]: of rows 8-15.
  SM80MOE_DEVICE static void load_fragments(uint32_t (&b)[4], uint32_t address) {
    ptx::ldmatrix_x4(b, address);
  }
};

// Weights of 8 or 4 bits. The 16 bytes of a chunk hold 16 or 32 neighbours along the reduction, in
// an order that gives each lane of a quad, in 4 bytes, just the weights of its fragments: ldmatrix
// then deals them out, 32 rows at once. quantization/packing.py packs; docs/layouts.md has
// pictures.
template <WeightFormat kFormat_>
struct PackedWeight {
  static constexpr WeightFormat kFormat = kFormat_;
  static constexpr int kBits = weight_bits(kFormat);
  static constexpr bool kIsPacked = true;
  static constexpr int kStepsPerLoad = 8 / kBits;  // 16-deep steps that a lane's 4 bytes last

  // What a format may have beside a scale a row: scales that groups of a row share, and codes (a
  // byte each) that decode() needs, as the word that column_word() makes of them.
  static constexpr bool kHasGroupScales = false;
  static constexpr bool kHasCodes = false;
  static constexpr uint32_t kNoCodeWord = 0;  // where there are no codes
  static constexpr float kUnit = 1;           // decode() gives the stored numbers times this

  // Few tactics, since there are many formats: one for streaming, one between, one of tall tiles.
  // Every element is added up in the order of the reduction, so a row's result is the same in all.
  static constexpr bool has_tactic(const Tactic& t) {
    return t.warps_k == 1 && (t.cta_m < 128 || (t.cta_m == 128 && t.cta_n == 256));
  }

  // Of rows [row, row + 32).
  template <class Tile>
  SM80MOE_DEVICE static int lane_offset(int row, int lane) {
    return Tile::byte_offset(row + lane, 0);
  }

  // raw[i]: what this lane's fragments of rows 8i to 8i + 7 are made of.
  SM80MOE_DEVICE static void load_raw(uint32_t (&raw)[4], uint32_t address) {
    ptx::ldmatrix_x4(raw, address);
  }
};

// int8 and a scale a row.
template <class T>
struct Int8Weight : PackedWeight<WeightFormat::kInt8> {
  SM80MOE_DEVICE static void decode(uint32_t raw, int, uint32_t, uint32_t& b0, uint32_t& b1) {
    b0 = int8_pair(raw, T{});
    b1 = int8_pair(raw >> 8, T{});
  }
};

// int8 in groups, each with a scale and perhaps a zero point, its code.
template <class T>
struct Int8GroupWeight : PackedWeight<WeightFormat::kInt8Group> {
  // Zero points of 8 bits take the registers of tall tiles.
  static constexpr bool has_tactic(const Tactic& t) { return t.warps_k == 1 && t.cta_m < 128; }

  static constexpr bool kHasGroupScales = true;
  static constexpr bool kHasCodes = true;

  SM80MOE_DEVICE static uint32_t column_word(uint32_t code) {
    return int8_pair(code * 0x00010001, T{}) ^ kSigns;  // -code
  }
  SM80MOE_DEVICE static void decode(uint32_t raw, int, uint32_t less_zero, uint32_t& b0,
                                    uint32_t& b1) {
    constexpr uint32_t kOnes = SixteenBit<T>::kOnes;
    b0 = fma_pair(int8_pair(raw, T{}), kOnes, less_zero, T{});
    b1 = fma_pair(int8_pair(raw >> 8, T{}), kOnes, less_zero, T{});
  }
};

// int4, stored as 0 to 15, in groups, each with a scale and a zero point, its code.
template <class T>
struct Int4Weight : PackedWeight<WeightFormat::kInt4> {
  static constexpr bool kHasGroupScales = true;
  static constexpr bool kHasCodes = true;
  static constexpr uint32_t kNoCodeWord = integers_below<T>(8);

  SM80MOE_DEVICE static uint32_t column_word(uint32_t code) { return integers_below<T>(code); }
  SM80MOE_DEVICE static void decode(uint32_t raw, int part, uint32_t taken, uint32_t& b0,
                                    uint32_t& b1) {
    b0 = nibble_pair<T>(raw >> (8 * part), taken);
    b1 = nibble_pair<T>(raw >> (8 * part + 4), taken);
  }
};

// e4m3 in groups, each with a scale.
template <class T>
struct Fp8Weight : PackedWeight<WeightFormat::kFp8> {
  static constexpr bool kHasGroupScales = true;
  static constexpr float kUnit = E4m3<T>::kUnit;

  SM80MOE_DEVICE static void decode(uint32_t raw, int, uint32_t, uint32_t& b0, uint32_t& b1) {
    b0 = E4m3<T>::pair(raw);
    b1 = E4m3<T>::pair(raw >> 8);
  }
};

// e2m1 in groups of 32, each with an exponent, its code: exact in 16 bits, so no sum changes units.
template <class T>
struct Mxfp4Weight : PackedWeight<WeightFormat::kMxfp4> {
  static constexpr bool kHasCodes = true;

  SM80MOE_DEVICE static uint32_t column_word(uint32_t code) { return E2m1<T>::power(code); }
  SM80MOE_DEVICE static void decode(uint32_t raw, int part, uint32_t power, uint32_t& b0,
                                    uint32_t& b1) {
    b0 = E2m1<T>::pair(raw >> (8 * part), power);
    b1 = E2m1<T>::pair(raw >> (8 * part + 4), power);
  }
};

}  // namespace sm80moe::gemm
