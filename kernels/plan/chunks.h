#pragma once
// Long calls in chunks of tokens that share one workspace, so that it stays bounded.

#include "plan/workspace.h"

namespace sm80moe::plan {

// Chunks are as even as they can be: they differ by one token at most.
struct Chunks {
  LayerShape layer;
  int64_t count;  // 0 when the workspace of a single token is too large

  int64_t begin(int64_t chunk) const { return layer.num_tokens * chunk / count; }
  // The largest of them.
  LayerShape shape() const {
    LayerShape chunk = layer;
    chunk.num_tokens = (layer.num_tokens + count - 1) / count;
    return chunk;
  }
};

// `limit` is in bytes; 0 is the default: 1 GiB, or what 2048 rows an expert take if that is more.
Chunks plan_chunks(const LayerShape& layer, int64_t limit);

}  // namespace sm80moe::plan
