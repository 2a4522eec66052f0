#pragma once
// The first half: intermediate[p, i] = silu(x[t] . gate_e[i]) * (x[t] . up_e[i]), or what
// options make of it.

#include "common/activation.cuh"
#include "common/numeric.cuh"
#include "decode/activation_scales.cuh"
#include "decode/row_stream.cuh"

namespace sm80moe::decode {

template <class T>
SM80MOE_DEVICE T* intermediate_at(const LayerArgs& args, int pair, int column) {
  return static_cast<T*>(args.intermediate) + int64_t{pair} * args.intermediate_size + column;
}

// What becomes of both sums of a column: kPerTileColumn values of the intermediate.
struct Swiglu {
  static constexpr int kPerTileColumn = 1;
  static constexpr bool kUsesExpert = false;
  template <class T>
  SM80MOE_DEVICE static void store(const LayerArgs& args, int, int pair, int column, float gate,
                                   float up) {
    *intermediate_at<T>(args, pair, column) = from_float(silu(gate) * up, T{});
  }
};

// The sums times the router's weight if it is for the input, plus the biases.
template <class T>
SM80MOE_DEVICE float2 with_options(const LayerArgs& args, int expert, int pair, int column,
                                   float first, float second) {
  if (args.weighs_input) {
    const int token = token_of(args, pair), choice = pair - token * args.top_k;
    const float weight = args.topk_weights[token * args.topk_weights_row_stride + choice];
    first *= weight;
    second *= weight;
  }
  const BiasArgs& bias = args.epilogue.bias;
  if (bias.rows == nullptr) return {first, second};
  const T* row =
      static_cast<const T*>(bias.rows) + expert * bias.expert_stride + column * bias.column_step;
  return {first + to_float(row[0]), second + to_float(row[bias.second])};
}

struct Gated {
  static constexpr int kPerTileColumn = 1;
  static constexpr bool kUsesExpert = true;
  template <class T>
  SM80MOE_DEVICE static void store(const LayerArgs& args, int expert, int pair, int column,
                                   float gate, float up) {
    float2 sums = with_options<T>(args, expert, pair, column, gate, up);
    SwigluLimits(args.epilogue, expert).apply(sums.x, sums.y);
    with_activation(args.epilogue.activation, [&](auto activation) {
      set_alpha(activation, args.epilogue, expert);
      *intermediate_at<T>(args, pair, column) = from_float(activation.apply(sums.x) * sums.y, T{});
    });
  }
};

struct Ungated {
  static constexpr int kPerTileColumn = 2;
  static constexpr bool kUsesExpert = true;
  template <class T>
  SM80MOE_DEVICE static void store(const LayerArgs& args, int expert, int pair, int column,
                                   float even, float odd) {
    const float2 sums = with_options<T>(args, expert, pair, column, even, odd);
    with_activation(args.epilogue.activation, [&](auto activation) {
      *reinterpret_cast<uint32_t*>(intermediate_at<T>(args, pair, 2 * column)) =
          pack_pair(activation.apply(sums.x), activation.apply(sums.y), T{});
    });
  }
};

// Tiles are dealt out to the CTAs first and then to their warps, so that no SM has a tile more to
// read than any other, and neighbours read neighbouring rows.
template <class Rows_, class Epilogue>
class GateUp {
 public:
  using Rows = Rows_;
  static constexpr bool kActivationsAreThere = true;  // before the launch
  static constexpr bool kStoresByExpert = Epilogue::kUsesExpert;

  SM80MOE_DEVICE GateUp(const LayerArgs& args, ActivationScales& scales)
      : args_(args), scales_(scales) {}

  SM80MOE_DEVICE int num_columns() const {
    return args_.intermediate_size / Epilogue::kPerTileColumn;
  }
  SM80MOE_DEVICE int first_tile() const { return blockIdx.x + gridDim.x * uniform_warp_index(); }
  SM80MOE_DEVICE int tile_stride() const { return gridDim.x * kWarps; }
  SM80MOE_DEVICE int activation_depth() const { return num_chunks(args_.hidden_size); }
  SM80MOE_DEVICE int depth() const { return Rows::depth(activation_depth()); }
  SM80MOE_DEVICE const uint4* weights() const { return static_cast<const uint4*>(args_.w13); }
  SM80MOE_DEVICE int row(int expert, int column) const {
    return expert * num_chunks(args_.w13_expert_stride) +
           column * num_chunks(args_.w13_column_stride);
  }
  SM80MOE_DEVICE int second_row() const { return num_chunks(args_.w13_second_row); }
  SM80MOE_DEVICE const PackedArgs& packed() const { return args_.w13_packed; }
  SM80MOE_DEVICE int packed_row(int expert, int column) const {
    const PackedArgs& packed = args_.w13_packed;
    return expert * (2 * num_columns()) + packed.first_row + column * packed.row_step;
  }
  SM80MOE_DEVICE const uint4* activations(int pair) const {
    return chunks_at(args_.hidden_states, token_of(args_, pair) * args_.hidden_states_row_stride);
  }
  SM80MOE_DEVICE float activation_scale(int pair) const { return scales_.of_pair(pair); }
  SM80MOE_DEVICE Int8Quantizer quantizer(int pair) const { return scales_.quantizer(pair); }
  SM80MOE_DEVICE void after_first_loads() const {
    if constexpr (Rows::kScalesActivations) {
      const auto chunks_of = [&](int token) {
        return chunks_at(args_.hidden_states, token * args_.hidden_states_row_stride);
      };
      scales_.find(args_.num_tokens, activation_depth(), token_of(args_, lane_index()),
                   typename Rows::Element{}, chunks_of);
    }
  }
  SM80MOE_DEVICE void store(int expert, int pair, int column, float first, float second) const {
    Epilogue::template store<typename Rows::Element>(args_, expert, pair, column, first, second);
  }

 private:
  const LayerArgs& args_;
  ActivationScales& scales_;
};

}  // namespace sm80moe::decode
