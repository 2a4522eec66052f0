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
  SM80MOE_HOST_DEVICE static constexpr unsigned depth(unsigned activation_chunks) {
    return activation_chunks;
  }

  // The arrays of a step: chunks of first and second rows, and of activations.
  static constexpr int kActivations = 2 * kChunkArray;

  // What is copied beside the weights of a tile: activations of this lane's pair, -1 for none.
  class Beside {
   public:
    template <class Work>
    SM80MOE_DEVICE void begin_tile(const Work& work, unsigned, unsigned, unsigned, int pair) {
      activations_ = work.activations(max_of(pair, 0));
      activation_chunks_ = pair >= 0 ? work.depth() : 0;
    }
    template <class Work>
    SM80MOE_DEVICE void copy(const Work&, const OwnPlaces&, unsigned) const {}
    SM80MOE_DEVICE void copy_activations(const OwnPlaces& step, unsigned chunk) const {
      ptx::cp_async_ca_16(step.chunk + kActivations, activations_ + chunk,
                          chunk < activation_chunks_);
    }
    template <class Work>
    SM80MOE_DEVICE void copy_last(const Work&, const OwnPlaces&) const {}

   private:
    const uint4* activations_;
    unsigned activation_chunks_;
  };

  class Products {
   public:
    template <class Work>
    SM80MOE_DEVICE void begin_tile(const Work&, int, unsigned) {}
    SM80MOE_DEVICE void load(unsigned, unsigned, bool) {}
    // Rows 0 to 7 of A are the first rows, 8 to 15 the second ones.
    template <class Work>
    SM80MOE_DEVICE void add(const Work&, const OwnPlaces& step, unsigned, float (&sums)[4]) const {
      const uint4 first = ptx::ld_shared_v4_b32(step.chunk);
      const uint4 second = ptx::ld_shared_v4_b32(step.chunk + kChunkArray);
      const uint4 x = ptx::ld_shared_v4_b32(step.chunk + kActivations);
      ptx::mma_m16n8k16(sums, {first.x, second.x, first.y, second.y}, x.x, x.y, T{});
      ptx::mma_m16n8k16(sums, {first.z, second.z, first.w, second.w}, x.z, x.w, T{});
    }
    SM80MOE_DEVICE void keep_scales(const OwnPlaces&) {}
    SM80MOE_DEVICE float2 values(float first, float second) const { return {first, second}; }
  };
};

}  // namespace sm80moe::decode
