#pragma once
// The kernel: tiles x mainloop x epilogue, composition only.

#include "gemm/column_scale.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/mainloop.cuh"
#include "gemm/reduce_warps.cuh"

namespace sm80moe::gemm {

// Dynamic shared memory: the ring, the accumulators of split reductions, what is for epilogues, the
// queue of tiles, the scheduler's list.
template <class Config, class T, class Weight, class Epilogue>
struct GroupedGemmSmem {
  using Loader = StageLoader<Config, T, Weight, Epilogue>;
  using Reduction = WarpReduction<Sum<T>, Config::kWarpsK, Config::kWarpsM * Config::kWarpsN,
                                  Config::kMmasM, Config::kSumsN>;
  static constexpr int kReductionOffset = Loader::kRingBytes;
  static constexpr int kScratchOffset = kReductionOffset + Reduction::kSmemBytes;
  static constexpr int kQueueOffset = kScratchOffset + Epilogue::template kScratchBytes<Config>;
  static constexpr int kSchedulerOffset = kQueueOffset + sizeof(TileQueueSlots);
  static constexpr int kFixedBytes = kQueueOffset;
};

// 0 leaves it to ptxas.
template <class Config, class Weight>
constexpr int min_ctas() {
  return ceil_div(Weight::min_warps(Config::kTactic), Config::kThreads / kWarpSize);
}

template <class Config, class T, class Weight, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, min_ctas<Config, Weight>())
    grouped_gemm_kernel(const __grid_constant__ GroupedGemmArgs args) {
  using Smem = GroupedGemmSmem<Config, T, Weight, Epilogue>;
  using Loader = typename Smem::Loader;
  using Loop = Mainloop<Config, T, Weight, Epilogue>;
  extern __shared__ __align__(1024) uint8_t smem[];  // swizzling XORs address bits below a row

  const TileColumns columns = Epilogue::columns(args, Config::kCtaN);
  TileQueue<Config> tiles(args, columns.total, columns.per_tile,
                          reinterpret_cast<TileQueueSlots*>(smem + Smem::kQueueOffset),
                          reinterpret_cast<int*>(smem + Smem::kSchedulerOffset));
  const uint32_t ring = ptx::shared_address(smem);
  Loader loader(args, tiles, ring);
  const int second_tile = tiles.claim();
  Loop mainloop(args, loader, ring);
  tiles.announce(second_tile);

  const int num_k_tiles = Loader::num_k_tiles(args);
  ExpertTile tile;
  while (tiles.take_next(tile)) {
    typename Loop::Accumulator acc = {};
    mainloop.run(num_k_tiles, tile.m_end - tile.m_begin, acc);
    const int claimed = tiles.claim();

    Smem::Reduction::run(acc, reinterpret_cast<Sum<T>*>(smem + Smem::kReductionOffset));
    const int warp = warp_index();
    if (Loop::warp_k(warp) > 0) continue;  // thread 0 goes on
    const int col0 =
        tile.tile_n * columns.per_tile + Loop::warp_col(warp) / Epilogue::kTileRowsPerColumn;
    void* scratch = smem + Smem::kScratchOffset;
    const WarpTile warp_tile{
        tile.expert, tile.m_begin + Loop::warp_row(warp), Config::kRowsPerBlock, tile.m_end, col0,
        scratch};
    const auto store = [&](auto& sums) {
      if constexpr (Weight::kIsPacked)
        scale_columns<Config, Weight, typename Loader::Columns>(args, columns, warp_tile, sums);
      Epilogue::template store<T, Config>(args, columns, warp_tile, sums);
    };
    if constexpr (Config::kSwapsOperands) {
      float turned[1][Config::kMmasN][4];
      turn_sums(acc[0], turned[0]);
      store(turned);
    } else {
      store(acc);
    }
    tiles.announce(claimed);
  }
  ptx::cp_async_wait<0>();  // what is left of the ring: zeros that nobody reads
}

}  // namespace sm80moe::gemm
