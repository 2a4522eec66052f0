#pragma once
// Activations, in fp32. To add one: a type here, its line in with_activation, its number in
// ActivationKind. NaN stays NaN.

#include <limits>

#include "common/epilogue_args.h"
#include "common/macros.cuh"

namespace sm80moe {

// x / (1 + exp(-z)). Where exp overflows the result is zero.
SM80MOE_DEVICE float times_sigmoid(float x, float z) { return __fdividef(x, 1.0f + __expf(-z)); }

SM80MOE_DEVICE float silu(float x) { return times_sigmoid(x, x); }

struct Silu {
  float alpha = 1.0f;
  SM80MOE_DEVICE float apply(float x) const { return times_sigmoid(x, alpha * x); }
};
struct Gelu {
  SM80MOE_DEVICE static float apply(float x) {
    constexpr float kRootOfHalf = 0.70710678118f;
    return 0.5f * x * (1.0f + erff(kRootOfHalf * x));
  }
};
// (1 + tanh(u)) / 2 is the sigmoid of 2u.
struct GeluTanh {
  SM80MOE_DEVICE static float apply(float x) {
    constexpr float kTwoRootsOfTwoOverPi = 1.5957691216f, kCubic = 0.044715f;
    return times_sigmoid(x, kTwoRootsOfTwoOverPi * (x + kCubic * x * x * x));
  }
};
struct Relu {
  SM80MOE_DEVICE static float apply(float x) { return x < 0.0f ? 0.0f : x; }
};
struct Relu2 {
  SM80MOE_DEVICE static float apply(float x) { return Relu::apply(x) * Relu::apply(x); }
};
struct Identity {
  SM80MOE_DEVICE static float apply(float x) { return x; }
};

// Calls visit with the activation: one branch, however much the visit computes.
template <class Visit>
SM80MOE_DEVICE void with_activation(ActivationKind kind, Visit&& visit) {
  switch (kind) {
    case ActivationKind::kSilu:
      return visit(Silu{});
    case ActivationKind::kGelu:
      return visit(Gelu{});
    case ActivationKind::kGeluTanh:
      return visit(GeluTanh{});
    case ActivationKind::kRelu:
      return visit(Relu{});
    case ActivationKind::kRelu2:
      return visit(Relu2{});
    case ActivationKind::kIdentity:
      return visit(Identity{});
  }
}

SM80MOE_DEVICE float of_expert(const PerExpert& numbers, int expert, float otherwise) {
  return numbers.values != nullptr ? numbers.values[expert * numbers.stride] : otherwise;
}
// What a gated silu does to gate and up before all else.
struct SwigluLimits {
  float limit, beta;

  SM80MOE_DEVICE SwigluLimits(const EpilogueArgs& args, int expert)
      : limit(of_expert(args.swiglu_limit, expert, std::numeric_limits<float>::infinity())),
        beta(of_expert(args.swiglu_beta, expert, 0.0f)) {}

  SM80MOE_DEVICE static bool exist(const EpilogueArgs& args) {
    return args.swiglu_limit.values != nullptr || args.swiglu_beta.values != nullptr;
  }
  SM80MOE_DEVICE void apply(float& gate, float& up) const {
    gate = gate > limit ? limit : gate;
    up = (up > limit ? limit : up < -limit ? -limit : up) + beta;
  }
};

template <class Activation>
SM80MOE_DEVICE void set_alpha(Activation&, const EpilogueArgs&, int) {}
SM80MOE_DEVICE void set_alpha(Silu& silu, const EpilogueArgs& args, int expert) {
  silu.alpha = of_expert(args.swiglu_alpha, expert, 1.0f);
}

}  // namespace sm80moe
