#pragma once
// The loop of both kernels: products of weight rows with the activations of their expert's pairs.
// What weights are, a policy knows: dense_rows.cuh, packed_rows.cuh.

#include "common/limits.h"
#include "common/ptx.cuh"
#include "decode/expert_groups.cuh"

namespace sm80moe::decode {

inline constexpr int kWarps = 16;  // of a CTA; an SM holds one
inline constexpr int kStages = 4;  // steps of each warp on their way at once

// The 16-byte chunks of a matrix of 16-bit elements, from one of its elements on.
SM80MOE_DEVICE const uint4* chunks_at(const void* matrix, int64_t element) {
  return reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(matrix) + element);
}
SM80MOE_DEVICE int num_chunks(int num_elements) {
  return static_cast<unsigned>(num_elements) / static_cast<unsigned>(kRowMultiple);
}

// What a warp multiplies at once, in shared memory: a chunk a lane of both rows of weights, gates
// and ups or even and odd columns, and what belongs to them. A lane copies and reads only what is
// its own, so that no lane ever waits for another, but where Rows::kLanesShare.
inline constexpr int kStepBytes = 48 * kWarpSize;
inline constexpr int kRingBytes = kWarps * kStages * kStepBytes;

// How the 8 rows and columns of an mma are used: for `width` rows (and as many pairs of a group),
// each cut into 8 / width slices. The mma multiplies every slice of a row with every slice of a
// pair; those of the same slice are wanted, the rest costs nothing.
class Tiling {
 public:
  SM80MOE_DEVICE explicit Tiling(int log2_width)
      : log2_width_(log2_width), log2_slices_(3 - log2_width) {}

  SM80MOE_DEVICE int width() const { return 1 << log2_width_; }
  SM80MOE_DEVICE int num_tiles(int num_columns) const {
    return (num_columns + width() - 1) >> log2_width_;
  }
  SM80MOE_DEVICE int num_slices() const { return 1 << log2_slices_; }
  // Lanes 4i to 4i + 3 hold row i of a fragment.
  SM80MOE_DEVICE int lanes_per_row() const { return 4 << log2_slices_; }
  SM80MOE_DEVICE int lane_of_row() const { return lane_index() & (lanes_per_row() - 1); }
  SM80MOE_DEVICE int num_steps(int depth) const {
    return (depth + lanes_per_row() - 1) >> (2 + log2_slices_);
  }
  SM80MOE_DEVICE int row_of(int index) const { return index >> log2_slices_; }
  SM80MOE_DEVICE int slice_of(int index) const { return index & (num_slices() - 1); }

 private:
  const int log2_width_, log2_slices_;
};

// Walks the tiles of group 0, then those of group 1, ..., `stride` apart.
class Walk {
 public:
  SM80MOE_DEVICE Walk(int num_groups, int num_tiles, int first, int stride)
      : num_groups_(num_groups), num_tiles_(num_tiles), stride_(stride), tile_(first) {
    carry();
  }

  SM80MOE_DEVICE bool ended() const { return group_ >= num_groups_; }
  SM80MOE_DEVICE int group() const { return group_; }
  SM80MOE_DEVICE int tile() const { return tile_; }
  SM80MOE_DEVICE void advance() {
    tile_ += stride_;
    carry();
  }

 private:
  SM80MOE_DEVICE void carry() {
    for (; tile_ >= num_tiles_ && !ended(); ++group_) tile_ -= num_tiles_;
  }

  const int num_groups_, num_tiles_, stride_;
  int group_ = 0, tile_;
};

// Sends for step after step of what a warp must read, across tiles and experts.
template <class Work>
class Loader {
 public:
  using Step = typename Work::Rows::Step;

  SM80MOE_DEVICE Loader(const Work& work, const ExpertGroups& groups, const Tiling& tiling,
                        const Walk& walk)
      : work_(work), groups_(groups), tiling_(tiling), walk_(walk) {}

  // Always commits a group of copies, an empty one when everything is on its way.
  SM80MOE_DEVICE void issue(Step& step) {
    if (!walk_.ended()) copy(step);
    ptx::cp_async_commit();
  }

 private:
  SM80MOE_DEVICE void copy(Step& step) {
    if (steps_ == 0) begin_tile();
    const int lane = lane_index();
    const bool has_weights = chunk_ < weight_chunks_;
    const uint4* weights = weights_ + chunk_;
    ptx::cp_async_16(ptx::shared_address(&step.first[lane]), weights, has_weights);
    ptx::cp_async_16(ptx::shared_address(&step.second[lane]),
                     chunks_at(weights, work_.second_row()), has_weights);
    beside_.copy(work_, step, chunk_, has_weights);
    chunk_ += tiling_.lanes_per_row();
    if (--steps_ > 0) return;
    beside_.copy_last(step, weight_chunks_ != 0);
    walk_.advance();
    if (walk_.ended()) work_.after_last_load();
  }

  // What this lane copies of: a column of the tile, and a pair of the group, if there are so many.
  SM80MOE_DEVICE void begin_tile() {
    const Group group = groups_[walk_.group()];
    const int row = tiling_.row_of(lane_index() / 4);
    const int column = walk_.tile() * tiling_.width() + row, pair = group.pair(row);
    weights_ = work_.weights(group.expert, column);
    weight_chunks_ = column < work_.num_columns() ? work_.depth() : 0;
    steps_ = tiling_.num_steps(work_.depth());
    chunk_ = tiling_.lane_of_row();
    beside_.begin_tile(work_, group.expert, column, pair);
  }

  const Work& work_;
  const ExpertGroups& groups_;
  const Tiling& tiling_;
  Walk walk_;
  int steps_ = 0;         // left of the tile
  int chunk_;             // this lane's in the next step
  const uint4* weights_;  // where this lane's row begins
  int weight_chunks_;
  typename Work::Rows::Beside beside_;
};

