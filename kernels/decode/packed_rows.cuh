#pragma once
// Rows of packed weights. A chunk of them meets two or four of activations, which are read through
// L1, before the chunk is there: shared memory is for what DRAM sends.

#include "common/packed_words.cuh"
#include "common/stored_numbers.cuh"
#include "decode/row_stream.cuh"

namespace sm80moe::decode {

// `Numbers` says what a chunk holds.
template <class T, class Numbers>
struct PackedRows {
  using Element = T;
  using Sum = float;
  static constexpr bool kScalesActivations = false;
  static constexpr int kActivationChunks = 2 * Numbers::kParts;
  static constexpr int kChunkDepth = kActivationChunks * kRowMultiple;  // weights of a chunk
  static constexpr bool kReadsActivations = true;
  static constexpr bool kLanesShare = true;  // scales and codes
  // Lanes read activations 32 or 64 bytes apart, which L1 serves slowly: half or three quarters of
  // them are spared it, and rows are still read 128 bytes at a time.
  static constexpr int kLog2Width = 2;

  // Beside the chunks their scales and words of codes, each only where a lane is the first that it
  // belongs to: the same 4 bytes sent to every lane would arrive one by one.
  struct Step {
    uint4 first[kWarpSize], second[kWarpSize];
    float first_scale[kWarpSize], second_scale[kWarpSize];
    uint32_t first_codes[kWarpSize], second_codes[kWarpSize];
  };

  SM80MOE_DEVICE static int group_of(const PackedArgs& packed, int chunk) {
    return chunk * kChunkDepth >> packed.group_shift;
  }
  // An mma adds up a quad's four chunks: they have one, two or four scales, and one word of codes.
  SM80MOE_DEVICE static int first_lane_of_quad() { return lane_index() & ~3; }
  SM80MOE_DEVICE static bool has_codes(const PackedArgs& packed) {
    return Numbers::kHasCodes && packed.codes != nullptr;
  }
  SM80MOE_DEVICE static int quad_lanes_of_group(const PackedArgs& packed) {
    return min_of(4u, (1u << packed.group_shift) / kChunkDepth);
  }

  class Beside {
   public:
    template <class Work>
    SM80MOE_DEVICE void begin_tile(const Work& work, int expert, int column, int) {
      const PackedArgs& packed = work.packed();
      const int first = work.packed_row(expert, column), second = first + packed.up_rows;
      const int lane = lane_index();
      first_scale_ = packed.scale + first_word(first, packed.groups);
      second_scale_ = packed.scale + first_word(second, packed.groups);
      copies_scales_ = lane % quad_lanes_of_group(packed) == 0;
      copies_codes_ = has_codes(packed) && lane % 4 == 0;
      if (!copies_codes_) return;
      first_codes_ = packed.codes + first_word(first, packed.code_words);
      second_codes_ = packed.codes + first_word(second, packed.code_words);
    }
    template <class Work>
    SM80MOE_DEVICE void copy(const Work& work, Step& step, int chunk, bool has_weights) const {
      const int lane = lane_index(), group = group_of(work.packed(), chunk);
      if (Numbers::kHasGroupScales && copies_scales_) copy_scales(step, group, has_weights);
      if (!Numbers::kHasCodes || !copies_codes_) return;
      const int word = to_word(group / 4);
      ptx::cp_async_4(ptx::shared_address(&step.first_codes[lane]), first_codes_ + word,
                      has_weights);
      ptx::cp_async_4(ptx::shared_address(&step.second_codes[lane]), second_codes_ + word,
                      has_weights);
    }
    // Scales of rows are wanted when all of a tile is added up.
    SM80MOE_DEVICE void copy_last(Step& step, bool has_row) const {
      if (!Numbers::kHasGroupScales && lane_index() % 4 == 0) copy_scales(step, 0, has_row);
    }

   private:
    SM80MOE_DEVICE void copy_scales(Step& step, int group, bool valid) const {
      const int lane = lane_index(), word = to_word(group);
      ptx::cp_async_4(ptx::shared_address(&step.first_scale[lane]), first_scale_ + word, valid);
      ptx::cp_async_4(ptx::shared_address(&step.second_scale[lane]), second_scale_ + word, valid);
    }

    const float *first_scale_, *second_scale_;  // of this lane's rows, their first groups'
    const uint32_t *first_codes_, *second_codes_;
    bool copies_scales_, copies_codes_;
  };

  class Products {
   public:
    template <class Work>
    SM80MOE_DEVICE void begin_tile(const Work& work, int pair) {
      activations_ = work.activations(max_of(pair, 0));
      activation_chunks_ = work.activation_depth();
      has_pair_ = pair >= 0;
      whole_chunks_ = has_pair_ ? activation_chunks_ / kActivationChunks : 0;
    }

    // A lane without a pair brings what it has: its sums are nobody's.
    SM80MOE_DEVICE void load(int chunk) {
      if (chunk < whole_chunks_) {
#pragma unroll
        for (int i = 0; i < kActivationChunks; ++i)
          keep(i, activations_[chunk * kActivationChunks + i]);
      } else if (has_pair_) {
        load_last(chunk * kActivationChunks);
      }
    }

