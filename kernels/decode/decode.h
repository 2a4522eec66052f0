#pragma once
// The whole layer for few rows, in one launch. Plain C++; no Torch, and nothing of the GEMMs.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/device_info.h"
#include "common/element_type.h"
#include "common/epilogue_args.h"
#include "common/expert_ids.h"
#include "common/packed_args.h"

namespace sm80moe::decode {

// What makes the intermediate.
enum class FirstHalf {
  kSwiglu,   // silu(gate) * up
  kGated,    // the same with options
  kUngated,  // activation(sum): of two neighbouring columns, one in place of gate and one of up
};

// out[t] = sum_j topk_weights[t, j] * (silu(x[t] @ gate_e.T) * (x[t] @ up_e.T)) @ w2_e.T with
// e = topk_ids[t, j]; options as in GroupedGemmArgs and CombineArgs. A pair p = t * top_k + j is
// one (token, choice). Strides are in elements. The order is that in which the kernel asks for
// them.
struct LayerArgs {
  ExpertIds topk_ids;  // [num_tokens, top_k]
  int num_tokens;
  int top_k;
  int num_experts;
  int hidden_size;
  int intermediate_size;
  const void* hidden_states;  // [num_tokens, hidden_size]
  int64_t hidden_states_row_stride;
  const void* w13;  // [num_experts, 2 * intermediate_size, hidden_size]: the first column's row
  int64_t w13_expert_stride;
  int64_t w13_column_stride, w13_second_row;  // to the next column, from gate to up
  void* intermediate;  // [num_pairs, intermediate_size] contiguous, written and read
  const void* w2;      // [num_experts, hidden_size, intermediate_size]
  int64_t w2_expert_stride, w2_row_stride;
  const float* topk_weights;  // [num_tokens, top_k]
  int64_t topk_weights_row_stride;
  void* out;  // [num_tokens, hidden_size]
  int64_t out_row_stride;
  FirstHalf first_half;
  EpilogueArgs epilogue;  // for kGated and kUngated
  bool weighs_input;      // topk_weights scale the first sums, and not the second
  const void* residual;   // [num_tokens, hidden_size] or null; may be `out`
  int64_t residual_row_stride;
  const void* w2_bias;  // [num_experts, hidden_size] or null
  int64_t w2_bias_expert_stride;
  // For packed weights, whose strides are in units of two bytes: what stands beside w13 with its
  // second rows, and beside w2.
  PackedArgs w13_packed, w2_packed;
  unsigned inverse_of_top_k;  // run_layer fills it in: pair / top_k without a division
};

inline constexpr int kMaxPairs = 32;  // a pair a lane: each warp knows the whole routing by heart
// Times a pair, 1 / top_k in these units, rounded up, is off by less than 1 / top_k.
inline constexpr unsigned kUnitOfInverse = 1 << 16;
inline constexpr int kSmemBytes = 98 * 1024;  // of a CTA, at most
// From the first byte of w13 or w2 to the last: the kernels count 16-byte chunks in 32 bits.
inline constexpr int64_t kMaxWeightBytes = int64_t{INT32_MAX} * 16;

// As two launches they saved about 7 us. With up to two rows an expert they
// stream as the tiles of the GEMMs do; with more, 3 to 5% slower: then the tiles win beyond this
// time of reading weights. Measured: H100, 2026-11-23, six models at 1 to 16 tokens; packed
// weights: H200, 2026-11-29, six models at 1 and 4 tokens.
struct FewRows {
  double at_full_speed;
  double most_us;
};
constexpr FewRows few_rows(WeightFormat format) {
  switch (stored_bits(format)) {
    case 4:
      return {1.6, 100};
    case 8:
      return {1.4, 100};
    default:
      return {2, 200};
  }
}

// The most pairs for which run_layer is the faster way: kMaxPairs at most, none if the kernels do
// not fit the device. Pairs are taken to choose experts at random.
inline int max_pairs(const DeviceInfo& info, int64_t num_experts, int64_t hidden_size,
                     int64_t intermediate_size, WeightFormat format = WeightFormat::kDense) {
  if (info.smem_per_cta < kSmemBytes) return 0;
  const double bytes_an_expert = 3.0 * hidden_size * intermediate_size * stored_bits(format) / 8;
  const double us_an_expert = bytes_an_expert / info.dram_bytes_per_us;
  const FewRows few = few_rows(format);
  double active_experts = 0;
  for (int pairs = 0; pairs < kMaxPairs; ++pairs) {
    active_experts += 1 - active_experts / num_experts;
    const bool slower = pairs + 1 > few.at_full_speed * active_experts;
    if (slower && active_experts * us_an_expert > few.most_us) return pairs;
  }
  return kMaxPairs;
}

// For 1 to kMaxPairs pairs, on a device that has kSmemBytes a CTA.
cudaError_t run_layer(const LayerArgs& args, ElementType type, int device, const DeviceInfo& info,
                      cudaStream_t stream);
// The same, of packed weights, which run_layer calls.
cudaError_t run_packed_layer(const LayerArgs& args, ElementType type, int device,
                             const DeviceInfo& info, cudaStream_t stream);

}  // namespace sm80moe::decode
