#pragma once
// Rows of packed weights. A chunk of them meets two or four of activations, which are read through
// L1 when they are wanted: shared memory is for what DRAM sends.

#include "common/stored_numbers.cuh"
#include "decode/row_stream.cuh"

namespace sm80moe::decode {

// `Numbers` says what a chunk holds.
template <class T, class Numbers>
struct PackedRows {
  using Element = T;
  static constexpr int kActivationChunks = 2 * Numbers::kParts;
  static constexpr int kChunkDepth = kActivationChunks * kRowMultiple;  // weights of a chunk
  static constexpr bool kReadsActivations = true;

  // Beside each chunk the scale of its group, and the word of codes that has the group's.
  struct Step {
    uint4 first[kWarpSize], second[kWarpSize];
    float first_scale[kWarpSize], second_scale[kWarpSize];
    uint32_t first_codes[kWarpSize], second_codes[kWarpSize];
  };

  SM80MOE_DEVICE static int code_group(const PackedArgs& packed, int chunk) {
    return chunk * kChunkDepth >> packed.group_shift;
  }
  SM80MOE_DEVICE static int scale_group(const PackedArgs& packed, int chunk) {
    return Numbers::kHasGroupScales ? code_group(packed, chunk) : 0;
  }

  class Beside {
   public:
    template <class Work>
    SM80MOE_DEVICE void begin_tile(const Work& work, int expert, int column, int) {
      row_ = work.packed_row(expert, column);
    }
    template <class Work>
    SM80MOE_DEVICE void copy(const Work& work, Step& step, int chunk, bool has_weights) const {
      const PackedArgs& packed = work.packed();
      const int lane = lane_index();
      const float* scale =
          packed.scale + int64_t{row_} * packed.groups + scale_group(packed, chunk);
      ptx::cp_async_4(ptx::shared_address(&step.first_scale[lane]), scale, has_weights);
      ptx::cp_async_4(ptx::shared_address(&step.second_scale[lane]),
                      scale + int64_t{packed.up_rows} * packed.groups, has_weights);
      if (!Numbers::kHasCodes || packed.codes == nullptr) return;
      const uint8_t* codes =
          packed.codes + int64_t{row_} * packed.code_bytes + (code_group(packed, chunk) & ~3);
      ptx::cp_async_4(ptx::shared_address(&step.first_codes[lane]), codes, has_weights);
      ptx::cp_async_4(ptx::shared_address(&step.second_codes[lane]),
                      codes + int64_t{packed.up_rows} * packed.code_bytes, has_weights);
    }

   private:
    int row_;  // of the first weights, counted over all experts from the first column's
  };

  class Products {
   public:
    template <class Work>
    SM80MOE_DEVICE void begin_tile(const Work& work, int pair) {
      activations_ = work.activations(max_of(pair, 0));
      activation_chunks_ = pair >= 0 ? work.activation_depth() : 0;
    }

    // The stored numbers meet the tensor cores, and scales their sums. A quad's four chunks, which
    // an mma adds up, may be of several groups: then each of these has its turn, in which other
    // lanes bring zeros for activations.
    template <class Work>
    SM80MOE_DEVICE void add(const Work& work, const Step& step, int chunk, float (&sums)[4]) const {
      const PackedArgs& packed = work.packed();
      const int lane = lane_index();
      uint32_t x[kMmas][2], weights[kMmas][4];
      load_activations(x, chunk);
      decode(packed, step, chunk, weights);
      const float scale[2] = {step.first_scale[lane] * (1 / Numbers::kUnit),
                              step.second_scale[lane] * (1 / Numbers::kUnit)};

      const int lanes_of_group = quad_lanes_of_group(packed);
#pragma unroll 1
      for (int leader = 0; leader < 4; leader += lanes_of_group) {
        const bool has_turn = (lane % 4 & -lanes_of_group) == leader;
        float products[4] = {};
#pragma unroll
        for (int i = 0; i < kMmas; ++i)
          ptx::mma_m16n8k16(products, weights[i], has_turn ? x[i][0] : 0, has_turn ? x[i][1] : 0,
                            T{});
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          const float of_group = __shfl_sync(kFullWarp, scale[row], (lane & ~3) + leader);
          sums[2 * row] = fmaf(products[2 * row], of_group, sums[2 * row]);
          sums[2 * row + 1] = fmaf(products[2 * row + 1], of_group, sums[2 * row + 1]);
        }
      }
    }

   private:
    static constexpr int kMmas = 4 * Numbers::kParts;

    SM80MOE_DEVICE static int quad_lanes_of_group(const PackedArgs& packed) {
      if (!Numbers::kHasGroupScales) return 4;
      return min_of(4u, (1u << packed.group_shift) / kChunkDepth);
    }

    // x[part * 4 + j]: what word j of the weights meets in that part.
    SM80MOE_DEVICE void load_activations(uint32_t (&x)[kMmas][2], int chunk) const {
#pragma unroll
      for (int i = 0; i < kActivationChunks; ++i) {
        const int at = chunk * kActivationChunks + i;
        const uint4 four = at < activation_chunks_ ? activations_[at] : uint4{};
        const uint32_t words[] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) x[i / 2 * 4 + j][i % 2] = words[j];
      }
    }

    // Rows 0 to 7 of A are the first rows, 8 to 15 the second ones.
    SM80MOE_DEVICE static void decode(const PackedArgs& packed, const Step& step, int chunk,
                                      uint32_t (&weights)[kMmas][4]) {
      const int lane = lane_index();
      decode_row<0>(step.first[lane], column_word(packed, step.first_codes[lane], chunk), weights);
      decode_row<1>(step.second[lane], column_word(packed, step.second_codes[lane], chunk),
                    weights);
    }
    template <int kRow>
    SM80MOE_DEVICE static void decode_row(const uint4& four, uint32_t column_word,
                                          uint32_t (&weights)[kMmas][4]) {
      const uint32_t words[] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int i = 0; i < kMmas; ++i)
        Numbers::decode(words[i % 4], i / 4, column_word, weights[i][kRow], weights[i][kRow + 2]);
    }
    SM80MOE_DEVICE static uint32_t column_word(const PackedArgs& packed, const uint32_t& codes,
                                               int chunk) {
      if (!Numbers::kHasCodes || packed.codes == nullptr) return Numbers::kNoCodeWord;
      const uint32_t code = codes >> (code_group(packed, chunk) & 3) * 8 & 0xff;
      return Numbers::column_word(code * 0x00010001);
    }

    const uint4* activations_;
    int activation_chunks_;
  };
};

}  // namespace sm80moe::decode
