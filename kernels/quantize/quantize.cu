#include "common/int8.cuh"
#include "common/numeric.cuh"
#include "common/warp.cuh"
#include "quantize/quantize.h"

namespace sm80moe::quantize {
namespace {

constexpr int kColumnsPerChunk = 8;  // 16 bytes in, 8 bytes out

SM80MOE_DEVICE uint32_t largest_of_pair(float2 pair) {
  return max_of(magnitude(pair.x), magnitude(pair.y));
}

// Of the threads that share a row: a warp, or all of the CTA. Afterwards all have read.
template <int kThreads>
SM80MOE_DEVICE uint32_t max_of_row(uint32_t value) {
  value = warp_max(value);
  if constexpr (kThreads > kWarpSize) {
    __shared__ uint32_t of_warp[kThreads / kWarpSize];
    if (lane_index() == 0) of_warp[warp_index()] = value;
    __syncthreads();
#pragma unroll
    for (int warp = 0; warp < kThreads / kWarpSize; ++warp) value = max_of(value, of_warp[warp]);
  } else {
    __syncwarp();
  }
  return value;
}

// So many threads hold a row in registers, so that each number is read once, and all before any is
// written: int8 may take the 16-bit numbers' place.
template <class T, int kThreads, int kRows, int kChunks>
__global__ void __launch_bounds__(kThreads* kRows) quantize_kernel(const QuantizeArgs args) {
  static_assert(kRows == 1 || kThreads == kWarpSize, "a barrier is for one row");
  const int thread = threadIdx.x % kThreads;
  const int64_t index = int64_t{blockIdx.x} * kRows + threadIdx.x / kThreads;
  if (index >= args.num_rows) return;
  const T* row = static_cast<const T*>(args.rows) + index * args.row_stride;
  const int first = thread * kColumnsPerChunk;
  constexpr int kColumnsPerPass = kThreads * kColumnsPerChunk;
  uint4 chunks[kChunks];
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const int col = first + i * kColumnsPerPass;
    chunks[i] = col < args.num_columns ? *reinterpret_cast<const uint4*>(row + col) : uint4{};
  }
#pragma unroll
  for (const uint4& chunk : chunks)
    for (const uint32_t pair : {chunk.x, chunk.y, chunk.z, chunk.w})
      largest = max_of(largest, largest_of_pair(unpack_pair(pair, T{})));

  largest = max_of_row<kThreads>(largest);
  const Int8Quantizer quantizer = args.range != nullptr
                                      ? int8_quantizer(args.range->scale, args.range->zero_point)
                                      : quantizer_of_largest(largest);
  int8_t* stored = args.values + index * args.values_stride;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const int col = first + i * kColumnsPerPass;
    if (col >= args.row_bytes) continue;
    const bool is_padding = col >= args.num_columns;
    const float2 a = unpack_pair(chunks[i].x, T{}), b = unpack_pair(chunks[i].y, T{});
    const float2 c = unpack_pair(chunks[i].z, T{}), d = unpack_pair(chunks[i].w, T{});
    uint2 words{};
    if (!is_padding)
      words = {quantizer.store(a.x, a.y, b.x, b.y), quantizer.store(c.x, c.y, d.x, d.y)};
    *reinterpret_cast<uint2*>(stored + col) = words;
  }
  if (thread == 0) args.scale[index] = quantizer.scale;
}

template <class T, int kThreads, int kRows, int kChunks>
bool launch_if_fits(const QuantizeArgs& args, cudaStream_t stream) {
  if (args.num_columns > kThreads * kChunks * kColumnsPerChunk) return false;
  quantize_kernel<T, kThreads, kRows, kChunks>
      <<<ceil_div(args.num_rows, kRows), kThreads * kRows, 0, stream>>>(args);
  return true;
}

// With so many rows a warp a row keeps the device busy, and none waits for a barrier.
constexpr int kManyRows = 1024;

template <class T>
cudaError_t launch(const QuantizeArgs& args, cudaStream_t stream) {
  const bool fits =
      (args.num_rows >= kManyRows && (launch_if_fits<T, kWarpSize, 4, 4>(args, stream) ||
                                      launch_if_fits<T, kWarpSize, 4, 8>(args, stream) ||
                                      launch_if_fits<T, kWarpSize, 4, 16>(args, stream))) ||
      launch_if_fits<T, 128, 1, 1>(args, stream) || launch_if_fits<T, 128, 1, 4>(args, stream) ||
      launch_if_fits<T, 256, 1, 8>(args, stream) || launch_if_fits<T, 1024, 1, 8>(args, stream);
  return fits ? cudaGetLastError() : cudaErrorInvalidValue;
}

}  // namespace

cudaError_t quantize_activations(const QuantizeArgs& args, ElementType type, cudaStream_t stream) {
  return type == ElementType::kBFloat16 ? launch<__nv_bfloat16>(args, stream)
                                        : launch<__half>(args, stream);
}

}  // namespace sm80moe::quantize
