#pragma once
// Scales of groups of columns of an activation row, which come through the ring with their stage.

#include "common/int8.h"
#include "common/ptx.cuh"
#include "common/warp.cuh"
#include "gemm/element.cuh"
#include "gemm/problem.h"

namespace sm80moe::gemm {

// A stage's scales: of each group of columns in it, those of all rows.
template <class Config, class T>
struct RowScaleTile {
  static constexpr int kGroups = kHasRowGroups<T> ? Config::kCtaK * 2 / kInt8Group : 0;
  static constexpr int kWords = kGroups * Config::kCtaM;
  static constexpr int kBytes = kWords * 4;
  static_assert(kWords <= Config::kThreads, "a thread copies one");

  SM80MOE_DEVICE static int offset(int group, int tile_row) {
    return (group * Config::kCtaM + tile_row) * 4;
  }
};

// The producer's side: the word of its number, by each thread.
template <class Config, class T>
class RowScaleLoader {
 public:
  using Tile = RowScaleTile<Config, T>;

  SM80MOE_DEVICE void leave_tile() { row_ = kNoRow; }
  // Rows of activations that have scales of their own are never gathered.
  SM80MOE_DEVICE void enter_tile(const ExpertTile& tile) {
    const int row = tile.m_begin + threadIdx.x % Config::kCtaM;
    row_ = row < tile.m_end ? row : kNoRow;
  }

  // Copies the scales of the stage at depth k0; zeros where there are none.
  SM80MOE_DEVICE void issue(const GroupedGemmArgs& args, uint32_t tile, int k0) const {
    if constexpr (kHasRowGroups<T>) {
      if (threadIdx.x >= Tile::kWords) return;
      const int group = k0 * 2 / kInt8Group + threadIdx.x / Config::kCtaM;
      const uint32_t valid = row_ != kNoRow && group * (kInt8Group / 2) < args.k;
      const float* scale = args.int8.row_scale + int64_t{group} * args.num_source_rows + row_;
      ptx::cp_async_4(tile + threadIdx.x * 4, scale, valid);
    }
  }

 private:
  static constexpr int kNoRow = -1;
  int row_ = kNoRow;  // whose scales this thread copies
};

}  // namespace sm80moe::gemm
