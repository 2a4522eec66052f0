#pragma once
// Rows of 16-bit weights: a chunk of them meets a chunk of activations.

#include "decode/row_stream.cuh"

namespace sm80moe::decode {

template <class T>
struct DenseRows {
  using Element = T;
  using Sum = float;
  static constexpr bool kScalesActivations = false;
  static constexpr int kActivationChunks = 1;  // that a chunk of weights meets
  static constexpr bool kReadsActivations = false;
  static constexpr bool kLanesShare = false;
  static constexpr int kLog2Width = 0;

  struct Step {
    uint4 first[kWarpSize], second[kWarpSize], activations[kWarpSize];
  };

  // What is copied beside the weights of a tile: activations of this lane's pair, -1 for none.
  class Beside {
   public:
    template <class Work>
    SM80MOE_DEVICE void begin_tile(const Work& work, int, int, int pair) {
      activations_ = work.activations(max_of(pair, 0));
      activation_chunks_ = pair >= 0 ? work.depth() : 0;
    }
    template <class Work>
    SM80MOE_DEVICE void copy(const Work&, Step& step, int chunk, bool) const {
      ptx::cp_async_ca_16(ptx::shared_address(&step.activations[lane_index()]),
                          activations_ + chunk, chunk < activation_chunks_);
    }
    SM80MOE_DEVICE void copy_last(Step&, bool) const {}

   private:
    const uint4* activations_;
    int activation_chunks_;
  };

  class Products {
   public:
    template <class Work>
    SM80MOE_DEVICE void begin_tile(const Work&, int) {}
    SM80MOE_DEVICE void load(int) {}
    // Rows 0 to 7 of A are the first rows, 8 to 15 the second ones.
    template <class Work>
    SM80MOE_DEVICE void add(const Work&, const Step& step, int, float (&sums)[4]) const {
      const int lane = lane_index();
      const uint4 first = step.first[lane], second = step.second[lane], x = step.activations[lane];
      ptx::mma_m16n8k16(sums, {first.x, second.x, first.y, second.y}, x.x, x.y, T{});
      ptx::mma_m16n8k16(sums, {first.z, second.z, first.w, second.w}, x.z, x.w, T{});
    }
    SM80MOE_DEVICE void finish(const Step&, const float (&sums)[4], float (&values)[4]) const {
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] = sums[i];
    }
  };
};

}  // namespace sm80moe::decode
