#include "common/math.cuh"
#include "routing/group_ends.h"

namespace sm80moe::routing {
namespace {

constexpr int kThreads = 256;

// How many rows have no group is not known on the host: the grid is that of a result without any
// group, and most of its threads usually find nothing to do.
__global__ void __launch_bounds__(kThreads)
    take_group_ends_kernel(const __grid_constant__ GroupEndsArgs args) {
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t num_threads = int64_t{gridDim.x} * kThreads;
  for (int64_t group = thread; group < args.num_groups; group += num_threads)
    args.group_offsets[group + 1] = args.ends[group];
  if (thread == 0) *args.group_offsets = *args.counter = 0;

  // Ends come from the caller's tensor: whatever they hold, rows stay inside [0, num_rows).
  const int num_grouped = clamp(args.ends[args.num_groups - 1], 0, args.num_rows);
  auto* chunks = static_cast<uint4*>(args.out);
  const int64_t end = int64_t{args.num_rows} * args.row_chunks;
  for (int64_t i = int64_t{num_grouped} * args.row_chunks + thread; i < end; i += num_threads)
    chunks[i] = make_uint4(0, 0, 0, 0);
}

}  // namespace

cudaError_t take_group_ends(const GroupEndsArgs& args, int num_sms, cudaStream_t stream) {
  constexpr int kCtasPerSm = 4;
  const int64_t num_chunks = int64_t{args.num_rows} * args.row_chunks;
  const int64_t wanted = ceil_div<int64_t>(num_chunks, kThreads);
  const auto grid = static_cast<int>(clamp<int64_t>(wanted, 1, int64_t{num_sms} * kCtasPerSm));
  take_group_ends_kernel<<<grid, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace sm80moe::routing
