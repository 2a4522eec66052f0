#pragma once
// The loop of both halves: products of weight rows with the activations of their expert's pairs.
// What weights are, a policy knows: dense_rows.cuh, packed_rows.cuh.

#include "common/limits.h"
#include "common/ptx.cuh"
#include "decode/expert_groups.cuh"

namespace sm80moe::decode {

inline constexpr int kWarps = 16;  // of a CTA; an SM holds one
inline constexpr int kStages = 4;  // steps of each warp on their way at once
inline constexpr int kLog2RowMultiple = 3;
static_assert(1 << kLog2RowMultiple == kRowMultiple);

// The 16-byte chunks of a matrix of 16-bit elements, from one of its elements on.
SM80MOE_DEVICE const uint4* chunks_at(const void* matrix, int64_t element) {
  return reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(matrix) + element);
}
SM80MOE_HOST_DEVICE constexpr int num_chunks(int64_t num_elements) {
  return static_cast<int>(num_elements >> kLog2RowMultiple);
}

// What a warp multiplies at once, in shared memory: a chunk a lane of both rows of weights, gates
// and ups or even and odd columns, and what belongs to them. A lane copies and reads only what is
// its own, so that no lane ever waits for another, but where Rows::kLanesShare.
inline constexpr int kChunkArray = kWarpSize * sizeof(uint4);    // bytes: a chunk a lane
inline constexpr int kWordArray = kWarpSize * sizeof(uint32_t);  // a word a lane
inline constexpr int kStepBytes = 3 * kChunkArray;
inline constexpr int kRingBytes = kWarps * kStages * kStepBytes;

// The shared addresses of a lane's elements if a step begins with an array of chunks, or of words.
struct OwnPlaces {
  uint32_t chunk, word;

  SM80MOE_DEVICE OwnPlaces operator+(uint32_t bytes) const { return {chunk + bytes, word + bytes}; }
};

// How the 8 rows and columns of an mma are used: for `width` rows (and as many pairs of a group),
// each cut into 8 / width slices. The mma multiplies every slice of a row with every slice of a
// pair; those of the same slice are wanted, the rest costs nothing.
class Tiling {
 public:
  SM80MOE_DEVICE explicit Tiling(int log2_width)
      : log2_width_(log2_width),
        log2_slices_(3 - log2_width),
        lanes_per_row_(ptx::worked_out(kWarpSize >> log2_width)) {}

  SM80MOE_DEVICE int num_tiles(int num_columns) const {
    return (num_columns + (1 << log2_width_) - 1) >> log2_width_;
  }
  SM80MOE_DEVICE int num_slices() const { return 1 << log2_slices_; }
  // Lanes 4i to 4i + 3 hold row i of a fragment.
  SM80MOE_DEVICE int lanes_per_row() const { return lanes_per_row_; }
  SM80MOE_DEVICE int lane_of_row() const { return lane_index() & (lanes_per_row() - 1); }
  SM80MOE_DEVICE int num_steps(int depth) const {
    return (depth + lanes_per_row() - 1) >> (2 + log2_slices_);
  }
  SM80MOE_DEVICE int row_of(int index) const { return index >> log2_slices_; }
  SM80MOE_DEVICE int slice_of(int index) const { return index & (num_slices() - 1); }
  // What this lane has: a row, which is a column of the tile or one of the group's pairs.
  SM80MOE_DEVICE int row() const { return row_of(lane_index() / 4); }
  SM80MOE_DEVICE int column(int tile) const { return (tile << log2_width_) + row(); }

 private:
  const int log2_width_, log2_slices_, lanes_per_row_;
};

// What of a step is sent for. Weights, and what belongs to them, are there before the launch;
// activations may be what other CTAs have yet to write.
enum class Sent { kAll, kWeights, kActivations };

// Sends for step after step of what a warp must read, across tiles and experts.
template <class Work>
class Loader {
 public:
  using Rows = typename Work::Rows;

  SM80MOE_DEVICE Loader(const Work& work, const ExpertGroups& groups, const Tiling& tiling,
                        const Tiles& tiles)
      : work_(work), groups_(groups), tiling_(tiling), tiles_(tiles), tile_(work.first_tile()) {}

  // Always commits a group of copies, an empty one when everything is on its way.
  template <Sent kSent = Sent::kAll>
  SM80MOE_DEVICE void issue(const OwnPlaces& step) {
    if (steps_ > 0 || begin_tile()) copy<kSent>(step);
    ptx::cp_async_commit();
  }