// Multiplies the steps in the order in which the loader sent for them.
template <class Work>
class Multiplier {
 public:
  using Rows = typename Work::Rows;
  using Sum = typename Rows::Sum;

  SM80MOE_DEVICE Multiplier(const Work& work, const ExpertGroups& groups, const Tiling& tiling,
                            const Walk& walk)
      : work_(work), groups_(groups), tiling_(tiling), walk_(walk) {}

  SM80MOE_DEVICE bool has_step() const { return !walk_.ended(); }

  // What need not wait for the step.
  SM80MOE_DEVICE void prepare() {
    if (steps_ == 0) begin_tile();
    products_.load(chunk_);
  }

  SM80MOE_DEVICE void multiply(const typename Rows::Step& step) {
    products_.add(work_, step, chunk_, sums_);
    chunk_ += tiling_.lanes_per_row();
    if (--steps_ > 0) return;
    end_tile(step);
    walk_.advance();
  }

 private:
  SM80MOE_DEVICE void begin_tile() {
    steps_ = tiling_.num_steps(work_.depth());
    chunk_ = tiling_.lane_of_row();
    if (Rows::kReadsActivations)
      products_.begin_tile(work_, groups_[walk_.group()].pair(tiling_.row_of(lane_index() / 4)));
  }

  // This lane has columns 2 * (lane % 4) and the next of row lane / 4, in both halves of the sums.
  SM80MOE_DEVICE void end_tile(const typename Rows::Step& step) {
    const int lane = lane_index();
    sum_slices(sums_[0], sums_[1]);
    sum_slices(sums_[2], sums_[3]);
    float values[4];
    products_.finish(step, sums_, values);
    const Group group = groups_[walk_.group()];
    const int column = walk_.tile() * tiling_.width() + tiling_.row_of(lane / 4);
    const bool has_column = tiling_.slice_of(lane / 4) == 0 && column < work_.num_columns();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int mma_column = lane % 4 * 2 + i, pair = group.pair(tiling_.row_of(mma_column));
      if (has_column && tiling_.slice_of(mma_column) == 0 && pair >= 0)
        work_.store(group.expert, pair, column, values[i], values[2 + i]);
    }
#pragma unroll
    for (Sum& sum : sums_) sum = 0;
  }

  // `even` becomes the sum over all slices where row and column are of slice 0: slice bits 0, 1 and
  // 2 are bits 0, 1 and 2 of the row (lane bits 2, 3 and 4) and of the column (which of the two
  // sums, lane bits 0 and 1).
  SM80MOE_DEVICE void sum_slices(Sum& even, Sum odd) const {
    if (tiling_.num_slices() == 1) return;
    if (lane_index() / 4 % 2 == 1) even = odd;
    even += __shfl_xor_sync(kFullWarp, even, 4);
    if (tiling_.num_slices() > 2) even += __shfl_xor_sync(kFullWarp, even, 8 + 1);
    if (tiling_.num_slices() > 4) even += __shfl_xor_sync(kFullWarp, even, 16 + 2);
  }

  const Work& work_;
  const ExpertGroups& groups_;
  const Tiling& tiling_;
  Walk walk_;
  int steps_ = 0;  // left of the tile
  int chunk_;      // this lane's in the next step
  typename Rows::Products products_;
  Sum sums_[4] = {};
};

// Whether the last tiles that a CTA's warps come to leave few of them idle.
template <class Work>
SM80MOE_DEVICE bool keeps_warps_busy(const Work& work, int log2_width) {
  const unsigned tiles = (work.columns_of_cta() + (1u << log2_width) - 1) >> log2_width;
  const unsigned places = ceil_div<unsigned>(tiles, kWarps) * kWarps;
  return 5 * tiles >= 4 * places;
}

// As many columns at a time as the largest group has pairs, or more, up to Rows::kLog2Width: then a
// tile ends less often, and lanes without a pair read no activations.
template <class Work>
SM80MOE_DEVICE int log2_width_for(const Work& work, const ExpertGroups& groups) {
  int log2_width = groups.log2_width();
#pragma unroll 1
  while (log2_width < Work::Rows::kLog2Width && keeps_warps_busy(work, log2_width + 1))
    ++log2_width;
  return log2_width;
}

// All that one warp computes. `ring` is the CTA's, kRingBytes long.
template <class Work>
SM80MOE_DEVICE void stream_rows(const Work& work, const ExpertGroups& groups, void* ring) {
  using Rows = typename Work::Rows;
  using Step = typename Rows::Step;
  static_assert(sizeof(Step) == kStepBytes);
  Step* oldest = static_cast<Step*>(ring) + warp_index() * kStages;
  const Tiling tiling(log2_width_for(work, groups));
  const Walk walk(groups.size(), tiling.num_tiles(work.num_columns()), work.first_tile(),
                  work.tile_stride());
  Loader<Work> loader(work, groups, tiling, walk);
  Multiplier<Work> multiplier(work, groups, tiling, walk);
#pragma unroll 1
  for (int i = 0; i < kStages || multiplier.has_step(); ++i) {
    if (i >= kStages) {
      multiplier.prepare();
      ptx::cp_async_wait<kStages - 1>();
      if (Rows::kLanesShare) __syncwarp();
      multiplier.multiply(*oldest);
      if (Rows::kLanesShare) __syncwarp();
    }
    loader.issue(*oldest);
    if (i == kStages - 1) work.after_first_loads();
    oldest += i % kStages == kStages - 1 ? 1 - kStages : 1;
  }
}

}  // namespace sm80moe::decode
