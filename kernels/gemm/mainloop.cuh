#pragma once
// The consumer side of the ring: fragments, mma, and the order in which they overlap.

#include "common/warp.cuh"
#include "gemm/stage_loader.cuh"

namespace sm80moe::gemm {

// acc = A[rows, :] @ W[expert, columns, :].T, one CTA tile after the other, through one ring that
// is never drained: while the last stages of a tile are multiplied, and while its epilogue stores,
// the next tile's first stages are on their way.
template <class Config, class T, class Weight, class Epilogue>
class Mainloop {
 public:
  using Loader = StageLoader<Config, T, Weight, Epilogue>;
  using ATile = typename Loader::ATile;
  using WTile = typename Loader::WTile;
  using Accumulator = float[Config::kMmasM][Config::kMmasN][4];

  SM80MOE_DEVICE Mainloop(Loader& loader, uint32_t ring)
      : loader_(loader), ring_(ring), stage_(ring) {
    const int lane = lane_index(), warp = warp_index();
    // Where in a row this warp's share of the reduction starts.
    const int k_bytes = warp_k(warp) * Config::kWarpK * static_cast<int>(sizeof(T));
    a_lane_ = ATile::byte_offset(warp_row(warp) + lane % 16, lane / 16) + k_bytes;
    w_lane_ = ATile::kBytes + Weight::template lane_offset<WTile>(warp_col(warp), lane) + k_bytes;
    static_assert(Config::kWarpsK == 1 || Config::kWarpK * sizeof(T) % 128 == 0,
                  "a warp's share of a row must be whole swizzle lines");

    // Invariant from here on: kStages - 1 groups are in flight. Empty groups keep it true when
    // there is nothing left to load.
#pragma unroll 1
    for (int stage = 0; stage < Config::kStages - 1; ++stage) {
      loader_.template issue<1>(0);
      commit_stage();
    }
    wait_for_stage();
    if (stages_ahead_ == 0) return;
    load_a_share<Config::kMmasM, 1>(0, 0);
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) load_w(pair, 0);
  }

  // First row of the warp's first block, first column, share of the reduction.
  SM80MOE_DEVICE static int warp_row(int warp) {
    return warp / Config::kWarpsN % Config::kWarpsM * Config::kMmaM;
  }
  SM80MOE_DEVICE static int warp_col(int warp) { return warp % Config::kWarpsN * Config::kWarpN; }
  SM80MOE_DEVICE static int warp_k(int warp) { return warp / (Config::kWarpsN * Config::kWarpsM); }

  // Adds up one tile of `num_k_tiles` stages. Blocks that hold none of its `rows` are not
  // multiplied.
  SM80MOE_DEVICE void run(int num_k_tiles, int rows, Accumulator& acc) {
    run_blocks<Config::kMmasM>(num_k_tiles, ceil_div(rows, Config::kRowsPerBlock), acc);
  }

 private:
  static constexpr int kPairs = Config::kMmasN / 2;  // of 8-column blocks: what one ldmatrix loads
  // Small warp tiles double-buffer their fragments. Large ones have mma enough between a fragment's
  // last use and its next to load the next step's in place.
  // Measured: H100, 2026-11-22, 128x256x64: in place 450 TFLOP/s, double-buffered 420.
  static constexpr int kBuffers = Config::kMmasM * Config::kMmasN >= 24 ? 1 : 2;

  template <int kBlocks>
  SM80MOE_DEVICE void run_blocks(int num_k_tiles, int blocks, Accumulator& acc) {
    if constexpr (kBlocks > 1) {
      if (blocks < kBlocks) return run_blocks<kBlocks - 1>(num_k_tiles, blocks, acc);
    }
    for (int k_tile = 0; k_tile < num_k_tiles; ++k_tile) multiply_stage<kBlocks>(acc);
  }

  // One stage, step by step of 16 along the reduction. Copies and the next step's fragment loads
  // are dealt out between the mma, so that neither the tensor cores nor shared memory wait for a
  // burst of the other.
  template <int kBlocks>
  SM80MOE_DEVICE void multiply_stage(Accumulator& acc) {
#pragma unroll
    for (int step = 0; step < Config::kMmasK - 1; ++step) {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        loader_.template issue<Config::kMmasK * kPairs>(step * kPairs + pair);
        multiply_pair<kBlocks>(acc, pair, step, true);
        load_w(pair, step + 1);
        if (kBuffers > 1) load_a_share<kBlocks, kPairs>(pair, step + 1);
      }
    }
    last_step<kBlocks>(acc);
  }

  // The last step waits for the next stage half way, when its own mma are still under way.
  template <int kBlocks>
  SM80MOE_DEVICE void last_step(Accumulator& acc) {
    constexpr int kStep = Config::kMmasK - 1, kPairsBefore = kPairs / 2;
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair)
      loader_.template issue<Config::kMmasK * kPairs>(kStep * kPairs + pair);