    // The stored numbers meet the tensor cores, and scales their sums.
    template <class Work>
    SM80MOE_DEVICE void add(const Work& work, const Step& step, int chunk, float (&sums)[4]) const {
      const PackedArgs& packed = work.packed();
      uint32_t weights[kMmas][4];
      decode(packed, step, chunk, weights);
      if (!Numbers::kHasGroupScales) return multiply(weights, true, sums);
      const int lanes_of_group = quad_lanes_of_group(packed);
      if (lanes_of_group == 4) return add_group(step, 0, weights, true, sums);
      // Each group of the quad has its turn: lanes of the others bring zeros for activations.
#pragma unroll 1
      for (int leader = 0; leader < 4; leader += lanes_of_group)
        add_group(step, leader, weights, (lane_index() % 4 & -lanes_of_group) == leader, sums);
    }

    SM80MOE_DEVICE void finish(const Step& step, const float (&sums)[4], float (&values)[4]) const {
      constexpr float kUnits = 1 / Numbers::kUnit;
      const float2 scale = Numbers::kHasGroupScales ? float2{1, 1} : scales(step, 0);
      values[0] = sums[0] * (scale.x * kUnits);
      values[1] = sums[1] * (scale.x * kUnits);
      values[2] = sums[2] * (scale.y * kUnits);
      values[3] = sums[3] * (scale.y * kUnits);
    }

   private:
    static constexpr int kMmas = 4 * Numbers::kParts;

    SM80MOE_DEVICE void load_last(int begin) {
#pragma unroll
      for (int i = 0; i < kActivationChunks; ++i)
        keep(i, begin + i < activation_chunks_ ? activations_[begin + i] : uint4{});
    }
    // Words 2j and 2j + 1 of a chunk of activations are next to each other, where an mma wants
    // them.
    SM80MOE_DEVICE void keep(int i, const uint4& four) {
      const uint32_t words[] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) x_[i * 2 + j / 2][j % 2] = words[j];
    }

    // In two chains, each of which waits for itself alone.
    SM80MOE_DEVICE void multiply(const uint32_t (&weights)[kMmas][4], bool has_turn,
                                 float (&sums)[4]) const {
      float others[4] = {};
#pragma unroll
      for (int i = 0; i < kMmas; ++i)
        ptx::mma_m16n8k16(i % 2 == 0 ? sums : others, weights[i], has_turn ? x_[i][0] : 0,
                          has_turn ? x_[i][1] : 0, T{});
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] += others[i];
    }
    SM80MOE_DEVICE void add_group(const Step& step, int leader, const uint32_t (&weights)[kMmas][4],
                                  bool has_turn, float (&sums)[4]) const {
      float products[4] = {};
      multiply(weights, has_turn, products);
      const float2 scale = scales(step, leader);
      sums[0] = fmaf(products[0], scale.x, sums[0]);
      sums[1] = fmaf(products[1], scale.x, sums[1]);
      sums[2] = fmaf(products[2], scale.y, sums[2]);
      sums[3] = fmaf(products[3], scale.y, sums[3]);
    }
    // Of the first and the second row, as the quad's lane `leader` has them.
    SM80MOE_DEVICE static float2 scales(const Step& step, int leader) {
      const int lane = first_lane_of_quad() + leader;
      return {step.first_scale[lane], step.second_scale[lane]};
    }

    // Rows 0 to 7 of A are the first rows, 8 to 15 the second ones. Word j of a chunk holds what
    // meets words j of two chunks of activations a part.
    SM80MOE_DEVICE static void decode(const PackedArgs& packed, const Step& step, int chunk,
                                      uint32_t (&weights)[kMmas][4]) {
      const int lane = lane_index();
      uint32_t first_word = Numbers::kNoCodeWord, second_word = Numbers::kNoCodeWord;
      if (has_codes(packed)) {
        const int quad = first_lane_of_quad();
        const uint32_t both_halves = 0x4040 | (group_of(packed, chunk) & 3) * 0x0101;
        first_word = Numbers::column_word(__byte_perm(step.first_codes[quad], 0, both_halves));
        second_word = Numbers::column_word(__byte_perm(step.second_codes[quad], 0, both_halves));
      }
      decode_row<0>(step.first[lane], first_word, weights);
      decode_row<1>(step.second[lane], second_word, weights);
    }
    template <int kRow>
    SM80MOE_DEVICE static void decode_row(const uint4& four, uint32_t column_word,
                                          uint32_t (&weights)[kMmas][4]) {
      const uint32_t words[] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int part = 0; part < Numbers::kParts; ++part)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int mma = part * 4 + j / 2, at = kRow + j % 2 * 2;
          Numbers::decode(words[j], part, column_word, weights[mma][at], weights[mma + 2][at]);
        }
    }

    const uint4* activations_;
    int activation_chunks_, whole_chunks_;  // chunks of weights that meet no end of a row
    bool has_pair_;
    uint32_t x_[kMmas][2] = {};
  };
};

}  // namespace sm80moe::decode
