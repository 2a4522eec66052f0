#pragma once
// How many columns the tiles of a packed layer have. Plain C++ that the host works out before a
// launch, for any number of groups: what the router chose, only the kernel knows.

#include <climits>
#include <cstdint>

#include "common/math.cuh"
#include "decode/row_stream.cuh"

namespace sm80moe::decode {

// What a tile costs beside its steps, in steps.
inline constexpr int kStepsOfTile = 1;

// log2 of the columns, at most 3, for up to kMaxPairs groups.
class TileWidths {
 public:
  // depth: chunks of a row. tiles_of_cta(groups, width): of the CTA with most of them.
  //
  // The wider, the less often do tiles end, and the fewer lanes have a pair and read activations.
  // On the other hand the last tiles may leave many of a CTA's warps idle, while the rest are no
  // faster for it.
  template <class TilesOfCta>
  TileWidths(int log2_most, int depth, int most_groups, const TilesOfCta& tiles_of_cta) {
    for (int groups = 1; groups <= most_groups; ++groups) {
      int best = 0, least = INT_MAX;
      for (int log2_width = 0; log2_width <= log2_most; ++log2_width) {
        const int tiles = tiles_of_cta(groups, 1 << log2_width);
        const int places = ceil_div(tiles, kWarps) * kWarps;
        const int steps = ceil_div(depth, kWarpSize >> log2_width);
        const int cost = (tiles + places) * (steps + kStepsOfTile);
        if (cost <= least) best = log2_width;
        least = min_of(least, cost);
      }
      bits_ |= static_cast<uint64_t>(best) << shift(groups);
    }
  }

  // More if the largest group has more pairs.
  SM80MOE_DEVICE int log2_width_for(const ExpertGroups& groups) const {
    return max_of(groups.log2_width(), static_cast<int>(bits_ >> shift(groups.size()) & 3));
  }

 private:
  SM80MOE_HOST_DEVICE static constexpr int shift(int groups) { return (groups - 1) * 2 & 63; }

  uint64_t bits_ = 0;
};

}  // namespace sm80moe::decode
