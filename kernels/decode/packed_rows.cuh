#pragma once
// Rows of packed weights. A chunk of them meets two or four of activations, which are read through
// L1, before the chunk is there: shared memory is for what DRAM sends.

#include "common/packed_words.cuh"
#include "common/stored_numbers.cuh"
#include "decode/row_stream.cuh"

namespace sm80moe::decode {

// What this lane's chunk of weights meets.
template <int kChunks>
class Activations {
 public:
  template <class Work>
  SM80MOE_DEVICE void begin(const Work& work, int pair, unsigned chunk) {
    next_ = work.activations(max_of(pair, 0)) + chunk * kChunks;
    num_chunks_ = work.activation_depth();
    has_pair_ = pair >= 0;
  }

  // Then the next is `stride` chunks of weights further on. A lane without a pair keeps what it
  // has: its sums are nobody's.
  SM80MOE_DEVICE void load(unsigned chunk, unsigned stride, bool may_end) {
    if (has_pair_) {
      if (may_end) {
#pragma unroll
        for (int i = 0; i < kChunks; ++i)
          chunks_[i] =
              chunk * kChunks + i < num_chunks_ ? ptx::ld_global_v4_b32(next_ + i) : uint4{};
      } else {
#pragma unroll
        for (int i = 0; i < kChunks; ++i) chunks_[i] = ptx::ld_global_v4_b32(next_ + i);
      }
    }
    next_ = ptx::worked_out(next_ + stride * kChunks);
  }
  SM80MOE_DEVICE const uint4& operator[](int i) const { return chunks_[i]; }

 private:
  const uint4* next_;
  unsigned num_chunks_;
  bool has_pair_;
  uint4 chunks_[kChunks] = {};
};

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
  // Chunks of weights that meet so many of activations.
  SM80MOE_HOST_DEVICE static constexpr unsigned depth(unsigned activation_chunks) {
    return ceil_div<unsigned>(activation_chunks, kActivationChunks);
  }

  // The arrays of a step: chunks of first and second rows, their scales and words of codes, each
  // only where a lane is the first that it belongs to: the same 4 bytes sent to every lane would
  // arrive one by one.
  static constexpr int kScales = 2 * kChunkArray, kCodes = kScales + 2 * kWordArray;
  static_assert(kCodes + 2 * kWordArray == kStepBytes);

  SM80MOE_DEVICE static unsigned group_of(const PackedArgs& packed, unsigned chunk) {
    return chunk * kChunkDepth >> packed.group_shift;
  }
  SM80MOE_DEVICE static bool has_codes(const PackedArgs& packed) {
    return Numbers::kHasCodes && packed.codes != nullptr;
  }
  // An mma adds up a quad's four chunks: they have one, two or four scales, and one word of codes.
  SM80MOE_DEVICE static int quad_lanes_of_group(const PackedArgs& packed) {
    return min_of(4u, (1u << packed.group_shift) / kChunkDepth);
  }
  // Where its first lane has a word.
  SM80MOE_DEVICE static uint32_t word_of_quad(const OwnPlaces& step) {
    return step.word & -static_cast<uint32_t>(sizeof(uint4));
  }

  // Of the first and the second row, as the quad's lane `leader` has them.
  SM80MOE_DEVICE static float2 scales(const OwnPlaces& step, int leader) {
    const uint32_t first = word_of_quad(step) + leader * sizeof(float) + kScales;
    return {ptx::ld_shared_f32(first), ptx::ld_shared_f32(first + kWordArray)};
  }

  // Lanes that copy nothing fill what nobody reads with zeros: no branch.
  class Beside {
   public:
    template <class Work>
    SM80MOE_DEVICE void begin_tile(const Work& work, unsigned expert, unsigned column,
                                   unsigned weight_chunks, int) {
      const PackedArgs& packed = work.packed();
      const unsigned first = work.packed_row(expert, column), second = first + packed.up_rows;
      const int lane = lane_index();
      first_scale_ = first_word(first, packed.groups);
      second_scale_ = first_word(second, packed.groups);
      scale_chunks_ = lane % quad_lanes_of_group(packed) == 0 ? weight_chunks : 0;
      if (!has_codes(packed)) return;
      first_codes_ = first_word(first, packed.code_words);
      second_codes_ = first_word(second, packed.code_words);
      code_chunks_ = lane % 4 == 0 ? weight_chunks : 0;
    }
    template <class Work>
    SM80MOE_DEVICE void copy(const Work& work, const OwnPlaces& step, unsigned chunk) const {
      const PackedArgs& packed = work.packed();
      const unsigned group = group_of(packed, chunk);
      if (Numbers::kHasGroupScales) copy_scales(packed, step, group, chunk < scale_chunks_);
      if (!has_codes(packed)) return;
      const unsigned word = to_word(group / 4);
      const bool valid = chunk < code_chunks_;
      ptx::cp_async_4(step.word + kCodes, packed.codes + (first_codes_ + word), valid);
      ptx::cp_async_4(step.word + kCodes + kWordArray, packed.codes + (second_codes_ + word),
                      valid);
    }
    SM80MOE_DEVICE void copy_activations(const OwnPlaces&, unsigned) const {}
    // Scales of rows are wanted when all of a tile is added up.
    template <class Work>
    SM80MOE_DEVICE void copy_last(const Work& work, const OwnPlaces& step) const {
      if (!Numbers::kHasGroupScales) copy_scales(work.packed(), step, 0, scale_chunks_ != 0);
    }

