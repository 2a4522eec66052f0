#include "common/int8.cuh"
#include "common/numeric.cuh"
#include "common/warp.cuh"
#include "quantize/quantize.h"

namespace sm80moe::quantize {
namespace {

constexpr int kThreads = 128;
constexpr int kColumnsPerThread = 8;  // 16 bytes in, 8 bytes out

template <class T>
SM80MOE_DEVICE void load_columns(float (&values)[kColumnsPerThread], const T* columns) {
  const uint4 words = *reinterpret_cast<const uint4*>(columns);
  const uint32_t pairs[] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < kColumnsPerThread / 2; ++i) {
    const float2 pair = unpack_pair(pairs[i], T{});
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}

SM80MOE_DEVICE uint32_t cta_max(uint32_t value) {
  __shared__ uint32_t of_warp[kThreads / kWarpSize];
  value = warp_max(value);
  if (lane_index() == 0) of_warp[warp_index()] = value;
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < kThreads / kWarpSize; ++warp) value = max_of(value, of_warp[warp]);
  return value;
}

template <class T>
SM80MOE_DEVICE uint32_t largest_of_row(const T* row, int num_columns) {
  uint32_t largest = 0;
  for (int col = threadIdx.x * kColumnsPerThread; col < num_columns;
       col += kThreads * kColumnsPerThread) {
    float values[kColumnsPerThread];
    load_columns(values, row + col);
#pragma unroll
    for (const float value : values) largest = max_of(largest, magnitude(value));
  }
  return cta_max(largest);
}

// A CTA a row. What it reads twice is in L1 the second time.
template <class T>
__global__ void __launch_bounds__(kThreads) quantize_kernel(const QuantizeArgs args) {
  const int64_t index = blockIdx.x;
  const T* row = static_cast<const T*>(args.rows) + index * args.row_stride;
  const Int8Quantizer quantizer = args.range != nullptr
                                      ? int8_quantizer(args.range->scale, args.range->zero_point)
                                      : quantizer_of_largest(largest_of_row(row, args.num_columns));
  int8_t* stored = args.values + index * args.values_stride;
  for (int col = threadIdx.x * kColumnsPerThread; col < args.values_stride;
       col += kThreads * kColumnsPerThread) {
    uint2 words{};
    if (col < args.num_columns) {
      float v[kColumnsPerThread];
      load_columns(v, row + col);
      words = {quantizer.store(v[0], v[1], v[2], v[3]), quantizer.store(v[4], v[5], v[6], v[7])};
    }
    *reinterpret_cast<uint2*>(stored + col) = words;
  }
  if (threadIdx.x == 0) args.scale[index] = quantizer.scale;
}

}  // namespace

cudaError_t quantize_activations(const QuantizeArgs& args, ElementType type, cudaStream_t stream) {
  const auto kernel =
      type == ElementType::kBFloat16 ? quantize_kernel<__nv_bfloat16> : quantize_kernel<__half>;
  kernel<<<args.num_rows, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace sm80moe::quantize