 private:
  template <Sent kSent>
  SM80MOE_DEVICE void copy(const OwnPlaces& step) {
    if (kSent != Sent::kActivations) copy_weights(step);
    if (kSent != Sent::kWeights) beside_.copy_activations(step, chunk_);
    chunk_ += tiling_.lanes_per_row();
    if (--steps_ > 0) return;
    if (kSent != Sent::kActivations) beside_.copy_last(work_, step);
    tile_ += work_.tile_stride();
  }

  SM80MOE_DEVICE void copy_weights(const OwnPlaces& step) {
    const uint4* const weights = work_.weights();
    const bool has_weights = chunk_ < weight_chunks_;
    const int first = row_ + chunk_, second = first + work_.second_row();
    ptx::cp_async_16(step.chunk, weights + first, has_weights);
    ptx::cp_async_16(step.chunk + kChunkArray, weights + second, has_weights);
    beside_.copy(work_, step, chunk_);
  }

  // What this lane copies of: a column of the tile, and a pair of the group, if there are so many.
  SM80MOE_DEVICE bool begin_tile() {
    if (tile_ >= tiles_.size()) return false;
    const Tiles::Place place = tiles_[tile_];
    const int expert = groups_.expert_of(place.leader), column = tiling_.column(place.tile);
    row_ = work_.row(expert, column);
    chunk_ = tiling_.lane_of_row();
    weight_chunks_ = column < work_.num_columns() ? work_.depth() : 0;
    steps_ = tiling_.num_steps(work_.depth());
    const int pair =
        Rows::kReadsActivations ? -1 : groups_.pair(groups_.pairs_of(place.leader), tiling_.row());
    beside_.begin_tile(work_, expert, column, weight_chunks_, pair);
    return true;
  }

  const Work& work_;
  const ExpertGroups& groups_;
  const Tiling& tiling_;
  const Tiles& tiles_;
  int tile_;
  int steps_ = 0;                   // left of the tile
  int row_;                         // where this lane's first one begins, in chunks
  unsigned chunk_, weight_chunks_;  // the next of all that it copies
  typename Rows::Beside beside_;
};

// Multiplies the steps in the order in which the loader sent for them.
template <class Work>
class Multiplier {
 public:
  using Rows = typename Work::Rows;
  using Sum = typename Rows::Sum;

  SM80MOE_DEVICE Multiplier(const Work& work, const ExpertGroups& groups, const Tiling& tiling,
                            const Tiles& tiles)
      : work_(work),
        groups_(groups),
        tiling_(tiling),
        tiles_(tiles),
        last_steps_meet_ends_(ptx::worked_out(
            tiling.num_steps(work.depth()) * tiling.lanes_per_row() * Rows::kActivationChunks !=
            work.activation_depth())),
        tile_(work.first_tile()) {}

  SM80MOE_DEVICE bool has_tile() const { return tile_ < tiles_.size(); }
  SM80MOE_DEVICE void begin_tile() {
    place_ = tiles_[tile_];
    pairs_ = groups_.pairs_of(place_.leader);
    steps_ = tiling_.num_steps(work_.depth());
    chunk_ = tiling_.lane_of_row();
    if (Rows::kReadsActivations)
      products_.begin_tile(work_, groups_.pair(pairs_, tiling_.row()), chunk_);
#pragma unroll
    for (Sum& sum : sums_) sum = 0;
    prepare();
  }

  SM80MOE_DEVICE bool has_step() const { return steps_ > 0; }
  SM80MOE_DEVICE void multiply(const OwnPlaces& step) {
    products_.add(work_, step, chunk_, sums_);
    if (steps_ == 1) products_.keep_scales(step);
    chunk_ += tiling_.lanes_per_row();
    if (--steps_ > 0) prepare();
  }

