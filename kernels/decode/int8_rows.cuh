#pragma once
// Rows of int8 weights that meet int8 activations. Those are stored as int8 by each lane when it
// has read them in 16 bits; the scales that this takes, a CTA finds while its first weights are on
// their way.

#include "common/int8.cuh"
#include "common/numeric.cuh"
#include "decode/packed_rows.cuh"

namespace sm80moe::decode {

template <class T>
struct Int8Rows : PackedRows<T, Int8Numbers<T>> {
  using Weights = PackedRows<T, Int8Numbers<T>>;
  using Sum = int32_t;
  static constexpr bool kScalesActivations = true;
  static constexpr int kActivationChunks = 2;

  class Products {
   public:
    template <class Work>
    SM80MOE_DEVICE void begin_tile(const Work& work, int pair, unsigned chunk) {
      activations_.begin(work, pair, chunk);
      quantizer_ = work.quantizer(max_of(pair, 0));
    }
    SM80MOE_DEVICE void load(unsigned chunk, unsigned stride, bool may_end) {
      activations_.load(chunk, stride, may_end);
    }
    template <class Work>
    SM80MOE_DEVICE void add(const Work&, const OwnPlaces& step, unsigned,
                            int32_t (&sums)[4]) const {
      const uint4 first = ptx::ld_shared_v4_b32(step.chunk);
      const uint4 second = ptx::ld_shared_v4_b32(step.chunk + kChunkArray);
      const uint2 low = stored(activations_[0]), high = stored(activations_[1]);
      ptx::mma_m16n8k32(sums, {first.x, second.x, first.y, second.y}, low.x, low.y);
      ptx::mma_m16n8k32(sums, {first.z, second.z, first.w, second.w}, high.x, high.y);
    }
    SM80MOE_DEVICE void keep_scales(const OwnPlaces& step) {
      row_scales_ = Weights::scales(step, 0);
    }
    SM80MOE_DEVICE float2 values(int32_t first, int32_t second) const {
      return {__int2float_rn(first) * row_scales_.x, __int2float_rn(second) * row_scales_.y};
    }

   private:
    // nvcc would take the words apart where they are loaded, and wait for them there.
    SM80MOE_DEVICE uint2 stored(const uint4& loaded) const {
      const uint4 chunk = {ptx::worked_out(loaded.x), ptx::worked_out(loaded.y),
                           ptx::worked_out(loaded.z), ptx::worked_out(loaded.w)};
      const float2 a = unpack_pair(chunk.x, T{}), b = unpack_pair(chunk.y, T{});
      const float2 c = unpack_pair(chunk.z, T{}), d = unpack_pair(chunk.w, T{});
      return {quantizer_.store_unclamped(a.x, a.y, b.x, b.y),
              quantizer_.store_unclamped(c.x, c.y, d.x, d.y)};
    }

    Activations<kActivationChunks> activations_;
    float2 row_scales_;
    Int8Quantizer quantizer_;
  };
};

}  // namespace sm80moe::decode
