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

  SM80MOE_DEVICE Mainloop(Loader& loader, uint32_t ring) : loader_(loader), ring_(ring) {
    const int lane = lane_index(), warp = warp_index();
    const int warp_k = warp / (Config::kWarpsN * Config::kWarpsM);
    const int row = warp_row(warp) + lane % 16;
    const int col = warp_col(warp);
    // The chunk within a row where this warp's share of the reduction starts.
    const int k_bytes = warp_k * Config::kWarpK * static_cast<int>(sizeof(T));
    a_lane_ = ATile::byte_offset(row, lane / 16) + k_bytes;
    w_lane_ = Weight::template lane_offset<WTile>(col, lane) + k_bytes + ATile::kBytes;
    static_assert(Config::kWarpsK == 1 || Config::kWarpK * sizeof(T) % 128 == 0,
                  "a warp's share of a row must be whole swizzle lines");

    // Invariant from here on: kStages - 1 groups are in flight. Empty groups keep it true when
    // there is nothing left to load.
#pragma unroll
    for (int stage = 0; stage < Config::kStages - 1; ++stage) {
      loader_.template issue<1>(0);
      commit_stage();
    }
    wait_for_stage();
    if (stages_ahead_ > 0) load_all_fragments(0);
  }

  // First row of this warp's first 16-row block; its blocks are kRowStep apart, so that a short
  // last tile still gives every warp some of its rows.
  static constexpr int kRowStep = Config::kWarpsM * Config::kMmaM;
  SM80MOE_DEVICE static int warp_row(int warp) {
    return warp / Config::kWarpsN % Config::kWarpsM * Config::kMmaM;
  }
  SM80MOE_DEVICE static int warp_col(int warp) { return warp % Config::kWarpsN * Config::kWarpN; }
  SM80MOE_DEVICE static int warp_k(int warp) { return warp / (Config::kWarpsN * Config::kWarpsM); }

  // Adds up one tile of `num_k_tiles` stages, of which only the first `rows` rows are wanted: the
  // 16-row blocks that hold none of them are not multiplied.
  SM80MOE_DEVICE void run(int num_k_tiles, int rows, Accumulator& acc) {
    run_blocks<Config::kMmasM>(num_k_tiles, ceil_div(rows, kRowStep), acc);
  }

 private:
  template <int kBlocks>
  SM80MOE_DEVICE void run_blocks(int num_k_tiles, int blocks, Accumulator& acc) {
    if constexpr (kBlocks > 1) {
      if (blocks <= kBlocks / 2) return run_blocks<kBlocks / 2>(num_k_tiles, blocks, acc);
    }
    for (int k_tile = 0; k_tile < num_k_tiles; ++k_tile) multiply_stage<kBlocks>(acc);
  }

  // One stage. The next step's fragments are loaded before this step's mma, and the wait for the
  // next stage comes before the last step's mma, so the tensor cores have work through both.
  template <int kBlocks>
  SM80MOE_DEVICE void multiply_stage(Accumulator& acc) {
#pragma unroll
    for (int step = 0; step < Config::kMmasK; ++step) {
      loader_.template issue<Config::kMmasK>(step);
      const int next = (step + 1) % 2;
      if (step + 1 < Config::kMmasK) {
        load_fragments<kBlocks>(next, step + 1);
      } else {
        --stages_ahead_;
        commit_stage();
        slot_ = slot_ + 1 == Config::kStages ? 0 : slot_ + 1;
        wait_for_stage();
        if (stages_ahead_ > 0) load_all_fragments(next);
      }
      multiply<kBlocks>(acc, step % 2);
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

  // Of a new stage every block is loaded: the tile it belongs to may want more than the last one.
  SM80MOE_DEVICE void load_all_fragments(int buffer) { load_fragments<Config::kMmasM>(buffer, 0); }

  template <int kBlocks>
  SM80MOE_DEVICE void load_fragments(int buffer, int step) {
    const uint32_t stage = ring_ + slot_ * Loader::kStageBytes;
    const uint32_t a = ATile::advance_pairs(stage + a_lane_, step);
    const uint32_t w = WTile::advance_pairs(stage + w_lane_, step);
#pragma unroll
    for (int i = 0; i < kBlocks; ++i)
      ptx::ldmatrix_x4(a_frag_[buffer][i], a + i * kRowStep * ATile::kRowBytes);
#pragma unroll
    for (int j = 0; j < Config::kMmasN / 2; ++j)
      Weight::load_fragments(w_frag_[buffer][j], w + j * 16 * WTile::kRowBytes);
  }

  // Serpentine order: neighbouring mma share an operand, which the register cache then holds.
  template <int kBlocks>
  SM80MOE_DEVICE void multiply(Accumulator& acc, int buffer) {
#pragma unroll
    for (int i = 0; i < kBlocks; ++i)
#pragma unroll
      for (int column = 0; column < Config::kMmasN; ++column) {
        const int j = i % 2 == 0 ? column : Config::kMmasN - 1 - column;
        const uint32_t* b = w_frag_[buffer][j / 2] + j % 2 * 2;
        ptx::mma_m16n8k16(acc[i][j], a_frag_[buffer][i], b[0], b[1], T{});
      }
  }

  Loader& loader_;
  const uint32_t ring_;
  uint32_t a_lane_, w_lane_;
  int slot_ = 0;
  int stages_ahead_ = 0;  // issued and not yet multiplied
  uint32_t a_frag_[2][Config::kMmasM][4];
  uint32_t w_frag_[2][Config::kMmasN / 2][4];
};

}  // namespace sm80moe::gemm
