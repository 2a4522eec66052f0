#pragma once
// Replaces what nvcc puts before every .cu file: qualifiers, vector types, built-in variables and
// intrinsics. A new intrinsic in kernels/ needs a line here.

#include <cuda_runtime_api.h>
#include <math.h>

#include <cstdint>
#include <cstring>

#include "runtime/intrinsics.h"
#include "runtime/launch.h"
#include "runtime/ptx.h"

#define __global__
#define __device__
#define __host__
// Inlined as nvcc does, so that a report shows the whole chain of calls down to the kernel.
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

struct float2 {
  float x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline float __expf(float x) { return expf(x); }
inline float __fdividef(float x, float y) { return x / y; }
// Of the eight bytes of x and y those that the nibbles of `selector` name.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const unsigned long long bytes = static_cast<unsigned long long>(y) << 32 | x;
  unsigned chosen = 0;
  for (int i = 0; i < 4; ++i)
    chosen |= static_cast<unsigned>(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return chosen;
}
// The low word of the 64 bits `high`, `low`, shifted by up to 31.
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned bits) {
  const unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
  return static_cast<unsigned>(both >> (bits & 31));
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(x); }