   private:
    SM80MOE_DEVICE void copy_scales(const PackedArgs& packed, const OwnPlaces& step, unsigned group,
                                    bool valid) const {
      const unsigned word = to_word(group);
      ptx::cp_async_4(step.word + kScales, packed.scale + (first_scale_ + word), valid);
      ptx::cp_async_4(step.word + kScales + kWordArray, packed.scale + (second_scale_ + word),
                      valid);
    }

    unsigned first_scale_, second_scale_;  // of this lane's rows, their first groups'
    unsigned first_codes_, second_codes_;
    unsigned scale_chunks_, code_chunks_;  // 0 where lanes copy none
  };

  class Products {
   public:
    template <class Work>
    SM80MOE_DEVICE void begin_tile(const Work& work, int pair, unsigned chunk) {
      activations_.begin(work, pair, chunk);
    }
    SM80MOE_DEVICE void load(unsigned chunk, unsigned stride, bool may_end) {
      activations_.load(chunk, stride, may_end);
    }

    // The stored numbers meet the tensor cores, and scales their sums.
    template <class Work>
    SM80MOE_DEVICE void add(const Work& work, const OwnPlaces& step, unsigned chunk,
                            float (&sums)[4]) const {
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

    // Of rows; where groups have scales, the sums have met them.
    SM80MOE_DEVICE void keep_scales(const OwnPlaces& step) {
      if (!Numbers::kHasGroupScales) row_scales_ = scales(step, 0);
    }
    SM80MOE_DEVICE float2 values(float first, float second) const {
      constexpr float kUnits = 1 / Numbers::kUnit;
      if (Numbers::kHasGroupScales) return {first * kUnits, second * kUnits};
      return {first * (row_scales_.x * kUnits), second * (row_scales_.y * kUnits)};
    }

   private:
    static constexpr int kMmas = 4 * Numbers::kParts;

    // In two chains, each of which waits for itself alone.
    SM80MOE_DEVICE void multiply(const uint32_t (&weights)[kMmas][4], bool has_turn,
                                 float (&sums)[4]) const {
      float others[4] = {};
#pragma unroll
      for (int i = 0; i < kMmas; ++i) {
        const uint4& x = activations_[i / 2];
        const uint32_t low = i % 2 == 0 ? x.x : x.z, high = i % 2 == 0 ? x.y : x.w;
        ptx::mma_m16n8k16(i % 2 == 0 ? sums : others, weights[i], has_turn ? low : 0,
                          has_turn ? high : 0, T{});
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] += others[i];
    }
    SM80MOE_DEVICE void add_group(const OwnPlaces& step, int leader,
                                  const uint32_t (&weights)[kMmas][4], bool has_turn,
                                  float (&sums)[4]) const {
      float products[4] = {};
      multiply(weights, has_turn, products);
      const float2 scale = scales(step, leader);
      sums[0] = fmaf(products[0], scale.x, sums[0]);
      sums[1] = fmaf(products[1], scale.x, sums[1]);
      sums[2] = fmaf(products[2], scale.y, sums[2]);
      sums[3] = fmaf(products[3], scale.y, sums[3]);
    }
    // Rows 0 to 7 of A are the first rows, 8 to 15 the second ones. Word j of a chunk holds what
    // meets words j of two chunks of activations a part.
    SM80MOE_DEVICE static void decode(const PackedArgs& packed, const OwnPlaces& step,
                                      unsigned chunk, uint32_t (&weights)[kMmas][4]) {
      uint32_t first_word = Numbers::kNoCodeWord, second_word = Numbers::kNoCodeWord;
      if (has_codes(packed)) {
        const uint32_t first = word_of_quad(step) + kCodes;
        const uint32_t both_halves = 0x4040 | (group_of(packed, chunk) & 3) * 0x0101;
        const auto code_word = [&](uint32_t address) {
          return Numbers::column_word(__byte_perm(ptx::ld_shared_b32(address), 0, both_halves));
        };
        first_word = code_word(first);
        second_word = code_word(first + kWordArray);
      }
      decode_row<0>(ptx::ld_shared_v4_b32(step.chunk), first_word, weights);
      decode_row<1>(ptx::ld_shared_v4_b32(step.chunk + kChunkArray), second_word, weights);
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

    Activations<kActivationChunks> activations_;
    float2 row_scales_;
  };
};

}  // namespace sm80moe::decode
