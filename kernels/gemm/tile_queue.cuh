#pragma once
// Which tiles a CTA works on, and how its loader tells its consumer.

#include "gemm/tile_scheduler.cuh"

namespace sm80moe::gemm {

// The tiles of one CTA in its order of work. The first follow from the CTA's number; the others
// come from a counter that all CTAs share: who met short tiles takes more of them, and neighbours
// in the walk, which read the same weights, stay close in time. Which CTA computes a tile changes
// nothing in its result.
//
// All threads call enter_next() together, stages before they call take_next() for the same tile;
// the decoded tile waits in shared memory until then. The ring has a barrier between the two, and
// between announce() and the enter_next() that reads what was announced.
template <class Config>
class TileQueue {
 public:
  // All threads of the CTA call; `m_tiles_before` is the scheduler's.
  SM80MOE_DEVICE TileQueue(const GroupedGemmArgs& args, int out_n, int columns_per_tile,
                           TileQueueSlots* slots, int* m_tiles_before)
      : args_(args),
        slots_(with_fixed_tiles(args, slots)),
        scheduler_(args, out_n, columns_per_tile, m_tiles_before) {}

  // Loader: the next tile, false after the last.
  SM80MOE_DEVICE bool enter_next(ExpertTile& tile) {
    const bool valid = scheduler_.tile_at(slots_->index[entered_ % kLength], tile);
    if (!valid) tile.expert = kNoExpert;
    if (threadIdx.x == 0) slots_->tile[entered_ % kLength] = tile;
    ++entered_;
    return valid;
  }

  // Consumer: the next tile, false after the last.
  SM80MOE_DEVICE bool take_next(ExpertTile& tile) {
    tile = slots_->tile[taken_ % kLength];
    ++taken_;
    return tile.expert != kNoExpert;
  }

  // Asks the counter for a tile, once at the start and once before each epilogue. The answer takes
  // its time, and is announced only when the epilogue has been stored.
  SM80MOE_DEVICE int claim() const {
    if (threadIdx.x != 0) return 0;
    return fixed_tiles(args_) * gridDim.x + atomicAdd(args_.tile_counter, 1);
  }
  SM80MOE_DEVICE void announce(int claimed) {
    if (threadIdx.x == 0) slots_->index[(taken_ + fixed_tiles(args_)) % kLength] = claimed;
  }

 private:
  static constexpr int kNoExpert = -1;
  static constexpr int kLength = TileQueueSlots::kLength;
  static_assert(kLength > Config::kStages + 1, "a slot's last use must be over before its next");

  // A tile longer than the ring is announced, and a barrier passes, before the loader enters it.
  // For shorter ones the loader is ahead by as many tiles as the ring has stages.
  SM80MOE_DEVICE static int fixed_tiles(const GroupedGemmArgs& args) {
    return args.k > Config::kStages * Config::kCtaK ? 1 : Config::kStages + 1;
  }

  // The scheduler's barriers make them known.
  SM80MOE_DEVICE static TileQueueSlots* with_fixed_tiles(const GroupedGemmArgs& args,
                                                         TileQueueSlots* slots) {
    if (threadIdx.x < fixed_tiles(args))
      slots->index[threadIdx.x] = blockIdx.x + threadIdx.x * gridDim.x;
    return slots;
  }

  const GroupedGemmArgs& args_;
  TileQueueSlots* const slots_;
  const ExpertTileScheduler<Config> scheduler_;
  int entered_ = 0, taken_ = 0;
};

}  // namespace sm80moe::gemm
