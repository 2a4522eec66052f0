#pragma once
// Routing as plain functions on raw pointers: which experts a token takes, the rows sorted by
// expert, and the weighted sum back to tokens. Plain C++; no Torch, and nothing of the GEMMs.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/element_type.h"
#include "common/limits.h"

namespace sm80moe::routing {

// topk_weights[t], topk_ids[t] = the top_k largest of softmax(logits[t])
struct TopkArgs {
  const void* logits;   // [num_tokens, num_experts], logits_row_stride elements between rows
  float* topk_weights;  // [num_tokens, top_k]
  int32_t* topk_ids;    // [num_tokens, top_k]
  int64_t logits_row_stride;
  int num_tokens;
  int num_experts;
  int top_k;
  bool renormalize;
};
cudaError_t topk_route(const TopkArgs& args, ElementType logits_type, cudaStream_t stream);

// A pair p = t * top_k + j is one (token, choice). Valid pairs are sorted by expert, stably.
struct SortArgs {
  const void* topk_ids;  // [num_tokens, top_k] int32 or int64
  int64_t ids_row_stride;
  bool ids_are_int64;
  int num_pairs;
  int top_k;
  int num_experts;
  int32_t* expert_offsets;  // [num_experts + 1] rows before each expert
  int32_t* row_index;       // [num_pairs] the pair of each sorted row; -1 past the last
  int32_t* row_position;    // [num_pairs] the sorted row of each pair; -1 when its id is invalid
  int32_t* scratch;         // sort_scratch_ints(...) integers
  int32_t* counters;        // [num_counters] set to zero, for kernels that follow
  int num_counters;
};
int64_t sort_scratch_ints(int num_pairs, int num_experts);
cudaError_t sort_by_expert(const SortArgs& args, cudaStream_t stream);

// out[t] = sum_j topk_weights[t, j] * rows[row_position[t, j]], in fp32, in the order of j
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
};
cudaError_t combine(const CombineArgs& args, ElementType type, cudaStream_t stream);

}  // namespace sm80moe::routing
