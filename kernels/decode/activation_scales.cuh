#pragma once
// The scales of int8 activations, where kernels store them as int8 themselves.

#include "common/int8.cuh"
#include "common/numeric.cuh"
#include "decode/row_stream.cuh"

namespace sm80moe::decode {

// The scale of each row of activations, for its largest number to become 127, in shared memory.
class ActivationScales {
 public:
  static constexpr int kBytes = kMaxPairs * sizeof(uint32_t);

  SM80MOE_DEVICE explicit ActivationScales(void* memory)
      : largest_(static_cast<uint32_t*>(memory)) {}

  // All threads of the CTA call both, in this order, and a barrier comes between.
  SM80MOE_DEVICE void clear() const {
    if (threadIdx.x < kMaxPairs) largest_[threadIdx.x] = 0;
  }
  template <class T>
  SM80MOE_DEVICE void add_row(int row, const uint4* chunks, int num_chunks, T) const {
    uint32_t largest = 0;
#pragma unroll 2
    for (int i = threadIdx.x; i < num_chunks; i += kWarps * kWarpSize) {
      const uint4 four = chunks[i];
      for (const uint32_t word : {four.x, four.y, four.z, four.w}) {
        const float2 pair = unpack_pair(word, T{});
        largest = max_of(largest, max_of(magnitude(pair.x), magnitude(pair.y)));
      }
    }
    largest = warp_max(largest);
    if (lane_index() == 0) atomicMax(largest_ + row, largest);
  }

  SM80MOE_DEVICE float of_row(int row) const { return quantizer_of_largest(largest_[row]).scale; }

 private:
  uint32_t* largest_;
};

}  // namespace sm80moe::decode
