#pragma once
// The consumer side of the ring for int8 activations whose groups of columns have scales.

#include "common/int8.cuh"
#include "common/warp.cuh"
#include "gemm/element.cuh"
#include "gemm/mainloop.cuh"
#include "gemm/stage_loader.cuh"

namespace sm80moe::gemm {

// acc = sum over groups of A's scale * (A[rows, group] @ W[expert, columns, group].T), the products
// of a group exactly. Like Mainloop, but for the order: a block of rows meets a group's whole depth
// at once, so that integer sums are few, and soon become part of an accumulator. A group's weight
// fragments stay for all blocks; those of the next replace them during the last.
template <class Config, class T, class Weight, class Epilogue>
class GroupSumMainloop {
 public:
  using Loader = StageLoader<Config, T, Weight, Epilogue>;
  using ATile = typename Loader::ATile;
  using WTile = typename Loader::WTile;
  using Accumulator = float[Config::kMmasM][Config::kMmasN][4];

  SM80MOE_DEVICE GroupSumMainloop(const GroupedGemmArgs&, Loader& loader, uint32_t ring)
      : loader_(loader), ring_(ring), stage_(ring) {
    const int lane = lane_index(), warp = warp_index();
    a_lane_ = ATile::byte_offset(warp_row(warp) + lane % 16, lane / 16);
    w_lane_ = ATile::kBytes + Weight::template lane_offset<WTile>(warp_col(warp), lane);
    scales_lane_ = Loader::kRowScalesOffset + RowScales::offset(0, warp_row(warp) + lane / 4);

    // Invariant from here on: kStages - 1 stages are in flight, zeros when nothing is left to load.
#pragma unroll 1
    for (int stage = 0; stage < Config::kStages - 1; ++stage) {
      loader_.template issue<1>(0);
      commit_stage();
    }
    wait_for_stage();
    load_a(0, 0, 0);
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) load_w(pair, 0);
  }

  SM80MOE_DEVICE static int warp_row(int warp) { return warp / Config::kWarpsN * Config::kMmaM; }
  SM80MOE_DEVICE static int warp_col(int warp) { return warp % Config::kWarpsN * Config::kWarpN; }
  SM80MOE_DEVICE static int warp_k(int) { return 0; }

  // Adds up one tile of `num_k_tiles` stages. Blocks that hold none of its `rows` are not
  // multiplied.
  SM80MOE_DEVICE void run(int num_k_tiles, int rows, Accumulator& acc) {
    const int blocks = ceil_div(rows, Config::kRowsPerBlock);
#pragma unroll 1
    for (int k_tile = 0; k_tile < num_k_tiles; ++k_tile)
#pragma unroll
      for (int visit = 0; visit < kVisits; ++visit) run_visit(visit, blocks, acc);
  }

 private:
  using RowScales = RowScaleTile<Config, T>;
  static constexpr int kPairs = Config::kMmasN / 2;  // of 8-column blocks: what one ldmatrix loads
  static constexpr int kSteps = kInt8Group / 2 / Config::kMmaK;  // of a group
  static constexpr int kGroups = RowScales::kGroups;             // of a stage
  static_assert(Config::kWarpsK == 1, "groups are added up in their order");
  static_assert(kGroups % 2 == 0, "fragments of activations are double-buffered");

  // A block meets a group; kMmasM blocks meet it in turn.
  static constexpr int kVisits = kGroups * Config::kMmasM;  // a stage
  static constexpr int kColumns = Config::kMmasN / 2;       // whose sums exist together

  // What the next visit needs is loaded before the products: the branch around them, for blocks
  // without rows, keeps the compiler from loading it when it is needed.
  SM80MOE_DEVICE void run_visit(int visit, int blocks, Accumulator& acc) {
    const int group = visit / Config::kMmasM, block = visit % Config::kMmasM;
    const int next = (visit + 1) % kVisits, next_group = next / Config::kMmasM;
    float scale[2];
    load_scales(scale, group, block);
    if (next == 0) turn_stage();  // nothing of this one is left to load
    load_a(next % 2, next % Config::kMmasM, next_group);
    if (group == 0) loader_.template issue<Config::kMmasM>(block);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (block < blocks) add_products(acc[block], scale, visit % 2, half * kColumns);
      if (next_group == group) continue;
#pragma unroll
      for (int pair = half * kPairs / 2; pair < (half + 1) * kPairs / 2; ++pair)
        load_w(pair, next_group);
    }
  }

  // Of kColumns columns from `first` on. Integer sums are the bits of floats; see kIntegerAsFloat.
  SM80MOE_DEVICE void add_products(float (&acc)[Config::kMmasN][4], const float (&scale)[2],
                                   int buffer, int first) {
    constexpr int32_t kZeros[4] = {kIntegerAsFloatBits, kIntegerAsFloatBits, kIntegerAsFloatBits,
                                   kIntegerAsFloatBits};
    int32_t sums[kColumns][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const int column = first + i;
        const uint32_t* w = w_frag_[step][column / 2] + column % 2 * 2;
        if (step == 0)
          ptx::mma_m16n8k32(sums[i], a_frag_[buffer][step], w[0], w[1], kZeros);
        else
          ptx::mma_m16n8k32(sums[i], a_frag_[buffer][step], w[0], w[1]);
      }
#pragma unroll
    for (int i = 0; i < kColumns; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& to = acc[first + i][e];
        to = fmaf(scale[e / 2], __int_as_float(sums[i][e]) - kIntegerAsFloat, to);
      }
  }

  SM80MOE_DEVICE void load_scales(float (&scale)[2], int group, int block) const {
    const uint32_t first =
        stage_ + scales_lane_ + RowScales::offset(group, block * Config::kRowsPerBlock);
    scale[0] = ptx::ld_shared_f32(first);
    scale[1] = ptx::ld_shared_f32(first + RowScales::offset(0, 8));
  }
  SM80MOE_DEVICE void load_a(int buffer, int block, int group) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const uint32_t a = ATile::advance(stage_ + a_lane_, 2 * (group * kSteps + step));
      ptx::ldmatrix_x4(a_frag_[buffer][step], a + block * Config::kRowsPerBlock * ATile::kRowBytes);
    }
  }
  SM80MOE_DEVICE void load_w(int pair, int group) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const uint32_t w = WTile::advance(stage_ + w_lane_, 2 * (group * kSteps + step));
      Weight::load_fragments(w_frag_[step][pair], w + pair * 16 * WTile::kRowBytes);
    }
  }

  SM80MOE_DEVICE void turn_stage() {
    commit_stage();
    stage_ = Loader::next_stage(ring_, stage_);
    wait_for_stage();
  }
  SM80MOE_DEVICE void commit_stage() {
    loader_.advance();
    ptx::cp_async_commit();
  }
  SM80MOE_DEVICE static void wait_for_stage() {
    ptx::cp_async_wait<Config::kStages - 2>();
    __syncthreads();
  }

  Loader& loader_;
  const uint32_t ring_;
  uint32_t stage_;                          // being multiplied
  uint32_t a_lane_, w_lane_, scales_lane_;  // where in it this lane's first numbers are
  uint32_t a_frag_[2][kSteps][4];
  uint32_t w_frag_[kSteps][kPairs][4];
};

}  // namespace sm80moe::gemm
