#pragma once
// Sums and maxima over the 32 lanes of a warp. Every lane of the warp must call.

#include "common/math.cuh"

namespace sm80moe {

SM80MOE_DEVICE int lane_index() { return threadIdx.x % kWarpSize; }
SM80MOE_DEVICE int warp_index() { return threadIdx.x / kWarpSize; }
// The same, known to the compiler to be one for all lanes, as is what depends on it: all of the
// warp must call.
SM80MOE_DEVICE int uniform_warp_index() { return __shfl_sync(kFullWarp, warp_index(), 0); }

SM80MOE_DEVICE int warp_inclusive_sum(int value) {
#pragma unroll
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const int below = __shfl_up_sync(kFullWarp, value, distance);
    if (lane_index() >= distance) value += below;
  }
  return value;
}

// One warp replaces counts[0..n) in shared memory by their exclusive prefix sum and writes the
// total to counts[n].
SM80MOE_DEVICE void warp_exclusive_scan(int* counts, int n) {
  int total = 0;
  for (int begin = 0; begin < n; begin += kWarpSize) {
    const int i = begin + lane_index();
    const int count = i < n ? counts[i] : 0;
    const int inclusive = warp_inclusive_sum(count);
    if (i < n) counts[i] = total + inclusive - count;
    total += __shfl_sync(kFullWarp, inclusive, kWarpSize - 1);
  }
  if (lane_index() == 0) counts[n] = total;
}

SM80MOE_DEVICE float warp_max(float value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, distance));
  return value;
}

SM80MOE_DEVICE unsigned warp_max(unsigned value) { return __reduce_max_sync(kFullWarp, value); }

SM80MOE_DEVICE int warp_min(int value) { return __reduce_min_sync(kFullWarp, value); }

SM80MOE_DEVICE int warp_sum(int value) { return __reduce_add_sync(kFullWarp, value); }

SM80MOE_DEVICE float warp_sum(float value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(kFullWarp, value, distance);
  return value;
}

}  // namespace sm80moe
