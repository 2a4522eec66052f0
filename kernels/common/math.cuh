#pragma once

#include <cstdint>

#include "common/macros.cuh"

namespace sm80moe {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;

template <class Int>
SM80MOE_HOST_DEVICE constexpr Int ceil_div(Int a, Int b) {
  return (a + b - 1) / b;
}
template <class Number>
SM80MOE_HOST_DEVICE constexpr Number max_of(Number a, Number b) {
  return a > b ? a : b;
}
template <class Number>
SM80MOE_HOST_DEVICE constexpr Number min_of(Number a, Number b) {
  return a < b ? a : b;
}
template <class Number>
SM80MOE_HOST_DEVICE constexpr Number clamp(Number x, Number low, Number high) {
  return min_of(max_of(x, low), high);
}
SM80MOE_HOST_DEVICE constexpr bool is_power_of_two(int x) { return x > 0 && (x & (x - 1)) == 0; }

}  // namespace sm80moe
