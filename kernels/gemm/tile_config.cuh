#pragma once

#include "common/math.cuh"
#include "gemm/tactics.h"

namespace sm80moe::gemm {

// When a loader enters a tile: as it moves to the tile's first stage, or once that and the copies
// before are on their way, or between loops over stages, so that what comes once a tile is not in
// them. What is right differs by nothing but the registers that ptxas has left.
enum class Turns { kWithStage, kInLoop, kBetweenLoops };

// A row of the tactic table as compile-time constants. A warp tile is kMmasM x kMmasN mma tiles;
// with kWarpsK > 1 the warps also share out the reduction and add up their accumulators at the end.
template <int kCtaM_, int kCtaN_, int kCtaK_, int kWarpsM_, int kWarpsN_, int kWarpsK_,
          int kStages_>
struct TileConfig {
  static constexpr int kCtaM = kCtaM_, kCtaN = kCtaN_, kCtaK = kCtaK_;
  static constexpr int kWarpsM = kWarpsM_, kWarpsN = kWarpsN_, kWarpsK = kWarpsK_;
  static constexpr int kStages = kStages_;
  static constexpr Tactic kTactic = {kCtaM, kCtaN, kCtaK, kWarpsM, kWarpsN, kWarpsK, kStages};

  // Of 8 rows a tile makes the 8 columns of an mma, whose 16 rows are weights then.
  static constexpr bool kSwapsOperands = swaps_operands(kCtaM_, kWarpsM_);
  static constexpr int kMmaM = kSwapsOperands ? 8 : 16, kMmaN = 8, kMmaK = 16;
  static constexpr int kWarpM = kCtaM / kWarpsM, kWarpN = kCtaN / kWarpsN;
  static constexpr int kWarpK = kCtaK / kWarpsK;
  static constexpr int kMmasM = kWarpM / kMmaM, kMmasN = kWarpN / kMmaN, kMmasK = kWarpK / kMmaK;
  static constexpr int kSumsN = kSwapsOperands ? kMmasN / 2 : kMmasN;  // mma of a block, 16 deep
  // A warp's 16-row mma tiles are interleaved with those of the other warps: a block is one of
  // each, and a tile that wants few rows gives every warp some.
  static constexpr int kRowsPerBlock = kWarpsM * kMmaM;
  static constexpr bool kHasGroupSums = has_group_sums(kTactic);
  static constexpr int kThreads = kWarpsM * kWarpsN * kWarpsK * kWarpSize;

  static_assert(kCtaM % (kWarpsM * kMmaM) == 0, "warps must tile cta_m in units of 16 rows, or 8");
  static_assert(kCtaN % (kWarpsN * 2 * kMmaN) == 0, "warps must tile cta_n in units of 16 columns");
  static_assert(is_power_of_two(kMmasN), "a warp's columns must be a power of two of mma tiles");
  static_assert(kCtaK % (kWarpsK * kMmaK) == 0 && kMmasK % 2 == 0,
                "fragments are double-buffered: a warp needs an even number of k steps a stage");
  static_assert(kStages >= 2);
};

template <int kId>
using ConfigAt =
    TileConfig<kTactics[kId].cta_m, kTactics[kId].cta_n, kTactics[kId].cta_k, kTactics[kId].warps_m,
               kTactics[kId].warps_n, kTactics[kId].warps_k, kTactics[kId].stages>;

}  // namespace sm80moe::gemm
