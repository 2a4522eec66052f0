#pragma once
// The second half: out[t, h] = sum_j topk_weights[t, j] * (intermediate[p] . w2_e[h]), and
// with options out[t, h] = residual[t, h] + sum_j weight * (intermediate[p] . w2_e[h] +
// w2_bias_e[h]) with weights that may be 1.

#include "common/numeric.cuh"
#include "decode/activation_scales.cuh"
#include "decode/row_stream.cuh"

namespace sm80moe::decode {

// Two neighbouring columns of the output, which all experts add to, belong to one CTA: its warps
// share the experts, leave each pair's products in shared memory, and add up at the end. Every CTA
// has so many column pairs, and the first ones have one more; those for whose products there is no
// room have their turn later.
struct ColumnPairs {
  int each, ctas_with_one_more;
  int at_once;
};

template <class Rows_, bool kHasOptions>
class Down {
 public:
  using Rows = Rows_;
  using T = typename Rows::Element;
  static constexpr bool kStoresByExpert = false;
  static constexpr bool kActivationsAreThere = false;

  // products: [column pairs of the CTA, num_pairs], two rounded values a word.
  SM80MOE_DEVICE Down(const LayerArgs& args, const ExpertGroups& groups, uint32_t* products,
                      ActivationScales& scales, const ColumnPairs& column_pairs)
      : args_(args),
        groups_(groups),
        products_(products),
        scales_(scales),
        column_pairs_(column_pairs) {
    const int token = token_of(args, lane_index()), choice = lane_index() - token * args.top_k;
    if (token < args.num_tokens)
      router_weight_ = kHasOptions && args.weighs_input
                           ? 1.0f
                           : args.topk_weights[token * args.topk_weights_row_stride + choice];
  }

  // Of this turn.
  SM80MOE_DEVICE int num_columns() const {
    return min_of(num_all_columns() - first_column_, column_pairs_.at_once);
  }
  // Whether there is another turn. The products of this one may then be overwritten.
  SM80MOE_DEVICE bool next_turn() {
    first_column_ += column_pairs_.at_once;
    return first_column_ < num_all_columns();
  }
  SM80MOE_DEVICE bool is_first_turn() const { return first_column_ == 0; }
  SM80MOE_DEVICE int first_tile() const { return uniform_warp_index(); }
  SM80MOE_DEVICE int tile_stride() const { return kWarps; }
  SM80MOE_DEVICE int activation_depth() const { return num_chunks(args_.intermediate_size); }
  SM80MOE_DEVICE int depth() const { return Rows::depth(activation_depth()); }
  SM80MOE_DEVICE const uint4* weights() const { return static_cast<const uint4*>(args_.w2); }
  SM80MOE_DEVICE int row(int expert, int column) const {
    return expert * num_chunks(args_.w2_expert_stride) +
           output_column(column) * num_chunks(args_.w2_row_stride);
  }
  SM80MOE_DEVICE int second_row() const { return num_chunks(args_.w2_row_stride); }
  SM80MOE_DEVICE const PackedArgs& packed() const { return args_.w2_packed; }
  SM80MOE_DEVICE int packed_row(int expert, int column) const {
    return expert * args_.hidden_size + output_column(column);
  }
  SM80MOE_DEVICE const uint4* activations(int pair) const {
    return chunks_at(args_.intermediate, int64_t{pair} * args_.intermediate_size);
  }
  SM80MOE_DEVICE float activation_scale(int pair) const { return scales_.of_pair(pair); }
  SM80MOE_DEVICE Int8Quantizer quantizer(int pair) const { return scales_.quantizer(pair); }
  SM80MOE_DEVICE void after_first_loads() const {
    if constexpr (Rows::kScalesActivations) {
      const auto chunks_of = [&](int pair) {
        return groups_.is_valid(pair) ? activations(pair) : nullptr;
      };
      scales_.find(num_pairs(), activation_depth(), lane_index(), typename Rows::Element{},
                   chunks_of);
    }
  }
  SM80MOE_DEVICE void store(int, int pair, int column, float first, float second) const {
    products_[column * num_pairs() + pair] = pack_pair(first, second, T{});
  }
  // Once all products of the turn are there. One thread adds up two columns of one token.
  SM80MOE_DEVICE void combine() const {
    const int num_sums = num_columns() * args_.num_tokens;
    for (int begin = uniform_warp_index() * kWarpSize; begin < num_sums;
         begin += kWarps * kWarpSize) {
      const unsigned index = begin + lane_index(), num_tokens = args_.num_tokens;
      const int column = index / num_tokens, token = index % num_tokens;
      float2 sum = {0, 0};
      if (kHasOptions && args_.residual != nullptr && index < num_sums)
        sum = columns_of(args_.residual, token * args_.residual_row_stride, column);
#pragma unroll 4
      for (int j = 0; j < args_.top_k; ++j) {
        const int pair = token * args_.top_k + j;
        const float weight = __shfl_sync(kFullWarp, router_weight_, pair);
        const int expert = kHasOptions ? groups_.expert_of(pair) : kInvalidExpert;
        if (index >= num_sums || !groups_.is_valid(pair)) continue;
        float2 product = unpack_pair(products_[column * num_pairs() + pair], T{});
        if (kHasOptions && args_.w2_bias != nullptr) {
          const float2 bias =
              columns_of(args_.w2_bias, expert * args_.w2_bias_expert_stride, column);
          product.x += bias.x;
          product.y += bias.y;
        }
        sum.x = fmaf(weight, product.x, sum.x);
        sum.y = fmaf(weight, product.y, sum.y);
      }
      if (index < num_sums) store_columns(token, column, sum);
    }
  }

 private:
  SM80MOE_DEVICE int num_pairs() const { return args_.num_tokens * args_.top_k; }
  SM80MOE_DEVICE int num_all_columns() const {
    return column_pairs_.each + (blockIdx.x < column_pairs_.ctas_with_one_more);
  }
  SM80MOE_DEVICE int output_column(int column) const {
    return 2 * (blockIdx.x + (first_column_ + column) * gridDim.x);
  }
  // Two neighbours of a row that begins at an element of the matrix.
  SM80MOE_DEVICE float2 columns_of(const void* matrix, int64_t row, int column) const {
    const T* first = static_cast<const T*>(matrix) + row + output_column(column);
    return unpack_pair(*reinterpret_cast<const uint32_t*>(first), T{});
  }
  SM80MOE_DEVICE void store_columns(int token, int column, float2 sum) const {
    T* row = static_cast<T*>(args_.out) + token * args_.out_row_stride;
    *reinterpret_cast<uint32_t*>(row + output_column(column)) = pack_pair(sum.x, sum.y, T{});
  }

  const LayerArgs& args_;
  const ExpertGroups& groups_;
  uint32_t* products_;
  ActivationScales& scales_;
  const ColumnPairs& column_pairs_;
  int first_column_ = 0;     // of this turn
  float router_weight_ = 0;  // of this lane's pair
};

}  // namespace sm80moe::decode