#pragma unroll
    for (int pair = 0; pair < kPairsBefore; ++pair) multiply_pair<kBlocks>(acc, pair, kStep, false);

    --stages_ahead_;
    commit_stage();
    stage_ = Loader::next_stage(ring_, stage_);
    wait_for_stage();
    const bool has_next = stages_ahead_ > 0;
#pragma unroll
    for (int pair = kPairsBefore; pair < kPairs; ++pair) {
      if (has_next && pair - kPairsBefore < kPairsBefore) load_w(pair - kPairsBefore, 0);
      multiply_pair<kBlocks>(acc, pair, kStep, has_next);
      if (!has_next) continue;
      load_w(pair, 0);
      // Every block of the new stage: the tile it belongs to may want more than this one.
      if (kBuffers > 1) load_a_share<Config::kMmasM, kPairs - kPairsBefore>(pair - kPairsBefore, 0);
    }
    if (kBuffers == 1 && has_next) {
#pragma unroll
      for (int i = kBlocks; i < Config::kMmasM; ++i) load_a(i, 0);
    }
  }

  SM80MOE_DEVICE void commit_stage() {
    if (loader_.has_stage()) ++stages_ahead_;
    loader_.advance();
    ptx::cp_async_commit();
  }

  // After this the oldest stage has landed for every thread, and every warp has read the last
  // fragments of the stage before it, whose slot may be overwritten.
  SM80MOE_DEVICE static void wait_for_stage() {
    ptx::cp_async_wait<Config::kStages - 2>();
    __syncthreads();
  }

  // Share `share` of kShares of the activation fragments of `step`, for the first kBlocks blocks.
  template <int kBlocks, int kShares>
  SM80MOE_DEVICE void load_a_share(int share, int step) {
#pragma unroll
    for (int i = share * kBlocks / kShares; i < (share + 1) * kBlocks / kShares; ++i)
      load_a(i, step);
  }

  SM80MOE_DEVICE void load_a(int block, int step) {
    const uint32_t a = ATile::advance_pairs(stage_ + a_lane_, step);
    ptx::ldmatrix_x4(a_frag_[step % kBuffers][block],
                     a + block * Config::kRowsPerBlock * ATile::kRowBytes);
  }

  SM80MOE_DEVICE void load_w(int pair, int step) {
    const uint32_t w = WTile::advance_pairs(stage_ + w_lane_, step);
    Weight::load_fragments(w_frag_[step % kBuffers][pair], w + pair * 16 * WTile::kRowBytes);
  }

  // Serpentine order: neighbouring mma share an operand, which the register cache then holds. With
  // single buffers the last pass runs the way the next step starts, and each activation fragment is
  // replaced, if there is a next step, as soon as it is free.
  template <int kBlocks>
  SM80MOE_DEVICE void multiply_pair(Accumulator& acc, int pair, int step, bool has_next) {
    const uint32_t(&w)[4] = w_frag_[step % kBuffers][pair];
    const bool replaces_a = kBuffers == 1 && pair == kPairs - 1;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int row = 0; row < kBlocks; ++row) {
        const int i = half == 0 || replaces_a ? row : kBlocks - 1 - row;
        ptx::mma_m16n8k16(acc[i][2 * pair + half], a_frag_[step % kBuffers][i], w[2 * half],
                          w[2 * half + 1], T{});
        if (replaces_a && half == 1 && has_next) load_a(i, (step + 1) % Config::kMmasK);
      }
  }

  Loader& loader_;
  const uint32_t ring_;
  uint32_t stage_;            // being multiplied
  uint32_t a_lane_, w_lane_;  // where in it this lane's first fragments are
  int stages_ahead_ = 0;      // issued and not yet multiplied
  uint32_t a_frag_[kBuffers][Config::kMmasM][4];
  uint32_t w_frag_[kBuffers][kPairs][4];
};

}  // namespace sm80moe::gemm
