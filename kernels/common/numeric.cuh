#pragma once
// Conversions between fp32 and the two 16-bit types, two or eight elements at a time.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "common/macros.cuh"

namespace sm80moe {

// Both halves rounded to nearest even; x in the low half.
SM80MOE_DEVICE uint32_t pack_pair(float x, float y, __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  return reinterpret_cast<const uint32_t&>(pair);
}
SM80MOE_DEVICE uint32_t pack_pair(float x, float y, __half) {
  const __half2 pair = __floats2half2_rn(x, y);
  return reinterpret_cast<const uint32_t&>(pair);
}

// A bfloat16 is a float's first half. (cuda_bf16.h takes the pair apart first.)
SM80MOE_DEVICE float2 unpack_pair(uint32_t pair, __nv_bfloat16) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000)};
}
SM80MOE_DEVICE float2 unpack_pair(uint32_t pair, __half) {
  return __half22float2(reinterpret_cast<const __half2&>(pair));
}

// a * b + c in both halves, each rounded once.
SM80MOE_DEVICE uint32_t fma_pair(uint32_t a, uint32_t b, uint32_t c, __nv_bfloat16) {
  const auto as_pair = [](const uint32_t& x) { return reinterpret_cast<const __nv_bfloat162&>(x); };
  const __nv_bfloat162 sum = __hfma2(as_pair(a), as_pair(b), as_pair(c));
  return reinterpret_cast<const uint32_t&>(sum);
}
SM80MOE_DEVICE uint32_t fma_pair(uint32_t a, uint32_t b, uint32_t c, __half) {
  const auto as_pair = [](const uint32_t& x) { return reinterpret_cast<const __half2&>(x); };
  const __half2 sum = __hfma2(as_pair(a), as_pair(b), as_pair(c));
  return reinterpret_cast<const uint32_t&>(sum);
}

// A pair's low half, or its high half, twice: the fma that it goes to reads it so.
SM80MOE_DEVICE uint32_t both_low(uint32_t pair) {
  const __half2 low = __low2half2(reinterpret_cast<const __half2&>(pair));
  return reinterpret_cast<const uint32_t&>(low);
}
SM80MOE_DEVICE uint32_t both_high(uint32_t pair) {
  const __half2 high = __high2half2(reinterpret_cast<const __half2&>(pair));
  return reinterpret_cast<const uint32_t&>(high);
}

// Rounded to nearest even.
SM80MOE_DEVICE __nv_bfloat16 from_float(float x, __nv_bfloat16) { return __float2bfloat16_rn(x); }
SM80MOE_DEVICE __half from_float(float x, __half) { return __float2half_rn(x); }

SM80MOE_DEVICE float to_float(float x) { return x; }
SM80MOE_DEVICE float to_float(__half x) { return __half2float(x); }
SM80MOE_DEVICE float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

}  // namespace sm80moe
