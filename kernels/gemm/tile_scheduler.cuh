#pragma once

#include "common/warp.cuh"
#include "gemm/problem.h"

namespace sm80moe::gemm {

// Numbers the tiles of all experts. Expert sizes are read on the device, so the host never
// synchronizes to learn how many rows each expert received.
//
// An expert's rows are cut into as few tiles as hold them, all of the same height but for one
// 16-row block a warp: a ragged end is shared out, not left to a tile that loads weights for a few
// rows.
//
// Within an expert the m tiles are walked fastest, in bands: the CTAs that run together then share
// a weight tile, and the band's activations still fit in L2 when the next weight tile comes.
template <class Config>
class ExpertTileScheduler {
 public:
  static constexpr unsigned kMTilesPerBand = 16;

  // All threads of the CTA call; `list` is theirs to share, of scheduler_list_length().
  SM80MOE_DEVICE ExpertTileScheduler(const GroupedGemmArgs& args, int out_n, int columns_per_tile,
                                     int* list)
      : args_(args),
        tiles_n_(ceil_div(out_n, columns_per_tile)),
        m_tiles_before_(list),
        rows_before_(list + args.num_experts + 1) {
    // Offsets come from the caller's tensor: whatever they hold, rows stay inside [0, num_rows).
    for (int e = threadIdx.x; e <= args.num_experts; e += Config::kThreads)
      rows_before_[e] = clamp(args.expert_offsets[e], 0, args.num_rows);
    __syncthreads();
    for (int e = threadIdx.x; e < args.num_experts; e += Config::kThreads)
      m_tiles_before_[e] = ceil_div(rows_end(e) - rows_before_[e], Config::kCtaM);
    __syncthreads();
    if (warp_index() == 0) warp_exclusive_scan(m_tiles_before_, args.num_experts);
    __syncthreads();
    num_tiles_ = m_tiles_before_[args.num_experts] * tiles_n_;
  }

  SM80MOE_DEVICE bool tile_at(int index, ExpertTile& tile) const {
    if (index >= num_tiles_) return false;
    // Unsigned, because nothing is negative and the division is then shorter.
    const unsigned tiles_n = tiles_n_;
    const int expert = find_expert(index / tiles_n);
    const unsigned before = m_tiles_before_[expert];
    const unsigned tiles_m = m_tiles_before_[expert + 1] - before;
    const unsigned local = index - before * tiles_n;

    const unsigned band = local / (kMTilesPerBand * tiles_n);
    const unsigned in_band = local - band * kMTilesPerBand * tiles_n;
    const unsigned band_height = min_of(kMTilesPerBand, tiles_m - band * kMTilesPerBand);
    const unsigned tile_n = in_band / band_height;
    const unsigned tile_m = band * kMTilesPerBand + in_band - tile_n * band_height;

    const int begin = rows_before_[expert], end = rows_end(expert);
    const unsigned blocks = ceil_div(end - begin, Config::kRowsPerBlock);
    const unsigned height = blocks / tiles_m, taller = blocks - height * tiles_m;
    const unsigned first_block = tile_m * height + min_of(tile_m, taller);
    const unsigned last_block = first_block + height + (tile_m < taller ? 1 : 0);
    tile.expert = expert;
    tile.m_begin = begin + first_block * Config::kRowsPerBlock;
    tile.m_end = min_of(begin + static_cast<int>(last_block) * Config::kRowsPerBlock, end);
    tile.tile_n = tile_n;
    return true;
  }

 private:
  SM80MOE_DEVICE int rows_end(int expert) const {
    return max_of(rows_before_[expert], rows_before_[expert + 1]);
  }

  // The expert e with m_tiles_before[e] <= m_tile < m_tiles_before[e + 1].
  SM80MOE_DEVICE int find_expert(int m_tile) const {
    int low = 0, high = args_.num_experts;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (m_tiles_before_[middle] <= m_tile ? low : high) = middle;
    }
    return low;
  }

  const GroupedGemmArgs& args_;
  const int tiles_n_;
  // Of each expert, in shared memory: a CTA waits while its next tile is looked up.
  int *const m_tiles_before_, *const rows_before_;
  int num_tiles_;
};

}  // namespace sm80moe::gemm
