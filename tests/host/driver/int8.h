#pragma once
// Numbers as int8, in fp32 like the kernels, to the last bit.

#include <algorithm>
#include <cmath>

namespace driver {

// For the largest magnitude to become 127.
inline float int8_scale(double largest) {
  return std::max(static_cast<float>(largest), std::ldexp(1.0f, -119)) * (1.0f / 127);
}
inline int stored(float value, float scale, int zero = 0) {
  const float steps = std::nearbyint(std::clamp(value * (1 / scale), -512.0f, 512.0f));
  return std::clamp(static_cast<int>(steps) + zero, -128, 127);
}

}  // namespace driver
