#pragma once
// Routing as plain functions on raw pointers: which experts a token takes, the rows sorted by
// expert, and the weighted sum back to tokens. Plain C++; no Torch, and nothing of the GEMMs.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/element_type.h"
#include "common/expert_ids.h"
#include "common/limits.h"

namespace sm80moe::routing {

enum class ScoringKind { kSoftmax, kSigmoid, kSqrtSoftplus };
inline constexpr int kNumScorings = 3;
enum class GroupScore { kMax, kTop2Sum };  // of the scores of a group's experts
inline constexpr int kNumGroupScores = 2;
inline constexpr int kMaxGroups = 32;  // one a lane; _shapes.py has the same number

// score = scoring(logits[t]); topk_ids[t] = the top_k experts of largest score + correction_bias
// within the topk_group best groups; topk_weights[t] = their scores, without the bias
struct TopkArgs {
  const void* logits;            // [num_tokens, num_experts], logits_row_stride elements a row
  const float* correction_bias;  // [num_experts], or null for none
  const int32_t* expert_map;     // [num_experts] what topk_ids calls an expert, or null: its index
  float* topk_weights;           // [num_tokens, top_k]
  int32_t* topk_ids;             // [num_tokens, top_k]
  int32_t* tokens_per_expert;    // [num_experts] is increased, or null
  int64_t logits_row_stride;
  int num_tokens;
  int num_experts;
  int top_k;
  int n_group;                  // equal groups of neighbours; 1 to kMaxGroups
  int topk_group;               // whose experts are at least top_k
  float routed_scaling_factor;  // of the weights, after they are renormalised
  bool renormalize;             // the weights of a token sum to one
  ElementType logits_type;
  ScoringKind scoring;
  GroupScore group_score;
};
cudaError_t topk_route(const TopkArgs& args, cudaStream_t stream);

// A pair p = t * top_k + j is one (token, choice). Valid pairs are sorted by expert, stably.
struct SortArgs {
  ExpertIds topk_ids;  // [num_tokens, top_k]
  int num_pairs;
  int top_k;
  int num_experts;
  int32_t* expert_offsets;  // [num_experts + 1] rows before each expert
  int32_t* row_index;       // [num_pairs] the pair of each sorted row; -1 past the last
  int32_t* row_position;    // [num_pairs] the sorted row of each pair; -1 when its id is invalid
  int32_t* counters;        // [num_counters] set to zero, for kernels that follow
  int num_counters;
};
cudaError_t sort_by_expert(const SortArgs& args, cudaStream_t stream);

// out[t] = sum_j topk_weights[t, j] * rows[row_position[t, j]], in fp32, in the order of j
// With options: out[t] = residual[t] + sum_j weight * (rows[row_position[t, j]] + bias[e]), with
// e = topk_ids[t, j] and a weight that may be 1.
struct CombineArgs {
  const void* rows;             // [num_rows, hidden_size] 16-bit, rows_stride elements between rows
  const float* topk_weights;    // [num_tokens, top_k]
  const int32_t* row_position;  // [num_tokens, top_k] contiguous
  void* out;                    // [num_tokens, hidden_size], out_stride elements between rows
  int64_t rows_stride;
  int64_t weights_row_stride;
  int64_t out_stride;
  int num_rows;
  int num_tokens;
  int top_k;
  int hidden_size;
  // Options; none if `residual` and `bias` are null and `unweighted` is false.
  bool unweighted;
  const void* residual;  // [num_tokens, hidden_size] like `rows`; may be `out`
  int64_t residual_stride;
  const void* bias;  // [num_experts, hidden_size] like `rows`
  int64_t bias_stride;
  ExpertIds topk_ids;  // [num_tokens, top_k], for the bias
  int num_experts;
};
cudaError_t combine(const CombineArgs& args, ElementType type, cudaStream_t stream);

}  // namespace sm80moe::routing
