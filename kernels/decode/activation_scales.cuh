#pragma once
// The scales of int8 activations, where kernels store them as int8 themselves.

#include "common/int8.cuh"
#include "common/numeric.cuh"
#include "decode/row_stream.cuh"

namespace sm80moe::decode {

// How the activations of this lane's pair become int8, the largest number of the row 127.
class ActivationScales {
 public:
  static constexpr int kBytes = kMaxPairs * sizeof(uint32_t);

  SM80MOE_DEVICE explicit ActivationScales(void* memory)
      : largest_(static_cast<uint32_t*>(memory)) {}

  // All threads of the CTA call. Where row i begins, chunks_of(i) says, null if it has no pair;
  // this lane's pair has own_row. As many warps share a row as there are enough of, a power of two.
  template <class T, class ChunksOf>
  SM80MOE_DEVICE void find(int num_rows, int num_chunks, int own_row, T,
                           const ChunksOf& chunks_of) {
    int log2_parts = 0;
    while (num_rows << (log2_parts + 1) <= kWarps) ++log2_parts;
    const int warp = warp_index(), parts = 1 << log2_parts, part = warp & (parts - 1);
    for (int row = warp >> log2_parts; row < num_rows; row += kWarps >> log2_parts) {
      const uint4* const chunks = chunks_of(row);
      uint32_t largest = 0;
      const int end = chunks == nullptr ? 0 : num_chunks;
#pragma unroll 4
      for (int i = part * kWarpSize + lane_index(); i < end; i += parts * kWarpSize)
        largest = max_of(largest, largest_of(chunks[i], T{}));
      largest = warp_max(largest);
      if (lane_index() == 0) largest_[(row << log2_parts) + part] = largest;
    }
    __syncthreads();
    uint32_t largest = 0;
    for (int i = 0; i < parts; ++i)
      largest = max_of(largest, largest_[(min_of(own_row, num_rows - 1) << log2_parts) + i]);
    own_ = quantizer_of_largest(largest);
  }

  // All lanes of the warp ask together, each for a pair.
  SM80MOE_DEVICE float of_pair(int pair) const { return __shfl_sync(kFullWarp, own_.scale, pair); }
  SM80MOE_DEVICE Int8Quantizer quantizer(int pair) const {
    Int8Quantizer quantizer = own_;
    quantizer.inverse = __shfl_sync(kFullWarp, own_.inverse, pair);
    quantizer.scale = of_pair(pair);
    return quantizer;
  }

 private:
  template <class T>
  SM80MOE_DEVICE static uint32_t largest_of(const uint4& chunk, T) {
    uint32_t largest = 0;
    for (const uint32_t word : {chunk.x, chunk.y, chunk.z, chunk.w}) {
      const float2 pair = unpack_pair(word, T{});
      largest = max_of(largest, max_of(magnitude(pair.x), magnitude(pair.y)));
    }
    return largest;
  }

  uint32_t* largest_;
  Int8Quantizer own_;
};

}  // namespace sm80moe::decode
