#pragma once
// The loop of both kernels: dot products of weight rows, two at a time, with the activations of
// their expert's pairs.

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

// 32 chunks of two weight rows and of the activations of the group's first pair, in shared memory.
// A lane copies and reads only chunks of its own: no lane ever waits for another.
struct Step {
  uint4 first[kWarpSize], second[kWarpSize], activations[kWarpSize];
};
inline constexpr int kRingBytes = kWarps * kStages * static_cast<int>(sizeof(Step));

// Walks the columns of group 0, then those of group 1, ..., `stride` apart.
class Walk {
 public:
  SM80MOE_DEVICE Walk(int num_groups, int num_columns, int first, int stride)
      : num_groups_(num_groups), num_columns_(num_columns), stride_(stride), column_(first) {
    carry();
  }

  SM80MOE_DEVICE bool ended() const { return group_ >= num_groups_; }
  SM80MOE_DEVICE int group() const { return group_; }
  SM80MOE_DEVICE int column() const { return column_; }
  SM80MOE_DEVICE void advance() {
    column_ += stride_;
    carry();
  }

 private:
  SM80MOE_DEVICE void carry() {
    for (; column_ >= num_columns_ && !ended(); ++group_) column_ -= num_columns_;
  }

  const int num_groups_, num_columns_, stride_;
  int group_ = 0, column_;
};

// Sends for step after step of what a warp must read, across rows and experts.
template <class Work>
class Loader {
 public:
  SM80MOE_DEVICE Loader(const Work& work, const ExpertGroups& groups)
      : work_(work), groups_(groups), walk_(work.walk()) {}

  // Always commits a group of copies, an empty one when everything is on its way.
  SM80MOE_DEVICE void issue(Step& step) {
    if (!walk_.ended()) copy(step);
    ptx::cp_async_commit();
  }

 private:
  SM80MOE_DEVICE void copy(Step& step) {
    const int lane = lane_index();
    if (chunk_ == lane) begin_row();
    const bool valid = chunk_ < work_.num_chunks();
    const uint4* weights = weights_ + chunk_;
    ptx::cp_async_16(ptx::shared_address(&step.first[lane]), weights, valid);
    ptx::cp_async_16(ptx::shared_address(&step.second[lane]), weights + work_.second_row_chunks(),
                     valid);
    ptx::cp_async_ca_16(ptx::shared_address(&step.activations[lane]), activations_ + chunk_, valid);
    chunk_ += kWarpSize;
    if (chunk_ - lane < work_.num_chunks()) return;
    chunk_ = lane;
    walk_.advance();
    if (walk_.ended()) work_.after_last_load();
  }

  SM80MOE_DEVICE void begin_row() {
    const Group group = groups_[walk_.group()];
    weights_ = work_.weights(group.expert, walk_.column());
    activations_ = work_.activations(first_pair(group.pairs));
  }

  const Work& work_;
  const ExpertGroups& groups_;
  Walk walk_;
  int chunk_ = lane_index();             // this lane's next of the rows at hand
  const uint4 *weights_, *activations_;  // where they begin
};

// Multiplies the steps in the order in which the loader sent for them.
//
// Lane l holds chunk l of 32. As fragments of an mma that is 8 slices of a row, one a row or column
// of the product, so each 8x8 half of it has the products of every slice of a weight row with every
// slice of the activations. The diagonal is what is wanted; the rest costs nothing.
template <class T, class Work>
class Multiplier {
 public:
  SM80MOE_DEVICE Multiplier(const Work& work, const ExpertGroups& groups)
      : work_(work), groups_(groups), walk_(work.walk()) {}

  SM80MOE_DEVICE bool has_step() const { return !walk_.ended(); }

  SM80MOE_DEVICE void multiply(const Step& step) {
    const int lane = lane_index();
    if (chunk_ == lane) begin_row();
    const uint4 first = step.first[lane], second = step.second[lane];
    add_product(sums_[0], first, second, step.activations[lane]);
    if (num_pairs_ > 1) multiply_rows<1, kRowsAtOnce / 2>(first, second);
    if (num_pairs_ > kRowsAtOnce / 2) multiply_rows<kRowsAtOnce / 2, kRowsAtOnce>(first, second);
    chunk_ += kWarpSize;
    if (chunk_ - lane < work_.num_chunks()) return;
    chunk_ = lane;
    end_row();
    walk_.advance();
  }

