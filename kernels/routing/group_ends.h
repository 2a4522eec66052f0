#pragma once
// Groups of rows that are told by their ends, made ready for a GEMM over ragged rows. Plain C++.

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sm80moe::routing {

// Group e has the rows [ends[e - 1], ends[e]), the first begins with row 0.
struct GroupEndsArgs {
  const int32_t* ends;     // [num_groups]
  int32_t* group_offsets;  // [num_groups + 1] becomes 0, then the ends
  int32_t* counter;        // [1] becomes zero
  void* out;               // [num_rows, 16 * row_chunks bytes]; rows past the last end become zeros
  int num_groups;
  int num_rows;
  int row_chunks;
};
cudaError_t take_group_ends(const GroupEndsArgs& args, int num_sms, cudaStream_t stream);

}  // namespace sm80moe::routing
