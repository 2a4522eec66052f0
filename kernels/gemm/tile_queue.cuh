#pragma once
// Which tiles a CTA works on, and how its loader tells its consumer.

#include "gemm/tile_scheduler.cuh"

namespace sm80moe::gemm {

// The tiles of one CTA in its order of work. The first two follow from the CTA's number; the others
// come from a counter that all CTAs share: who met short tiles takes more of them, and neighbours
// in the walk, which read the same weights, stay close in time. Which CTA computes a tile changes
// nothing in its result.
//
// All threads call enter_next() together, stages before the tile is multiplied; the decoded tile
// waits in shared memory until then. A thread's barriers order the rest: there is one between two
// calls, and one between a call and the consumer's take_next() of that tile.
template <class Config>
class TileQueue {
 public:
  using Scheduler = ExpertTileScheduler<Config>;

  SM80MOE_DEVICE TileQueue(const GroupedGemmArgs& args, const Scheduler& scheduler,
                           TileQueueSlots* slots)
      : args_(args), scheduler_(scheduler), slots_(slots) {}

  // Loader: the next tile, false after the last.
  SM80MOE_DEVICE bool enter_next(ExpertTile& tile) {
    const int index = entered_ < kFixedTiles ? blockIdx.x + entered_ * gridDim.x
                                             : slots_->index[entered_ % kFixedTiles];
    const bool valid = scheduler_.tile_at(index, tile);
    if (!valid) tile.expert = kNoExpert;
    if (threadIdx.x == 0) {
      slots_->tile[entered_ % kLength] = tile;
      // Asked for one tile earlier, so that nobody waits for the answer.
      if (entered_ > 0) slots_->index[(entered_ + 1) % kFixedTiles] = claimed_;
      if (valid) claimed_ = kFixedTiles * gridDim.x + atomicAdd(args_.tile_counter, 1);
    }
    ++entered_;
    return valid;
  }

  // Consumer: the next tile, false after the last.
  SM80MOE_DEVICE bool take_next(ExpertTile& tile) {
    tile = slots_->tile[taken_ % kLength];
    ++taken_;
    return tile.expert != kNoExpert;
  }

 private:
  static constexpr int kNoExpert = -1;
  static constexpr unsigned kLength = TileQueueSlots::kLength;
  static constexpr unsigned kFixedTiles = TileQueueSlots::kFixedTiles;
  static_assert(kLength > Config::kStages, "a slot may be reused only when its tile is under way");

  const GroupedGemmArgs& args_;
  const Scheduler& scheduler_;
  TileQueueSlots* const slots_;
  unsigned entered_ = 0, taken_ = 0;
  int claimed_ = 0;  // thread 0: the tile after the next
};

}  // namespace sm80moe::gemm
