#pragma once
// Scales and codes that groups of neighbours along the reduction share, from the ring to where they
// are used.
//
// Weights meet the tensor cores as the exact numbers that are stored; scales multiply fp32 sums.
// Tiles of few rows add up each group by itself, and then what its scale makes of that. Taller ones
// have no registers for it: their accumulators are kept in units of the current group's scale and
// change units where a group begins, so that the last group's scale is left for the epilogue.

#include "common/numeric.cuh"
#include "common/packed_words.cuh"
#include "common/ptx.cuh"
#include "common/warp.cuh"
#include "gemm/column_order.cuh"
#include "gemm/problem.h"

namespace sm80moe::gemm {

// The weight row, counted over all experts, of a column or of its up row.
SM80MOE_DEVICE int packed_row(const GroupedGemmArgs& args, const TileColumns& columns, int expert,
                              int column, bool is_up) {
  const PackedArgs& packed = args.packed;
  const int row = packed.first_row + (column + is_up * columns.up) * packed.row_step;
  return expert * args.n + row + is_up * packed.up_rows;
}

// Groups are whole slices. A weight row's words of a stage: of each slice the scale of its group,
// before it that of the group before where accumulators change units; and of each part a word of
// codes, which holds those of all its groups.
template <class Config, class Weight>
struct GroupTile {
  static constexpr int kSliceDepth = 32;
  static constexpr int kSlices = Config::kCtaK / kSliceDepth;
  // What groups that are as deep, or deeper, have one scale and one word of codes for.
  static constexpr int kPartDepth = min_of(Config::kCtaK, 128);
  static constexpr int kParts = Config::kCtaK / kPartDepth;
  // Whether groups are added up by themselves.
  static constexpr bool kHasGroupSums = Weight::kHasGroupScales && Config::kHasGroupSums;
  static constexpr bool kChangesUnits = Weight::kHasGroupScales && !kHasGroupSums;
  static constexpr int kScalesPerSlice = kHasGroupSums ? 1 : kChangesUnits ? 2 : 0;
  static constexpr int kCodeWord = kScalesPerSlice * kSlices;
  static constexpr int kWords = kCodeWord + (Weight::kHasCodes ? kParts : 0);
  static constexpr int kBytes = kWords * Config::kCtaN * 4;
  // Whether a part of a stage may hold several groups, and whether it always does.
  static constexpr bool kMayBeFine = kWords > 0 && Weight::kLeastGroup < kPartDepth;
  static constexpr bool kIsFine = kMayBeFine && Weight::kMostGroup < kPartDepth;
  // Whether each slice is a group, whose code there always is.
  static constexpr bool kSlicesAreGroups = Weight::kHasCodes && Weight::kMostGroup == kSliceDepth;

  // Steps for which a scale and a code are good, and the slice and part to which a step's belong.
  static constexpr int steps(bool is_fine) {
    return (is_fine ? kSliceDepth : kPartDepth) / Config::kMmaK;
  }
  static constexpr int slice_of(int step, bool is_fine) {
    return step / steps(is_fine) * steps(is_fine) * Config::kMmaK / kSliceDepth;
  }

  // Words lie in an order of rows in which a warp copies those of neighbours: with_neighbours().
  SM80MOE_DEVICE static int offset(int word, int place) {
    return (word * Config::kCtaN + place) * 4;
  }
  // Then a part has scales of its first slice at most.
  SM80MOE_DEVICE static bool has_one_group(const PackedArgs& args) {
    return 1u << args.group_shift >= static_cast<unsigned>(kPartDepth);
  }
};

// Whether a group begins at depth k. In a row of one group, whose shift is 31, only at its start.
SM80MOE_DEVICE bool begins_group(const PackedArgs& args, int k) {
  return (k & ((1u << args.group_shift) - 1)) == 0;
}
// Whether there are sums over what comes before k that must change units.
SM80MOE_DEVICE bool changes_units(const PackedArgs& args, int k, int end) {
  return k > 0 && k < end && begins_group(args, k);
}

// The producer's side: the words of a tile row, by the thread of their place. Where the tile has
// more rows than threads, each has several that are so far apart.
template <class Config, class Weight>
class GroupLoader {
 public:
  using Tile = GroupTile<Config, Weight>;
  static constexpr int kRows = ceil_div(Config::kCtaN, Config::kThreads);  // of a thread
  SM80MOE_DEVICE static int place(int i, unsigned thread = threadIdx.x) {
    return thread + i * Config::kThreads;
  }

