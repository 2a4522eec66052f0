#pragma once
// The consumer side of the ring: fragments, mma, and the order in which they overlap.

#include "common/warp.cuh"
#include "gemm/element.cuh"
#include "gemm/stage_loader.cuh"
#include "gemm/swapped_operands.cuh"

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
  using Accumulator = Sum<T>[Config::kMmasM][Config::kSumsN][4];

  SM80MOE_DEVICE Mainloop(const GroupedGemmArgs& args, Loader& loader, uint32_t ring)
      : loader_(loader), ring_(ring), stage_(ring), groups_(args, warp_col(warp_index())) {
    const int lane = lane_index(), warp = warp_index();
    // Where in a row this warp's share of the reduction starts.
    const int k_bytes = warp_k(warp) * Config::kWarpK * static_cast<int>(sizeof(T));
    constexpr int kRows = Config::kMmaM;  // of which ldmatrix deals out 32 / kRows chunks
    a_lane_ = ATile::byte_offset(warp_row(warp) + lane % kRows, lane / kRows) + k_bytes;
    w_lane_ = ATile::kBytes + Weight::template lane_offset<WTile>(warp_col(warp), lane) + k_bytes;
    static_assert(Config::kWarpsK == 1 || Config::kWarpK * sizeof(T) % 128 == 0,
                  "a warp's share of a row must be whole swizzle lines");

    // Invariant from here on: kStages - 1 groups are in flight. When there is nothing left to load
    // they carry zeros, so fragments may be loaded ahead of the last tile's end.
#pragma unroll 1
    for (int stage = 0; stage < Config::kStages - 1; ++stage) {
      loader_.template issue<1, Groups::kMayBeFine>(0);
      commit_stage();
      if (kTurns == Turns::kBetweenLoops) loader_.turn();
    }
    wait_for_stage();
    if (kTurns != Turns::kBetweenLoops) load_first_step(0);
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
    const int blocks = ceil_div(rows, Config::kRowsPerBlock);
    if constexpr (kTurns == Turns::kBetweenLoops) {
      for (KTiles k{0, 0, num_k_tiles}; k.next < num_k_tiles; k.next = k.end) {
        k.end = min_of(num_k_tiles, k.next + loader_.stages_before_turn());
        load_first_step(k.next * Config::kCtaK);
        run_until_turn(k, blocks, acc);
        loader_.turn();
      }
    } else {
      run_until_turn({0, num_k_tiles, num_k_tiles}, blocks, acc);
    }
  }

 private:
  static constexpr int kPairs = Config::kMmasN / 2;  // of 8-column blocks: what one ldmatrix loads
  static constexpr int kLastStep = Config::kMmasK - 1;
  using Groups = GroupTile<Config, Weight>;

  // Stages of a tile: from `next` to `end`, of `total`.
  struct KTiles {
    int next, end, total;
  };

  // What the loop over stages begins with. The loop before has loaded the same, but turning takes
  // the registers.
  SM80MOE_DEVICE void load_first_step(int depth) {
    load_w<0, 1>(0, 0);
    decode_w<0, 1>(0, 0, depth);
    load_a_from<0>();
  }

  SM80MOE_DEVICE void run_until_turn(const KTiles& k, int blocks, Accumulator& acc) {
    if constexpr (Groups::kMayBeFine)
      if (Groups::kIsFine || !groups_.stage_has_one())
        return run_blocks<Config::kMmasM, true>(k, blocks, acc);
    if constexpr (!Groups::kIsFine) run_blocks<Config::kMmasM, false>(k, blocks, acc);
  }

  // Fragments of the next step are loaded during a step. Those of the weights have two buffers, and
  // so have the activations' in small warp tiles. Large ones have mma enough to replace a block's
  // activations once its mma are issued, while the next block's are under way, by those of the
  // block that is kASlots further on; the tallest have fewer slots than blocks.
  static constexpr bool kInPlace = Config::kMmasM >= 4;
  static constexpr int kABuffers = kInPlace ? 1 : 2;
  static constexpr Turns kTurns = Weight::turns(Config::kTactic);
  static constexpr bool kSavesRegisters = Weight::saves_registers(Config::kTactic);
  static constexpr int kASlots = !kInPlace || Config::kMmasM == 5 ? Config::kMmasM
                                 : kSavesRegisters                ? 2
                                                                  : 4;

  static constexpr int kStepsPerA = 16 / Config::kMmaM;  // that a load of activations lasts

  // Of so many blocks those whose activations are there before a step begins.
  static constexpr int ahead(int blocks) { return min_of(kASlots, blocks) - 1; }

  // Where a block's activations are. More blocks than slots take them in turns, from step to step.
  template <int kBlocks>
  static constexpr int slot(int block, int step) {
    static_assert(kBlocks <= kASlots || Config::kMmasK * kBlocks % kASlots == 0,
                  "each stage must begin with slot 0");
    return kBlocks <= kASlots ? block : (step * kBlocks + block) % kASlots;
  }

  // What the loop after that for so many blocks is for; 0 if it is the last.
  static constexpr int fewer_blocks(int blocks) {
    return Weight::kIsPacked ? fewer_packed_blocks(Config::kMmasM, blocks) : blocks - 1;
  }

  // With kIsFine a stage may hold several groups: a loop of its own, so that the others' code stays
  // short. Where registers are few, it is one for all numbers of blocks.
  template <int kBlocks, bool kIsFine>
  SM80MOE_DEVICE void run_blocks(const KTiles& k, int blocks, Accumulator& acc) {
    constexpr bool kIsOnly = kIsFine && Weight::has_one_fine_loop(Config::kTactic);
    constexpr int kFewer = kIsOnly ? 0 : fewer_blocks(kBlocks);
    if constexpr (kFewer > 0)
      if (blocks <= kFewer) return run_blocks<kFewer, kIsFine>(k, blocks, acc);
    Accumulator group = {};  // where groups are added up by themselves
    Accumulator& sums = Groups::kHasGroupSums ? group : acc;
#pragma unroll 1
    for (int k_tile = k.next; k_tile < k.end; ++k_tile) {
      const int depth = k_tile * Config::kCtaK;
      if constexpr (rolls_steps(kIsFine)) {
        most_steps_rolled<kBlocks>(sums, depth);
      } else {
#pragma unroll
        for (int step = 0; step < kLastStep; ++step) {
          inner_step<kBlocks, kIsFine>(sums, step, depth);
          if (ends_group(step, kIsFine)) groups_.template add_group<kBlocks>(acc, sums);
        }
      }
      last_step<kBlocks>(sums, k_tile + 1 < k.total ? depth + Config::kCtaK : 0);
      groups_.template add_group<kBlocks>(acc, sums);
    }
  }

  // Whether the steps between a stage's first two and its last two are a loop. What a loop carries
  // from step to step cannot be put off: else ptxas, to save registers, makes 4-bit weights'
  // fragments right before their mma, which then wait for each other in turns. (Tiles of 32 rows
  // have no register left for the loop on sm_80.)
  static constexpr bool rolls_steps(bool is_fine) {
    return Weight::kBits == 4 && Config::kCtaK == 128 && Config::kMmasM > 2 && !is_fine;
  }

  // All but the last.
  template <int kBlocks>
  SM80MOE_DEVICE void most_steps_rolled(Accumulator& acc, int depth) {
    static_assert(Weight::kParts == 2 && Groups::kParts == 1, "two steps must be like all others");
    inner_step<kBlocks, false>(acc, 0, depth);
    inner_step<kBlocks, false>(acc, 1, depth);
#pragma unroll 1
    for (int step = 2; step < kLastStep - 1; step += 2) {
      multiply_step<kBlocks, false, true>(acc, step, depth, [](int) {});
      multiply_step<kBlocks, false, true>(acc, step + 1, depth, [](int) {});
    }
    inner_step<kBlocks, false>(acc, kLastStep - 1, depth);
  }

  // A step is 16 deep. Block after block of 16 rows meets all of the warp's columns; fragment loads
  // are dealt out between the blocks and copies between the steps, so that neither the tensor cores
  // nor shared memory wait for a burst of the other.
  template <int kBlocks, bool kIsFine>
  SM80MOE_DEVICE void inner_step(Accumulator& acc, int step, int depth) {
    if (ends_group(step + 1, kIsFine))
      groups_.read_scales(stage_ + Loader::kGroupsOffset, Groups::slice_of(step, kIsFine));
    if constexpr (Groups::kChangesUnits) {
      const uint32_t groups = stage_ + Loader::kGroupsOffset;
      const int slice = Groups::slice_of(step, kIsFine), k = depth + step * Config::kMmaK;
      if (begins_slice(step, kIsFine) && groups_.changes_units_at(k)) {
        const auto ratios = groups_.read_ratios(groups, slice);
        // In a step of its own, whose mma keep the tensor cores busy meanwhile. There would be too
        // many of them where many groups begin in a stage.
        if constexpr (!kIsFine && Weight::changes_units_in_step(Config::kTactic)) {
          return multiply_step<kBlocks, kIsFine>(
              acc, step, depth, [&](int block) { groups_.change_units(acc[block], ratios); });
        } else {
#pragma unroll
          for (int block = 0; block < kBlocks; ++block) groups_.change_units(acc[block], ratios);
        }
      }
    }
    multiply_step<kBlocks, kIsFine>(acc, step, depth, [](int) {});
  }

  // With kIsMiddle neither copies nor groups begin.
  template <int kBlocks, bool kIsFine, bool kIsMiddle = false, class Before>
  SM80MOE_DEVICE void multiply_step(Accumulator& acc, int step, int depth, const Before& before) {
    constexpr int kAhead = ahead(kBlocks);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      before(block);
      load_w<0, kBlocks>(block, step + 1);
      if (!kInPlace)
        load_a<kBlocks>(block, step + 1);
      else
        load_a<kBlocks>((block + kAhead) % kBlocks, step + (block + kAhead) / kBlocks);
      if (!kIsMiddle) issue_copies<kBlocks, kIsFine>(step, block);
      multiply<kBlocks>(acc, block, step);
      decode_w<0, kBlocks, kIsFine, kIsMiddle>(block, step + 1, depth);
    }
  }

  // Whether groups may begin with this step of a stage, and whether they may end after it.
  static constexpr bool begins_slice(int step, bool is_fine) {
    return step % Groups::steps(is_fine) == 0;
  }
  static constexpr bool ends_group(int step, bool is_fine) {
    return Groups::kHasGroupSums && begins_slice(step + 1, is_fine);
  }

  // Copies go out in groups of neighbours, since each change between copies and fragment loads
  // costs issue slots, but small ones, since each copy needs an address. Where packed weights meet
  // few rows issue slots are what is short, and time until the ring has run dry: copies of a stage
  // go out with its first steps, as many at once as there are registers for; and so they do where
  // most steps are a loop.
  template <int kBlocks, bool kIsFine>
  SM80MOE_DEVICE void issue_copies(int step, int block) {
    constexpr bool kIsSmall =
        Config::kMmasM == 1 || (Config::kMmasM == 2 && !Groups::kHasGroupSums);
    if constexpr (rolls_steps(kIsFine)) {
      if (step < 2) loader_.template issue<2 * kBlocks, kIsFine>(step * kBlocks + block);
      return;
    }
    if constexpr (Weight::kIsPacked && kIsSmall) {
      constexpr int kParts = Config::kCtaK > 128 ? 3 : Config::kMmasM;
      if (step < kParts && block == kBlocks - 1) loader_.template issue<kParts, kIsFine>(step);
      return;
    }
    constexpr int kGroups = ceil_div(Loader::kCopies, kLastStep * 5);  // a step
#pragma unroll
    for (int group = 0; group < kGroups; ++group)
      if (block == ceil_div((group + 1) * kBlocks, kGroups) - 1)
        loader_.template issue<kLastStep * kGroups, kIsFine>(step * kGroups + group);
  }

  // The last step turns to the next stage, at `next_depth`, when nothing of this one is left to
  // load.
  template <int kBlocks>
  SM80MOE_DEVICE void last_step(Accumulator& acc, int next_depth) {
    constexpr int kBlocksBefore = kInPlace ? kBlocks - ahead(kBlocks) : 0;
#pragma unroll
    for (int block = 0; block < kBlocksBefore; ++block) {
      load_a<kBlocks>(block + ahead(kBlocks), kLastStep);
      multiply<kBlocks>(acc, block, kLastStep);
    }
    commit_stage();
    stage_ = Loader::next_stage(ring_, stage_);
    wait_for_stage();
    if constexpr (kBlocks > kBlocksBefore) {
#pragma unroll
      for (int block = kBlocksBefore; block < kBlocks; ++block) {
        load_w<kBlocksBefore, kBlocks>(block, 0);
        load_a<kBlocks>(block - kBlocksBefore, 0);
        multiply<kBlocks>(acc, block, kLastStep);
        decode_w<kBlocksBefore, kBlocks>(block, 0, next_depth);
      }
    } else {
      load_w<0, 1>(0, 0);
      decode_w<0, 1>(0, 0, next_depth);
    }
    // The tile that the new stage belongs to may have more blocks than this one.
    load_a_from<kBlocks - kBlocksBefore>();
  }

  SM80MOE_DEVICE void commit_stage() {
    loader_.advance();
    ptx::cp_async_commit();
    if (kTurns == Turns::kInLoop) loader_.turn();
  }

  // After this the oldest stage has landed for every thread, and every warp has read the last
  // fragments of the stage before it, whose slot may be overwritten.
  SM80MOE_DEVICE static void wait_for_stage() {
    ptx::cp_async_wait<Config::kStages - 2>();
    __syncthreads();
  }

  // This block's share, of blocks kBegin to kEnd, of the weight fragments of `step`. Packed weights
  // come at once, as they are stored.
  template <int kBegin, int kEnd>
  SM80MOE_DEVICE void load_w(int block, int step) {
    constexpr int kShares = kEnd - kBegin;
    const int share = block - kBegin;
    if constexpr (Weight::kIsPacked) {
      if (share > 0 || step % Weight::kParts != 0) return;
#pragma unroll
      for (int four = 0; four < kPairs / 2; ++four) {
        const uint32_t w = WTile::advance(stage_ + w_lane_, step / Weight::kParts);
        Weight::load_raw(w_raw_[four], w + four * 32 * WTile::kRowBytes);
      }
    } else {
#pragma unroll
      for (int pair = share * kPairs / kShares; pair < (share + 1) * kPairs / kShares; ++pair) {
        const uint32_t w = WTile::advance(stage_ + w_lane_, 2 * step);
        Weight::load_fragments(w_frag_[step % 2][pair], w + pair * 16 * WTile::kRowBytes);
      }
    }
  }

  // The block's share of making fragments of packed weights, after its mma: they are issued, and
  // the tensor cores are busy with them. The stage begins at `depth`.
  template <int kBegin, int kEnd, bool kIsFine = false, bool kIsMiddle = false>
  SM80MOE_DEVICE void decode_w(int block, int step, int depth) {
    if constexpr (Weight::kIsPacked) {
      constexpr int kShares = kEnd - kBegin;
      const int share = block - kBegin;
      if (!kIsMiddle && share == 0 && begins_slice(step, kIsFine))
        groups_.read_codes(stage_ + Loader::kGroupsOffset, Groups::slice_of(step, kIsFine),
                           depth + step * Config::kMmaK);
#pragma unroll
      for (int i = share * kPairs / kShares * 2; i < (share + 1) * kPairs / kShares * 2; ++i) {
        uint32_t* w = w_frag_[step % 2][i / 2] + i % 2 * 2;
        Weight::decode(w_raw_[i / 4][i % 4], step % Weight::kParts, groups_.column_word(i), w[0],
                       w[1]);
      }
    }
  }

  template <int kBlocks>
  SM80MOE_DEVICE void load_a(int block, int step) {
    if (step % kStepsPerA != 0) return;
    const uint32_t a = ATile::advance(stage_ + a_lane_, 2 * step);
    ptx::ldmatrix_x4(a_frag_[a_buffer(step)][slot<kBlocks>(block, step)],
                     a + block * Config::kRowsPerBlock * ATile::kRowBytes);
  }

  // Activation fragments of a stage's first step, for the blocks from kFirst on.
  template <int kFirst>
  SM80MOE_DEVICE void load_a_from() {
#pragma unroll
    for (int block = kFirst; block < kASlots; ++block) load_a<kASlots>(block, 0);
  }

  static constexpr int a_buffer(int step) { return step / kStepsPerA % kABuffers; }

  // Neighbouring blocks walk the columns in opposite directions and so share an operand.
  template <int kBlocks>
  SM80MOE_DEVICE void multiply(Accumulator& acc, int block, int step) {
    const auto& a = a_frag_[a_buffer(step)][slot<kBlocks>(block, step)];
    if constexpr (Config::kSwapsOperands) {
      multiply_swapped<T>(acc[block], w_frag_[step % 2], a + step % kStepsPerA * 2);
    } else {
#pragma unroll
      for (int i = 0; i < Config::kMmasN; ++i) {
        const int column = block % 2 == 0 ? i : Config::kMmasN - 1 - i;
        const uint32_t* w = w_frag_[step % 2][column / 2] + column % 2 * 2;
        multiply_add(acc[block][column], a, w[0], w[1], T{});
      }
    }
  }

  Loader& loader_;
  const uint32_t ring_;
  uint32_t stage_;            // being multiplied
  uint32_t a_lane_, w_lane_;  // where in it this lane's first fragments are
  uint32_t a_frag_[kABuffers][kASlots][4];
  uint32_t w_frag_[2][kPairs][4];
  GroupReader<Config, Weight, typename Loader::Columns> groups_;
  uint32_t w_raw_[Weight::kIsPacked ? kPairs / 2 : 1][4];
};

}  // namespace sm80moe::gemm
