#include "common/math.cuh"
#include "common/numeric.cuh"
#include "routing/routing.h"

namespace sm80moe::routing {
namespace {

constexpr int kThreads = 128;
constexpr int kElemsPerThread = 8;  // 16 bytes
constexpr int kRowsAtOnce = 4;

// One thread owns 8 columns of one token. Rows come in batches, all loads of a batch in flight at
// once; the sum keeps the order of the choices.
template <class T>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const __grid_constant__ CombineArgs args) {
  const int64_t token = blockIdx.x;
  const int col = (blockIdx.y * kThreads + threadIdx.x) * kElemsPerThread;
  if (col >= args.hidden_size) return;
  const T* rows = static_cast<const T*>(args.rows) + col;
  const int32_t* positions = args.row_position + token * args.top_k;
  const float* weights = args.topk_weights + token * args.weights_row_stride;

  float sum[kElemsPerThread] = {};
  for (int j0 = 0; j0 < args.top_k; j0 += kRowsAtOnce) {
    uint4 words[kRowsAtOnce];
    float weight[kRowsAtOnce];
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const int row = j0 + i < args.top_k ? positions[j0 + i] : -1;
      const bool valid = row >= 0 && row < args.num_rows;
      weight[i] = valid ? weights[j0 + i] : 0.0f;
      words[i] = valid ? *reinterpret_cast<const uint4*>(rows + row * args.rows_stride)
                       : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const uint32_t pairs[] = {words[i].x, words[i].y, words[i].z, words[i].w};
#pragma unroll
      for (int c = 0; c < kElemsPerThread / 2; ++c) {
        const float2 pair = unpack_pair(pairs[c], T{});
        sum[2 * c] = fmaf(weight[i], pair.x, sum[2 * c]);
        sum[2 * c + 1] = fmaf(weight[i], pair.y, sum[2 * c + 1]);
      }
    }
  }
  *reinterpret_cast<uint4*>(static_cast<T*>(args.out) + token * args.out_stride + col) =
      make_uint4(pack_pair(sum[0], sum[1], T{}), pack_pair(sum[2], sum[3], T{}),
                 pack_pair(sum[4], sum[5], T{}), pack_pair(sum[6], sum[7], T{}));
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
