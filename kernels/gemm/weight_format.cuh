#pragma once
// Weight formats. A format says how weights are stored, and how a warp turns the tile in shared
// memory into B fragments. Its scales are no matter of fragments: they multiply the accumulators.

#include <climits>

#include "common/ptx.cuh"
#include "common/smem_layout.cuh"
#include "common/stored_numbers.cuh"
#include "gemm/element.cuh"
#include "gemm/problem.h"
#include "gemm/tile_config.cuh"

namespace sm80moe::gemm {

// 16-bit weights as checkpoints hold them.
template <class T>
struct DenseWeight {
  static constexpr WeightFormat kFormat = WeightFormat::kDense;
  static constexpr int kBits = weight_bits(kFormat);
  static constexpr bool kIsPacked = false;
  // Elsewhere the tallest tiles would spill.
  static constexpr Turns turns(const Tactic&) { return Turns::kWithStage; }
  static constexpr int min_warps(const Tactic&) { return 0; }  // ptxas chooses
  static constexpr bool saves_registers(const Tactic&) { return false; }
  static constexpr bool has_one_fine_loop(const Tactic&) { return false; }
  static constexpr bool kHasGroupScales = false, kHasCodes = false;
  static constexpr int kLeastGroup = INT_MAX, kMostGroup = INT_MAX;
  static constexpr uint32_t kNoCodeWord = 0;
  // Large tiles whose warps all stand side by side, and deep stages that no warps share out, are
  // for packed weights.
  static constexpr bool has_tactic(const Tactic& t) {
    const bool is_large = t.cta_m > 64 || t.cta_n > 128, is_deep = t.cta_k >= 128;
    return (!is_large || t.warps_m > 1) && (!is_deep || t.warps_k > 1);
  }

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

// Few tactics, since there are many formats. Every element is added up in the order of the
// reduction, so a row's result is the same in all.
constexpr bool has_packed_tactic(const Tactic& t, int bits) {
  // 128 bytes of a row at a time, or 64. Taller tiles of 8 bits are as fast with stages half as
  // deep, of which there is room for more.
  const int depth = t.cta_m == 8 && bits == 4 ? 256 : 128;
  const bool has_depth = t.cta_m > 32 ? t.cta_k < 128 || bits == 4 : t.cta_k == depth;
  return t.warps_m == 1 && t.warps_k == 1 && has_depth && t.cta_m <= 128;
}
// Weights of 8 or 4 bits, of which ldmatrix deals out the words of 32 rows at once.
template <class Numbers>
struct PackedWeight : Numbers {
  static constexpr bool kIsPacked = true;
  // Tiles of few rows, which add up groups by themselves, would spill between loops.
  static constexpr Turns turns(const Tactic& t) {
    return t.cta_m <= 32 ? Turns::kInLoop : Turns::kBetweenLoops;
  }
  // Warps of an SM that registers must be left for: those that have few rows stream. Where it is
  // not said how many, ptxas spills registers to have room for another CTA.
  static constexpr int min_warps(const Tactic& t) {
    return t.cta_m <= 16 ? 16 : t.cta_m <= 64 && t.cta_n == 128 ? 12 : 1;
  }
  static constexpr bool saves_registers(const Tactic&) { return false; }
  static constexpr bool has_one_fine_loop(const Tactic&) { return false; }
  // Whether sums change units among the mma of a step, for which ratios are kept.
  static constexpr bool changes_units_in_step(const Tactic&) { return true; }

  static constexpr bool has_tactic(const Tactic& t) { return has_packed_tactic(t, Numbers::kBits); }

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

// int8 as it is, for int8 activations.
template <class T>
struct Int8PairWeight : DenseWeight<T> {
  static constexpr WeightFormat kFormat = WeightFormat::kInt8Rows;
  static constexpr Turns turns(const Tactic&) { return Turns::kBetweenLoops; }
  static constexpr int min_warps(const Tactic&) { return 1; }
  // Taller tiles would spill; few rows have kernels of their own.
  static constexpr bool has_tactic(const Tactic& t) {
    return DenseWeight<T>::has_tactic(t) && t.warps_k == 1 && t.cta_m <= 128;
  }
};

template <class T>
struct Int8Weight : PackedWeight<Int8Numbers<T>> {
  // Without scales and codes of groups, registers are left for the tallest tile.
  static constexpr bool has_tactic(const Tactic& t) {
    return has_packed_tactic(t, 8) || (t.warps_m == 1 && t.cta_m == 160);
  }
};
template <class T>
struct Int8GroupWeight : PackedWeight<Int8GroupNumbers<T>> {
  static constexpr bool has_one_fine_loop(const Tactic& t) { return t.cta_m * t.cta_n >= 64 * 256; }
  static constexpr bool changes_units_in_step(const Tactic& t) {
    return t.cta_m != 64 || t.cta_n != 256;
  }
};
template <class T>
struct Int4Weight : PackedWeight<Int4Numbers<T>> {
  static constexpr bool saves_registers(const Tactic& t) { return t.cta_m == 64; }
  static constexpr bool has_one_fine_loop(const Tactic& t) { return t.cta_m == 64; }
};
template <class T>
struct Fp8Weight : PackedWeight<Fp8Numbers<T>> {};
template <class T>
struct Mxfp4Weight : PackedWeight<Mxfp4Numbers<T>> {
  static constexpr bool saves_registers(const Tactic& t) { return t.cta_m == 64; }
};

}  // namespace sm80moe::gemm