  // `row` is the weight row whose words go to place(i), counted over all experts, or kNoRow.
  static constexpr int kNoRow = -1;
  SM80MOE_DEVICE void enter_row(const PackedArgs& args, int i, int row) {
    row_[i] = row;
    if (Tile::kHasGroupSums) scale_[i] = args.scale + first_word(row, args.groups);
  }
  SM80MOE_DEVICE void leave_rows() {
    for (int& row : row_) row = kNoRow;
  }

  // Copies what the stage at depth k0, of `end`, needs; zeros where there is no row. Without
  // kIsFine the stage has scales of its first slice at most.
  template <bool kIsFine>
  SM80MOE_DEVICE void issue(const PackedArgs& args, uint32_t tile, int k0, int end) const {
    if (Config::kThreads > Config::kCtaN && threadIdx.x >= Config::kCtaN) return;
    if constexpr (Tile::kHasGroupSums) copy_scales<kIsFine>(args, tile, k0, end);
    if constexpr (Tile::kChangesUnits) copy_both_scales<kIsFine>(args, tile, k0, end);
    if constexpr (Weight::kHasCodes) copy_codes(args, tile, k0);
  }

 private:
  // What comes once a stage at most is a loop nevertheless: of an `if` ptxas makes instructions
  // without effect, which take their turn in every stage. Tall tiles, where they count for less,
  // have no registers for it, nor have those of 32 rows.
  static constexpr bool kBranches = Config::kMmasM * Config::kMmasN < 32 && Config::kMmasM != 2;

  // Copies a word of each row, from where `source` says that it is.
  template <class Source>
  SM80MOE_DEVICE void copy(uint32_t tile, int word, bool valid, const Source& source) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      ptx::cp_async_4(tile + Tile::offset(word, place(i)), source(i), row_[i] != kNoRow && valid);
  }

  template <bool kIsFine>
  SM80MOE_DEVICE void copy_scales(const PackedArgs& args, uint32_t tile, int k0, int end) const {
    const auto copy_slice = [&](int slice) {
      const int k = k0 + slice * Tile::kSliceDepth;
      copy(tile, slice, k < end, [&](int i) { return scale_[i] + to_word(k >> args.group_shift); });
    };
    if (kIsFine && !Tile::has_one_group(args)) {
#pragma unroll 1
      for (int slice = 0; slice < Tile::kSlices; ++slice) copy_slice(slice);
    } else {
#pragma unroll
      for (int part = 0; part < Tile::kParts; ++part)
        copy_slice(part * (Tile::kPartDepth / Tile::kSliceDepth));
    }
  }

  template <bool kIsFine>
  SM80MOE_DEVICE void copy_both_scales(const PackedArgs& args, uint32_t tile, int k0,
                                       int end) const {
    const auto copy_slice = [&](int slice) {
      const int k = k0 + slice * Tile::kSliceDepth;
      const auto scale = [&](int i) {
        return args.scale + first_word(row_[i], args.groups) + to_word(k >> args.group_shift);
      };
      copy(tile, 2 * slice, true, [&](int i) { return scale(i) - to_word(1); });
      copy(tile, 2 * slice + 1, true, scale);
    };
    if constexpr (kBranches) {
      const uint32_t group = 1u << args.group_shift;
      const uint32_t stage_end = min_of(k0 + Config::kCtaK, end);
#pragma unroll 1
      for (uint32_t k = (max_of(k0, 1) + group - 1) & -group; k < stage_end; k += group)
        copy_slice((k - k0) / Tile::kSliceDepth);
    } else {
      if (changes_units(args, k0, end)) copy_slice(0);
      if (kIsFine && !Tile::has_one_group(args))
#pragma unroll 1
        for (int slice = 1; slice < Tile::kSlices; ++slice)
          if (changes_units(args, k0 + slice * Tile::kSliceDepth, end)) copy_slice(slice);
    }
  }

