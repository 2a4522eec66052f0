#include "common/expert_ids.cuh"
#include "common/math.cuh"
#include "common/numeric.cuh"
#include "routing/routing.h"

namespace sm80moe::routing {
namespace {

constexpr int kThreads = 128;
constexpr int kElemsPerThread = 8;  // 16 bytes
constexpr int kRowsAtOnce = 4;

// Eight columns of a row.
template <class T>
SM80MOE_DEVICE uint4 load_columns(const void* matrix, int64_t element) {
  return *reinterpret_cast<const uint4*>(static_cast<const T*>(matrix) + element);
}

// sum += weight * (the columns + the columns of the bias)
template <class T, bool kHasBias>
SM80MOE_DEVICE void add_columns(float (&sum)[kElemsPerThread], float weight, const uint4& columns,
                                const uint4& bias) {
  const uint32_t pairs[] = {columns.x, columns.y, columns.z, columns.w};
  const uint32_t biases[] = {bias.x, bias.y, bias.z, bias.w};
#pragma unroll
  for (int c = 0; c < kElemsPerThread / 2; ++c) {
    float2 pair = unpack_pair(pairs[c], T{});
    if (kHasBias) {
      const float2 more = unpack_pair(biases[c], T{});
      pair.x += more.x;
      pair.y += more.y;
    }
    sum[2 * c] = fmaf(weight, pair.x, sum[2 * c]);
    sum[2 * c + 1] = fmaf(weight, pair.y, sum[2 * c + 1]);
  }
}

// One thread owns 8 columns of one token. Rows come in batches, all loads of a batch in flight at
// once; the sum keeps the order of the choices.
template <class T, bool kHasOptions>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const __grid_constant__ CombineArgs args) {
  const int64_t token = blockIdx.x;
  const int col = (blockIdx.y * kThreads + threadIdx.x) * kElemsPerThread;
  if (col >= args.hidden_size) return;
  const int32_t* positions = args.row_position + token * args.top_k;
  const float* weights = args.topk_weights + token * args.weights_row_stride;

  constexpr uint4 kZeros = {0, 0, 0, 0};
  float sum[kElemsPerThread] = {};
  if (kHasOptions && args.residual != nullptr)
    add_columns<T, false>(
        sum, 1.0f, load_columns<T>(args.residual, token * args.residual_stride + col), kZeros);
  for (int j0 = 0; j0 < args.top_k; j0 += kRowsAtOnce) {
    uint4 words[kRowsAtOnce], biases[kRowsAtOnce];
    float weight[kRowsAtOnce];
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const int row = j0 + i < args.top_k ? positions[j0 + i] : -1;
      const bool valid = row >= 0 && row < args.num_rows;
      weight[i] = !valid ? 0.0f : kHasOptions && args.unweighted ? 1.0f : weights[j0 + i];
      words[i] = valid ? load_columns<T>(args.rows, row * args.rows_stride + col) : kZeros;
      biases[i] = kZeros;
      if (!kHasOptions || !valid || args.bias == nullptr) continue;
      const int expert = expert_at(args.topk_ids, token, j0 + i, args.num_experts);
      if (expert != kInvalidExpert)
        biases[i] = load_columns<T>(args.bias, expert * args.bias_stride + col);
    }
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i)
      add_columns<T, kHasOptions>(sum, weight[i], words[i], biases[i]);
  }
  *reinterpret_cast<uint4*>(static_cast<T*>(args.out) + token * args.out_stride + col) =
      make_uint4(pack_pair(sum[0], sum[1], T{}), pack_pair(sum[2], sum[3], T{}),
                 pack_pair(sum[4], sum[5], T{}), pack_pair(sum[6], sum[7], T{}));
}

template <class T>
cudaError_t launch(const CombineArgs& args, cudaStream_t stream) {
  const dim3 grid(args.num_tokens, ceil_div(args.hidden_size, kThreads * kElemsPerThread));
  if (args.residual != nullptr || args.bias != nullptr || args.unweighted)
    combine_kernel<T, true><<<grid, kThreads, 0, stream>>>(args);
  else
    combine_kernel<T, false><<<grid, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t combine(const CombineArgs& args, ElementType type, cudaStream_t stream) {
  if (type == ElementType::kBFloat16) return launch<__nv_bfloat16>(args, stream);
  return launch<__half>(args, stream);
}

}  // namespace sm80moe::routing
