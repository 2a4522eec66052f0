#include "common/numeric.cuh"
#include "routing/scoring.cuh"
#include "routing/topk.cuh"

namespace sm80moe::routing {
namespace {

constexpr int kWarpsPerCta = 4;

// The type of the logits is a branch and no template argument: what follows is fp32, and there are
// kernels enough.
SM80MOE_DEVICE float read(const TopkArgs& args, int64_t at) {
  if (args.logits_type == ElementType::kFloat32)
    return as_finite(static_cast<const float*>(args.logits)[at]);
  if (args.logits_type == ElementType::kFloat16)
    return as_finite(to_float(static_cast<const __half*>(args.logits)[at]));
  return as_finite(to_float(static_cast<const __nv_bfloat16*>(args.logits)[at]));
}

template <class T, int kPerLane>
SM80MOE_DEVICE void read_as(const T* mine, int num_mine, float (&logits)[kPerLane]) {
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    logits[i] = i < num_mine ? as_finite(to_float(mine[i * kWarpSize])) : -INFINITY;
}
template <int kPerLane>
SM80MOE_DEVICE void read_row(const TopkArgs& args, int64_t begin, float (&logits)[kPerLane]) {
  const int num_mine = num_held(args.num_experts);
  const int64_t mine = begin + lane_index();
  if (args.logits_type == ElementType::kFloat32)
    read_as(static_cast<const float*>(args.logits) + mine, num_mine, logits);
  else if (args.logits_type == ElementType::kFloat16)
    read_as(static_cast<const __half*>(args.logits) + mine, num_mine, logits);
  else
    read_as(static_cast<const __nv_bfloat16*>(args.logits) + mine, num_mine, logits);
}

// One warp a token, its row in registers. First the ids: a rank after the other, by all lanes. Then
// the weights: lane l scores ranks l, l + 32, ..., from logits that it reads once more.
template <class Scoring, int kPerLane>
__global__ void __launch_bounds__(kWarpsPerCta* kWarpSize)
    topk_kernel(const __grid_constant__ TopkArgs args) {
  const int token = blockIdx.x * kWarpsPerCta + warp_index();
  if (token >= args.num_tokens) return;
  const int64_t row_begin = token * args.logits_row_stride;
  const int num_mine = num_held(args.num_experts);

  // What experts are chosen by. Logits order them as scores do, and without ties by rounding.
  float choice[kPerLane];
  read_row(args, row_begin, choice);
  const Scoring score(choice);
  if (args.correction_bias != nullptr || args.n_group > 1) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const bool has_bias = args.correction_bias != nullptr && i < num_mine;
      const float bias = has_bias ? args.correction_bias[i * kWarpSize + lane_index()] : 0.0f;
      choice[i] = as_finite(score(choice[i]) + bias);
    }
  }
  unsigned keys[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) keys[i] = i < num_mine ? sortable(choice[i]) : kGone;
  if (args.n_group > 1) keep_best_groups(args, choice, keys);

  float* weights = args.topk_weights + static_cast<int64_t>(token) * args.top_k;
  int32_t* ids = args.topk_ids + static_cast<int64_t>(token) * args.top_k;
  float sum = 0;
  for (int rank0 = 0; rank0 < args.top_k; rank0 += kWarpSize) {
    const int num_ranks = min_of(args.top_k - rank0, kWarpSize);
    int expert = 0;
#pragma unroll 1  // small code: one token pays for reading it
    for (int i = 0; i < num_ranks; ++i) {
      const int best = take_best(keys);
      if (lane_index() == i) expert = best;
    }
    if (lane_index() >= num_ranks) continue;
    const float weight = score(read(args, row_begin + expert));
    sum += weight;
    weights[rank0 + lane_index()] = weight;
    ids[rank0 + lane_index()] = args.expert_map ? args.expert_map[expert] : expert;
    if (args.tokens_per_expert) atomicAdd(&args.tokens_per_expert[expert], 1);
  }

  sum = warp_sum(sum);
  const float divisor = args.renormalize && sum > 0 ? sum : 1.0f;
  for (int rank = lane_index(); rank < args.top_k; rank += kWarpSize)
    weights[rank] = weights[rank] / divisor * args.routed_scaling_factor;
}

using TopkFn = void (*)(const TopkArgs&, dim3, cudaStream_t);

template <class Scoring, int kPerLane>
void launch(const TopkArgs& args, dim3 grid, cudaStream_t stream) {
  topk_kernel<Scoring, kPerLane><<<grid, kWarpsPerCta * kWarpSize, 0, stream>>>(args);
}

// Entry i serves up to 32 << i experts.
constexpr int kNumSizes = 6;
static_assert(kWarpSize << (kNumSizes - 1) == kMaxExperts);
template <class Scoring>
constexpr TopkFn kBySize[kNumSizes] = {&launch<Scoring, 1>,  &launch<Scoring, 2>,
                                       &launch<Scoring, 4>,  &launch<Scoring, 8>,
                                       &launch<Scoring, 16>, &launch<Scoring, 32>};

}  // namespace

cudaError_t topk_route(const TopkArgs& args, cudaStream_t stream) {
  // In the order of ScoringKind.
  constexpr const TopkFn* kByScoring[] = {kBySize<Softmax>, kBySize<Sigmoid>,
                                          kBySize<SqrtSoftplus>};
  int size = 0;
  while (kWarpSize << size < args.num_experts) ++size;
  const dim3 grid(ceil_div(args.num_tokens, kWarpsPerCta));
  kByScoring[static_cast<int>(args.scoring)][size](args, grid, stream);
  return cudaGetLastError();
}

}  // namespace sm80moe::routing