  // This lane has columns 2 * (lane % 4) and the next of row lane / 4, in both halves of the sums.
  SM80MOE_DEVICE void end_tile() {
    sum_slices();
    const int lane = lane_index(), column = tiling_.column(place_.tile);
    const int expert = Work::kStoresByExpert ? groups_.expert_of(place_.leader) : kInvalidExpert;
    const bool has_column = tiling_.slice_of(lane / 4) == 0 && column < work_.num_columns();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (i == 1 && tiling_.num_slices() > 1) break;  // odd columns are of odd slices
      const int mma_column = lane % 4 * 2 + i;
      const int pair = groups_.pair(pairs_, tiling_.row_of(mma_column));
      const float scale = Rows::kScalesActivations ? work_.activation_scale(max_of(pair, 0)) : 1;
      if (!has_column || tiling_.slice_of(mma_column) != 0 || pair < 0) continue;
      float2 values = products_.values(sums_[i], sums_[2 + i]);
      if (Rows::kScalesActivations) values = {values.x * scale, values.y * scale};
      work_.store(expert, pair, column, values.x, values.y);
    }
    tile_ += work_.tile_stride();
  }

 private:
  // What need not wait for the next step.
  SM80MOE_DEVICE void prepare() {
    products_.load(chunk_, tiling_.lanes_per_row(), steps_ == 1 && last_steps_meet_ends_);
  }

  // The even sums become those over all slices where row and column are of slice 0: slice bits 0, 1
  // and 2 are bits 0, 1 and 2 of the row (lane bits 2, 3 and 4) and of the column (which of the two
  // sums, lane bits 0 and 1).
  SM80MOE_DEVICE void sum_slices() {
    if (tiling_.num_slices() == 1) return;
    if (lane_index() / 4 % 2 == 1) {
      sums_[0] = sums_[1];
      sums_[2] = sums_[3];
    }
    add_other_lanes(4);
    if (tiling_.num_slices() > 2) add_other_lanes(8 + 1);
    if (tiling_.num_slices() > 4) add_other_lanes(16 + 2);
  }
  SM80MOE_DEVICE void add_other_lanes(int distance) {
    sums_[0] += __shfl_xor_sync(kFullWarp, sums_[0], distance);
    sums_[2] += __shfl_xor_sync(kFullWarp, sums_[2], distance);
  }

  const Work& work_;
  const ExpertGroups& groups_;
  const Tiling& tiling_;
  const Tiles& tiles_;
  const bool last_steps_meet_ends_;  // of rows; the steps before are full
  int tile_;
  Tiles::Place place_;
  unsigned pairs_;  // of the group
  int steps_;       // left of the tile
  unsigned chunk_;  // this lane's in the next step
  typename Rows::Products products_;
  Sum sums_[4];
};

template <Sent kSent, class Work>
SM80MOE_DEVICE void send_first_steps(Loader<Work>& loader, const OwnPlaces& places) {
#pragma unroll 1
  for (int i = 0; i < kStages; ++i) loader.template issue<kSent>(places + i * kStepBytes);
}

// All that one warp computes, in tiles of 1 << log2_width columns. `ring` is the CTA's, kRingBytes
// long, and may serve one call after the other. before_activations() is called when the first
// weights are on their way, and activations not yet.
template <class Work, class BeforeActivations>
SM80MOE_DEVICE void stream_rows(const Work& work, const ExpertGroups& groups, int log2_width,
                                void* ring, const BeforeActivations& before_activations) {
  using Rows = typename Work::Rows;
  const uint32_t steps = ptx::shared_address(ring) + uniform_warp_index() * (kStages * kStepBytes);
  const OwnPlaces places{ptx::worked_out(steps + lane_index() * sizeof(uint4)),
                         ptx::worked_out(steps + lane_index() * sizeof(uint32_t))};
  const Tiling tiling(log2_width);
  const Tiles tiles(groups, tiling.num_tiles(work.num_columns()));
  Loader<Work> loader(work, groups, tiling, tiles);
  if constexpr (Rows::kReadsActivations || Work::kActivationsAreThere) {
    send_first_steps<Sent::kAll>(loader, places);
    before_activations();
  } else {
    Loader<Work> ahead = loader;
    send_first_steps<Sent::kWeights>(ahead, places);
    before_activations();
    send_first_steps<Sent::kActivations>(loader, places);
  }
  work.after_first_loads();

  Multiplier<Work> multiplier(work, groups, tiling, tiles);
  uint32_t oldest = 0;
#pragma unroll 1
  while (multiplier.has_tile()) {
    multiplier.begin_tile();
#pragma unroll 1
    do {
      ptx::cp_async_wait<kStages - 1>();
      if (Rows::kLanesShare) __syncwarp();
      multiplier.multiply(places + oldest);
      if (Rows::kLanesShare) __syncwarp();
      loader.issue(places + oldest);
      oldest = oldest == (kStages - 1) * kStepBytes ? 0 : oldest + kStepBytes;
    } while (multiplier.has_step());
    multiplier.end_tile();
  }
}

}  // namespace sm80moe::decode
