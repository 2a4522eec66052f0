#pragma once
// Which tiles a CTA works on, and how its loader tells its consumer.

#include "gemm/tile_scheduler.cuh"

namespace sm80moe::gemm {

// The tiles of one CTA in its order of work. The first follow from the CTA's number; the others
// come from a counter that all CTAs share: who met short tiles takes more of them, and neighbours
// in the walk, which read the same weights, stay close in time. Which CTA computes a tile changes
// nothing in its result.
//
// All threads call enter_next() together, stages before they call take_next() for the same tile.
// One thread works out where a tile lies, when it announces it; the others find it in shared
// memory. The ring has a barrier between announce() and the enter_next() for what was announced.
template <class Config>
class TileQueue {
 public:
  // All threads of the CTA call; `list` is the scheduler's.
  SM80MOE_DEVICE TileQueue(const GroupedGemmArgs& args, int out_n, int columns_per_tile,
                           TileQueueSlots* slots, int* list)
      : args_(args), slots_(slots), scheduler_(args, out_n, columns_per_tile, list) {
    if (threadIdx.x < fixed_tiles(args)) write(threadIdx.x, blockIdx.x + threadIdx.x * gridDim.x);
    __syncthreads();
  }

  // Loader: the next tile, false after the last.
  SM80MOE_DEVICE bool enter_next(ExpertTile& tile) { return read(entered_++, tile); }

  // Consumer: the next tile, false after the last.
  SM80MOE_DEVICE bool take_next(ExpertTile& tile) { return read(taken_++, tile); }

  // Asks the counter for a tile, once at the start and once before each epilogue. The answer takes
  // its time, and is announced only when the epilogue has been stored.
  SM80MOE_DEVICE int claim() const {
    if (threadIdx.x != 0) return 0;
    return fixed_tiles(args_) * gridDim.x + atomicAdd(args_.tile_counter, 1);
  }
  SM80MOE_DEVICE void announce(int claimed) {
    if (threadIdx.x == 0) write(taken_ + fixed_tiles(args_), claimed);
  }

 private:
  static constexpr int kNoExpert = -1;
  static constexpr int kLength = TileQueueSlots::kLength;
  static_assert(kLength > Config::kStages + 1, "a slot's last use must be over before its next");

  // A tile longer than the ring is announced, and a barrier passes, before the loader enters it.
  // For shorter ones the loader is ahead by as many tiles as the ring has stages.
  SM80MOE_DEVICE static unsigned fixed_tiles(const GroupedGemmArgs& args) {
    return args.k > Config::kStages * Config::kCtaK ? 1 : Config::kStages + 1;
  }

  // The CTA's tile of this number, among those of all CTAs that of number `index`.
  SM80MOE_DEVICE void write(unsigned number, int index) {
    ExpertTile tile;
    if (!scheduler_.tile_at(index, tile)) tile.expert = kNoExpert;
    slots_->tile[number % kLength] = tile;
  }
  SM80MOE_DEVICE bool read(unsigned number, ExpertTile& tile) const {
    tile = slots_->tile[number % kLength];
    return tile.expert != kNoExpert;
  }

  const GroupedGemmArgs& args_;
  TileQueueSlots* const slots_;
  const ExpertTileScheduler<Config> scheduler_;
  unsigned entered_ = 0, taken_ = 0;
};

}  // namespace sm80moe::gemm
