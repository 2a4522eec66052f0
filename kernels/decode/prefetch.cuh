#pragma once
// Hides the gap between the two kernels: DRAM goes on reading, into L2, what the second one asks
// for first.

#include "decode/row_stream.cuh"

namespace sm80moe::decode {

// What DRAM reads while the first kernel ends and the second begins; 0 leaves the gap as it is.
inline constexpr int kPrefetchBytes = 6 << 20;
inline constexpr int kMaxPrefetchShareOfL2 = 8;  // an eighth: the rest holds what is streamed

// The first bytes of the first rows of W2, in the order in which the second kernel comes to them.
struct Prefetch {
  int num_rows;
  int bytes_per_row;
};

template <class Rows>
Prefetch prefetch_for(const LayerArgs& args, const DeviceInfo& info) {
  constexpr int64_t kFirstSteps = kStages * kWarpSize * sizeof(uint4);
  const int64_t row_bytes =
      int64_t{args.intermediate_size} * sizeof(uint16_t) / Rows::kActivationChunks;
  const int bytes_per_row = static_cast<int>(min_of(row_bytes, kFirstSteps));
  const int bytes = min_of(kPrefetchBytes, info.l2_bytes / kMaxPrefetchShareOfL2);
  return {bytes / bytes_per_row, bytes_per_row};
}

// Called by each warp once all its other loads are under way.
SM80MOE_DEVICE void prefetch_w2(const LayerArgs& args, const ExpertGroups& groups,
                                const Prefetch& prefetch) {
  constexpr int kSectorBytes = 32;  // what one prefetch is sure to bring
  const int stride = gridDim.x * kWarps;
  int row = blockIdx.x + gridDim.x * warp_index();
  Walk walk(groups.size(), args.hidden_size, row, stride);
  for (; row < prefetch.num_rows && !walk.ended(); row += stride, walk.advance()) {
    const int expert = groups[walk.group()].expert;
    const auto* begin = reinterpret_cast<const char*>(
        chunks_at(args.w2, expert * args.w2_expert_stride + walk.tile() * args.w2_row_stride));
#pragma unroll 1
    for (int at = lane_index() * kSectorBytes; at < prefetch.bytes_per_row;
         at += kWarpSize * kSectorBytes)
      ptx::prefetch_global_l2(begin + at);
  }
}

}  // namespace sm80moe::decode
