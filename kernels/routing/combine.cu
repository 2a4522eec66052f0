#include "common/math.cuh"
#include "common/numeric.cuh"
#include "routing/routing.h"

namespace sm80moe::routing {
namespace {

constexpr int kThreads = 128;
constexpr int kElemsPerThread = 8;  // 16 bytes

// One thread owns 8 columns of one token.
template <class T>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const __grid_constant__ CombineArgs args) {
  const int token = blockIdx.x;
  const int col = (blockIdx.y * kThreads + threadIdx.x) * kElemsPerThread;
  if (col >= args.hidden_size) return;

  float sum[kElemsPerThread] = {};
  for (int j = 0; j < args.top_k; ++j) {
    const int row = args.row_position[static_cast<int64_t>(token) * args.top_k + j];
    if (row < 0 || row >= args.num_rows) continue;
    const float weight = args.topk_weights[token * args.weights_row_stride + j];
    const uint4 words = *reinterpret_cast<const uint4*>(static_cast<const T*>(args.rows) +
                                                        row * args.rows_stride + col);
    const uint32_t pairs[] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < kElemsPerThread / 2; ++i) {
      const float2 pair = unpack_pair(pairs[i], T{});
      sum[2 * i] = fmaf(weight, pair.x, sum[2 * i]);
      sum[2 * i + 1] = fmaf(weight, pair.y, sum[2 * i + 1]);
    }
  }
  const uint4 packed = make_uint4(pack_pair(sum[0], sum[1], T{}), pack_pair(sum[2], sum[3], T{}),
                                  pack_pair(sum[4], sum[5], T{}), pack_pair(sum[6], sum[7], T{}));
  *reinterpret_cast<uint4*>(static_cast<T*>(args.out) + token * args.out_stride + col) = packed;
}

}  // namespace

cudaError_t combine(const CombineArgs& args, ElementType type, cudaStream_t stream) {
  const dim3 grid(args.num_tokens, ceil_div(args.hidden_size, kThreads * kElemsPerThread));
  if (type == ElementType::kBFloat16)
    combine_kernel<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(args);
  else
    combine_kernel<__half><<<grid, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace sm80moe::routing