  SM80MOE_DEVICE void copy_codes(const PackedArgs& args, uint32_t tile, int k0) const {
    const auto copy_words = [&] {
#pragma unroll
      for (int part = 0; part < Tile::kParts; ++part) {
        const uint32_t word = (k0 + part * Tile::kPartDepth) >> args.group_shift >> 2;
        copy(tile, Tile::kCodeWord + part, word < static_cast<uint32_t>(args.code_words),
             [&](int i) {
               return args.codes + first_word(row_[i], args.code_words) + to_word(word);
             });
      }
    };
    if constexpr (kBranches && Weight::kHasGroupScales) {  // with them codes are rare
      const uint32_t words = args.code_words;
#pragma unroll 1
      for (uint32_t i = 0; i < words; i += words) copy_words();
    } else if (args.codes != nullptr) {
      copy_words();
    }
  }

  int row_[kRows];
  const float* scale_[kRows];  // where those of a row begin
};

// The consumer's side, of one warp.
template <class Config, class Weight, class Columns>
class GroupReader {
 public:
  using Tile = GroupTile<Config, Weight>;

  // `warp_row` is the warp's first tile row.
  SM80MOE_DEVICE GroupReader(const GroupedGemmArgs& args, int warp_row)
      : args_(args), warp_row_(warp_row) {
#pragma unroll
    for (uint32_t& words : column_) words = Weight::kNoCodeWord;
  }

  SM80MOE_DEVICE bool stage_has_one() const { return Tile::has_one_group(args_.packed); }

  // Before fragments of the stage's slice number `slice` are made, which is at depth k.
  SM80MOE_DEVICE void read_codes(uint32_t tile, int slice, int k) {
    if constexpr (Weight::kHasCodes) {
      if (!Tile::kSlicesAreGroups &&
          (args_.packed.codes == nullptr || !begins_group(args_.packed, k)))
        return;
      const int part = slice * Tile::kSliceDepth / Tile::kPartDepth;
      const int byte = kKeepsCodes ? slice % 4 : k >> args_.packed.group_shift & 3;
      const auto word_of = [&](int mma) {
        uint32_t& codes = codes_[kKeepsCodes ? mma : 0];
        const int row = place(mma, lane_index() / 4);  // of this lane's fragments
        if (!kKeepsCodes || slice % 4 == 0)
          codes = ptx::ld_shared_b32(tile + Tile::offset(Tile::kCodeWord + part, row));
        return Weight::column_word(__byte_perm(codes, 0, 0x4040 | byte * 0x0101));
      };
#pragma unroll
      for (int i = 0; i < kColumnWords; ++i)
        column_[i] =
            kSharesWords ? __byte_perm(word_of(2 * i), word_of(2 * i + 1), 0x5410) : word_of(i);
    }
  }

  // What a format makes of the code of the row that this lane's fragments of `mma` are of.
  SM80MOE_DEVICE uint32_t column_word(int mma) const {
    if (!Weight::kHasCodes) return Weight::kNoCodeWord;
    if (!kSharesWords) return column_[mma];
    return mma % 2 == 0 ? both_low(column_[mma / 2]) : both_high(column_[mma / 2]);
  }

