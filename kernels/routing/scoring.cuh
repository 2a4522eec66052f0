#pragma once
// How logits become scores. A scoring is made from a token's row, by all lanes of the warp: lane l
// holds experts l, l + 32, ..., and minus infinity past the last.

#include <cfloat>
#include <cmath>

#include "common/warp.cuh"

namespace sm80moe::routing {

// The float that counts for a value: NaN is the lowest, and infinities are the largest finite
// floats, so that every score and every weight is a number. (fmaxf ignores a NaN.)
SM80MOE_DEVICE float as_finite(float value) { return fminf(fmaxf(value, -FLT_MAX), FLT_MAX); }

// The share of the row's exponentials.
class Softmax {
 public:
  template <int kPerLane>
  explicit SM80MOE_DEVICE Softmax(const float (&logits)[kPerLane]) {
    float largest = -FLT_MAX;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) largest = fmaxf(largest, logits[i]);
    largest_ = warp_max(largest);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) sum += expf(logits[i] - largest_);
    inverse_sum_ = 1.0f / warp_sum(sum);
  }
  SM80MOE_DEVICE float operator()(float logit) const {
    return expf(logit - largest_) * inverse_sum_;
  }

 private:
  float largest_, inverse_sum_;
};

class Sigmoid {
 public:
  template <int kPerLane>
  explicit SM80MOE_DEVICE Sigmoid(const float (&)[kPerLane]) {}
  SM80MOE_DEVICE float operator()(float logit) const {
    return __fdividef(1.0f, 1.0f + expf(-logit));
  }
};

// The root of log(1 + exp(logit)).
class SqrtSoftplus {
 public:
  template <int kPerLane>
  explicit SM80MOE_DEVICE SqrtSoftplus(const float (&)[kPerLane]) {}
  SM80MOE_DEVICE float operator()(float logit) const {
    return sqrtf(fmaxf(logit, 0.0f) + log1pf(expf(-fabsf(logit))));
  }
};

}  // namespace sm80moe::routing
