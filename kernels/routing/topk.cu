#include <cfloat>
#include <climits>
#include <cmath>

#include "common/numeric.cuh"
#include "common/warp.cuh"
#include "routing/routing.h"

namespace sm80moe::routing {
namespace {

constexpr int kWarpsPerCta = 4;

struct Candidate {
  float logit;
  int expert;
};

// The larger logit wins, and of equals the lower index.
SM80MOE_DEVICE Candidate better_of(Candidate a, Candidate b) {
  if (a.logit != b.logit) return a.logit > b.logit ? a : b;
  return a.expert < b.expert ? a : b;
}

SM80MOE_DEVICE Candidate warp_best(Candidate mine) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    const Candidate other = {__shfl_xor_sync(kFullWarp, mine.logit, distance),
                             __shfl_xor_sync(kFullWarp, mine.expert, distance)};
    mine = better_of(mine, other);
  }
  return mine;
}

// NaN never wins against a number, and an infinite logit counts as the largest finite one, so that
// every weight is a number.
SM80MOE_DEVICE float tame(float logit) {
  return isnan(logit) ? -FLT_MAX : fminf(fmaxf(logit, -FLT_MAX), FLT_MAX);
}

// One warp a token; lane l holds experts l, l + 32, ... An expert that is taken, or beyond the
// last, is held as minus infinity, which no tamed logit is.
template <class T, int kPerLane>
__global__ void __launch_bounds__(kWarpsPerCta* kWarpSize)
    topk_kernel(const __grid_constant__ TopkArgs args) {
  const int token = blockIdx.x * kWarpsPerCta + warp_index();
  if (token >= args.num_tokens) return;
  const T* row = static_cast<const T*>(args.logits) + token * args.logits_row_stride;

  float logits[kPerLane];
  float largest = -FLT_MAX;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = i * kWarpSize + lane_index();
    logits[i] = expert < args.num_experts ? tame(to_float(row[expert])) : -INFINITY;
    largest = fmaxf(largest, logits[i]);
  }
  largest = warp_max(largest);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) sum += expf(logits[i] - largest);
  sum = warp_sum(sum);

  float* weights = args.topk_weights + static_cast<int64_t>(token) * args.top_k;
  int32_t* ids = args.topk_ids + static_cast<int64_t>(token) * args.top_k;
  float chosen_sum = 0;
  for (int k = 0; k < args.top_k; ++k) {
    Candidate best = {-INFINITY, INT_MAX};
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      best = better_of(best, {logits[i], i * kWarpSize + lane_index()});
    best = warp_best(best);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if (i * kWarpSize + lane_index() == best.expert) logits[i] = -INFINITY;
    const float weight = expf(best.logit - largest) / sum;
    chosen_sum += weight;
    if (lane_index() == 0) {
      weights[k] = weight;
      ids[k] = best.expert;
    }
  }
  if (!args.renormalize) return;
  __syncwarp();
  for (int k = lane_index(); k < args.top_k; k += kWarpSize) weights[k] /= chosen_sum;
}

using TopkFn = void (*)(const TopkArgs&, dim3, cudaStream_t);

template <class T, int kPerLane>
void launch(const TopkArgs& args, dim3 grid, cudaStream_t stream) {
  topk_kernel<T, kPerLane><<<grid, kWarpsPerCta * kWarpSize, 0, stream>>>(args);
}

template <class T>
void launch_for(const TopkArgs& args, cudaStream_t stream) {
  // Entry i serves up to 32 << i experts.
  constexpr TopkFn kBySize[] = {&launch<T, 1>, &launch<T, 2>,  &launch<T, 4>,
                                &launch<T, 8>, &launch<T, 16>, &launch<T, 32>};
  int size = 0;
  while (kWarpSize << size < args.num_experts) ++size;
  kBySize[size](args, dim3(ceil_div(args.num_tokens, kWarpsPerCta)), stream);
}

}  // namespace

cudaError_t topk_route(const TopkArgs& args, ElementType logits_type, cudaStream_t stream) {
  switch (logits_type) {
    case ElementType::kFloat32:
      launch_for<float>(args, stream);
      break;
    case ElementType::kFloat16:
      launch_for<__half>(args, stream);
      break;
    case ElementType::kBFloat16:
      launch_for<__nv_bfloat16>(args, stream);
      break;
  }
  return cudaGetLastError();
}

}  // namespace sm80moe::routing