 private:
  SM80MOE_DEVICE void begin_row() {
    unsigned pairs = groups_[walk_.group()].pairs;
    num_pairs_ = __popc(pairs);
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const int pair = first_pair(pairs);
      if (i == own_diagonal()) own_pair_ = pair;
      if (num_pairs_ > 1) activations_[i] = work_.activations(pair);
      if (i + 1 < num_pairs_) pairs = without_first(pairs);  // else the last one again, for nothing
#pragma unroll
      for (int j = 0; j < 4; ++j) sums_[i][j] = 0;
    }
  }

  // Pairs [kBegin, kEnd) of the group, which few groups have. Their activations come only now,
  // mostly from L1.
  template <int kBegin, int kEnd>
  SM80MOE_DEVICE void multiply_rows(const uint4& first, const uint4& second) {
    uint4 x[kEnd - kBegin];
#pragma unroll
    for (int i = kBegin; i < kEnd; ++i)
      x[i - kBegin] =
          chunk_ < work_.num_chunks() ? activations_[i][chunk_] : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = kBegin; i < kEnd; ++i) add_product(sums_[i], first, second, x[i - kBegin]);
  }

  SM80MOE_DEVICE static void add_product(float (&sums)[4], const uint4& first, const uint4& second,
                                         const uint4& x) {
    ptx::mma_m16n8k16(sums, {first.x, second.x, first.y, second.y}, x.x, x.y, T{});
    ptx::mma_m16n8k16(sums, {first.z, second.z, first.w, second.w}, x.z, x.w, T{});
  }

  // Lane 4r + c has columns 2c and 2c + 1 of row r of both halves: which element of the diagonal
  // that is, or -1.
  SM80MOE_DEVICE static int own_diagonal() {
    const int row = lane_index() / 4;
    return lane_index() % 4 == row / 2 ? row : -1;
  }

  // The sum of the diagonal, for the lanes that hold it: 0, 4, 9, 13, 18, 22, 27 and 31. XORs with
  // 4, 9 and 18 lead from each of them to all others, and to nobody else.
  SM80MOE_DEVICE static float diagonal_sum(float even, float odd) {
    float sum = lane_index() / 4 % 2 ? odd : even;
    sum += __shfl_xor_sync(kFullWarp, sum, 4);
    sum += __shfl_xor_sync(kFullWarp, sum, 9);
    return sum + __shfl_xor_sync(kFullWarp, sum, 18);
  }

  // The lane with element i of the diagonal stores for pair i of the group.
  SM80MOE_DEVICE void end_row() {
    float own_first = 0, own_second = 0;
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      if (i == num_pairs_) break;
      const float first = diagonal_sum(sums_[i][0], sums_[i][1]);
      const float second = diagonal_sum(sums_[i][2], sums_[i][3]);
      if (i == own_diagonal()) own_first = first, own_second = second;
    }
    if (own_diagonal() >= 0 && own_diagonal() < num_pairs_)
      work_.store(own_pair_, walk_.column(), own_first, own_second);
  }
  static_assert(kRowsAtOnce <= 8, "a pair needs a lane with an element of the diagonal");

  const Work& work_;
  const ExpertGroups& groups_;
  Walk walk_;
  int chunk_ = lane_index();               // this lane's next of the rows at hand
  int num_pairs_;                          // of the group at hand
  int own_pair_;                           // that this lane stores for
  const uint4* activations_[kRowsAtOnce];  // of each pair, if there are several
  float sums_[kRowsAtOnce][4];
};

// All that one warp computes. `ring` is the CTA's, kRingBytes long.
template <class T, class Work>
SM80MOE_DEVICE void stream_rows(const Work& work, const ExpertGroups& groups, void* ring) {
  Step* const steps = static_cast<Step*>(ring) + warp_index() * kStages;
  Loader<Work> loader(work, groups);
  Multiplier<T, Work> multiplier(work, groups);
#pragma unroll 1
  for (int i = 0; i < kStages || multiplier.has_step(); ++i) {
    Step& oldest = steps[i % kStages];
    if (i >= kStages) {
      ptx::cp_async_wait<kStages - 1>();
      multiplier.multiply(oldest);
    }
    loader.issue(oldest);
  }
}

}  // namespace sm80moe::decode
