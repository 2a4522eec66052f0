#pragma once
// Hides the gap between the two kernels: DRAM goes on reading, into L2, what the second one asks
// for first.

#include "decode/row_stream.cuh"

namespace sm80moe::decode {

// What DRAM reads while the first kernel ends and the second begins; 0 leaves the gap as it is.
inline constexpr int kPrefetchBytes = 6 << 20;
inline constexpr int kMaxPrefetchShareOfL2 = 8;  // an eighth: the rest holds what is streamed

// The first bytes of the first rows of W2, in the order in which the second kernel comes to them.
// Whole rows that lie side by side are one block.
struct Prefetch {
  int num_blocks, blocks_of_expert;
  int bytes_of_block;
  int64_t block_stride;
};

template <class Rows>
Prefetch prefetch_for(const LayerArgs& args, const DeviceInfo& info) {
  constexpr int kFirstSteps = kStages * kWarpSize * sizeof(uint4);
  constexpr int kMaxRows = 8;  // of which H is a multiple
  const int row_bytes = Rows::depth(num_chunks(args.intermediate_size)) * sizeof(uint4);
  int bytes = min_of(row_bytes, kFirstSteps), rows = 1;
  const bool side_by_side = args.w2_row_stride * int64_t{sizeof(uint16_t)} == bytes;
  for (; side_by_side && rows < kMaxRows && bytes <= kFirstSteps; rows *= 2) bytes *= 2;
  return {min_of(kPrefetchBytes, info.l2_bytes / kMaxPrefetchShareOfL2) / bytes,
          args.hidden_size / rows, bytes, rows * args.w2_row_stride};
}

// Called by each warp once all its other loads are under way.
SM80MOE_DEVICE void prefetch_w2(const LayerArgs& args, const ExpertGroups& groups,
                                const Prefetch& prefetch) {
  constexpr int kSectorBytes = 32;  // what one prefetch is sure to bring
  const int stride = gridDim.x * kWarps;
  const Tiles blocks(groups, prefetch.blocks_of_expert);
  const int num_blocks = min_of(prefetch.num_blocks, blocks.size());
#pragma unroll 1
  for (int at = blockIdx.x + gridDim.x * uniform_warp_index(); at < num_blocks; at += stride) {
    const Tiles::Place place = blocks[at];
    const unsigned expert = groups.expert_of(place.leader), block = place.tile;
    const auto* begin = reinterpret_cast<const char*>(
        chunks_at(args.w2, expert * args.w2_expert_stride + block * prefetch.block_stride));
#pragma unroll 1
    for (int byte = lane_index() * kSectorBytes; byte < prefetch.bytes_of_block;
         byte += kWarpSize * kSectorBytes)
      ptx::prefetch_global_l2(begin + byte);
  }
}

}  // namespace sm80moe::decode
