#pragma once
// Replaces CUDA's header: half precision by the compiler's own type, and the conversions that
// kernels/ uses.

#include <cuda_runtime.h>

struct __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half value) {
  _Float16 half;
  memcpy(&half, &value, sizeof(half));
  return static_cast<float>(half);
}

inline __half __float2half_rn(float value) {
  const _Float16 half = static_cast<_Float16>(value);
  __half result;
  memcpy(&result, &half, sizeof(result));
  return result;
}

inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
inline float2 __half22float2(__half2 pair) { return {__half2float(pair.x), __half2float(pair.y)}; }
