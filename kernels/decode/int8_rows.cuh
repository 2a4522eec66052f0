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
  using Sum = int32_t;
  static constexpr bool kScalesActivations = true;
  static constexpr int kActivationChunks = 2;

  using Step = typename PackedRows<T, Int8Numbers<T>>::Step;

  class Products {
   public:
    template <class Work>
    SM80MOE_DEVICE void begin_tile(const Work& work, int pair) {
      activations_ = work.activations(max_of(pair, 0));
      activation_chunks_ = pair >= 0 ? work.activation_depth() : 0;
      quantizer_ = int8_quantizer(work.activation_scale(max_of(pair, 0)), 0);
    }
    SM80MOE_DEVICE void load(int chunk) {
#pragma unroll
      for (int i = 0; i < kActivationChunks; ++i) {
        const int at = chunk * kActivationChunks + i;
        x_[i] = at < activation_chunks_ ? activations_[at] : uint4{};
      }
    }
    template <class Work>
    SM80MOE_DEVICE void add(const Work&, const Step& step, int, int32_t (&sums)[4]) const {
      const int lane = lane_index();
      const uint4 first = step.first[lane], second = step.second[lane];
      const uint2 low = stored(x_[0]), high = stored(x_[1]);
      ptx::mma_m16n8k32(sums, {first.x, second.x, first.y, second.y}, low.x, low.y);
      ptx::mma_m16n8k32(sums, {first.z, second.z, first.w, second.w}, high.x, high.y);
    }
    SM80MOE_DEVICE void finish(const Step& step, const int32_t (&sums)[4],
                               float (&values)[4]) const {
      const int lane = lane_index() & ~3;
      const float scales[] = {step.first_scale[lane], step.second_scale[lane]};
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] = __int2float_rn(sums[i]) * scales[i / 2];
    }

   private:
    SM80MOE_DEVICE uint2 stored(const uint4& chunk) const {
      const float2 a = unpack_pair(chunk.x, T{}), b = unpack_pair(chunk.y, T{});
      const float2 c = unpack_pair(chunk.z, T{}), d = unpack_pair(chunk.w, T{});
      return {quantizer_.store(a.x, a.y, b.x, b.y), quantizer_.store(c.x, c.y, d.x, d.y)};
    }

    const uint4* activations_;
    int activation_chunks_;
    Int8Quantizer quantizer_;
    uint4 x_[kActivationChunks];
  };
};

}  // namespace sm80moe::decode