  // The scales of the stage's slice number `slice`, and what they make of the sums of a group,
  // which then begin anew.
  SM80MOE_DEVICE void read_scales(uint32_t tile, int slice) {
    if constexpr (Tile::kHasGroupSums) {
#pragma unroll
      for (int mma = 0; mma < Config::kMmasN; ++mma) {
        const int lane = lane_index();
        const uint32_t scales =
            tile +
            Tile::offset(slice, place(mma, Config::kSwapsOperands ? lane / 4 : lane % 4 * 2));
        if constexpr (Config::kSwapsOperands)
          scale_[mma].x = ptx::ld_shared_f32(scales);
        else
          scale_[mma] = ptx::ld_shared_v2_f32(scales);
      }
    }
  }
  template <int kBlocks, class Sum>
  SM80MOE_DEVICE void add_group(Sum (&acc)[Config::kMmasM][Config::kSumsN][4],
                                Sum (&group)[Config::kMmasM][Config::kSumsN][4]) const {
    if constexpr (Tile::kHasGroupSums) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block)
#pragma unroll
        for (int mma = 0; mma < Config::kSumsN; ++mma)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float scale = scale_of(mma, e);
            acc[block][mma][e] = fmaf(group[block][mma][e], scale, acc[block][mma][e]);
            group[block][mma][e] = 0;
          }
    }
  }

  // Whether sums must change units before those of the slice at depth k; by what, from the stage's
  // slice of that number; and the change, for a block of rows.
  SM80MOE_DEVICE bool changes_units_at(int k) const {
    return changes_units(args_.packed, k, args_.k);
  }
  struct Ratios {
    float2 of_mma[Config::kMmasN];
  };
  SM80MOE_DEVICE Ratios read_ratios(uint32_t tile, int slice) const {
    Ratios ratios;
#pragma unroll
    for (int mma = 0; mma < Config::kMmasN; ++mma) {
      const int row = place(mma, lane_index() % 4 * 2);
      const float2 before = ptx::ld_shared_v2_f32(tile + Tile::offset(2 * slice, row));
      const float2 now = ptx::ld_shared_v2_f32(tile + Tile::offset(2 * slice + 1, row));
      ratios.of_mma[mma] = {before.x * ptx::rcp_approx(now.x), before.y * ptx::rcp_approx(now.y)};
    }
    return ratios;
  }
  template <class Sum>
  SM80MOE_DEVICE static void change_units(Sum (&block)[Config::kMmasN][4], const Ratios& ratios) {
#pragma unroll
    for (int mma = 0; mma < Config::kMmasN; ++mma)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        block[mma][e] *= e % 2 == 0 ? ratios.of_mma[mma].x : ratios.of_mma[mma].y;
  }

 private:
  // That of the weight row to which sum e of an mma belongs.
  SM80MOE_DEVICE float scale_of(int mma, int e) const {
    if (Config::kSwapsOperands) return scale_[2 * mma + e / 2].x;
    return e % 2 == 0 ? scale_[mma].x : scale_[mma].y;
  }

  // Where words of a row of an mma's columns are.
  SM80MOE_DEVICE int place(int mma, int row) const {
    return warp_row_ + Columns::with_neighbours(mma * 8) + Columns::with_neighbours(row);
  }

  // Both halves of a word are the same, so two can share one where registers are few.
  static constexpr bool kSharesWords = Config::kMmasN > 4;
  static constexpr int kColumnWords = kSharesWords ? Config::kMmasN / 2 : Config::kMmasN;

  // The word that four slices' codes are in, where there are registers for it.
  static constexpr bool kKeepsCodes = Tile::kSlicesAreGroups && Tile::kPartDepth == 128;

  const GroupedGemmArgs& args_;
  const int warp_row_;
  uint32_t codes_[kKeepsCodes ? Config::kMmasN : 1];
  uint32_t column_[Weight::kHasCodes ? kColumnWords : 1];
  float2 scale_[Tile::kHasGroupSums ? Config::kMmasN : 1];
};

}  // namespace sm80moe::gemm
