#pragma once
// The first kernel's work: intermediate[p, i] = activation(x[t] . gate_e[i]) * (x[t] . up_e[i]).

#include "common/activation.cuh"
#include "common/numeric.cuh"
#include "decode/prefetch.cuh"
#include "decode/row_stream.cuh"

namespace sm80moe::decode {

// What becomes of a gate and an up value.
struct Swiglu {
  SM80MOE_DEVICE static float apply(float gate, float up) { return silu(gate) * up; }
};

// Tiles are dealt out to the CTAs first and then to their warps, so that no SM has a tile more to
// read than any other, and neighbours read neighbouring rows.
template <class T, class Activation>
class GateUp {
 public:
  SM80MOE_DEVICE GateUp(const LayerArgs& args, const ExpertGroups& groups, const Prefetch& prefetch)
      : args_(args), groups_(groups), prefetch_(prefetch) {}

  SM80MOE_DEVICE int num_columns() const { return args_.intermediate_size; }
  SM80MOE_DEVICE int first_tile() const { return blockIdx.x + gridDim.x * warp_index(); }
  SM80MOE_DEVICE int tile_stride() const { return gridDim.x * kWarps; }
  SM80MOE_DEVICE int depth() const { return num_chunks(args_.hidden_size); }
  SM80MOE_DEVICE const uint4* weights(int expert, int column) const {
    return chunks_at(args_.w13, expert * args_.w13_expert_stride + column * args_.w13_row_stride);
  }
  // From a gate row to its up row.
  SM80MOE_DEVICE int64_t second_row() const {
    return args_.intermediate_size * args_.w13_row_stride;
  }
  SM80MOE_DEVICE const uint4* activations(int pair) const {
    return chunks_at(args_.hidden_states, groups_.token_of(pair) * args_.hidden_states_row_stride);
  }
  SM80MOE_DEVICE void store(int pair, int column, float gate, float up) const {
    static_cast<T*>(args_.intermediate)[int64_t{pair} * args_.intermediate_size + column] =
        from_float(Activation::apply(gate, up), T{});
  }
  SM80MOE_DEVICE void after_last_load() const { prefetch_w2(args_, groups_, prefetch_); }

 private:
  const LayerArgs& args_;
  const ExpertGroups& groups_;
  const Prefetch& prefetch_;
};

}  // namespace sm80moe::decode
