#include "plan/chunks.h"

#include <algorithm>

#include "common/limits.h"
#include "gemm/problem.h"

namespace sm80moe::plan {
namespace {

// The default. Experts may be so many that within the bytes each would have too few rows to hide
// that its weights are read again for every chunk.
constexpr int64_t kDefaultLimit = int64_t{1} << 30;
constexpr int64_t kRowsPerExpert = 2048;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// So many tokens, and no more, make matrices that a kernel can address.
int64_t addressable_tokens(const LayerShape& layer) {
  constexpr int64_t kMaxElements = (gemm::kMaxMatrixChunks - 1) * kRowMultiple;
  const int64_t rows = kMaxElements / std::max(layer.hidden_size, layer.intermediate_size);
  return std::min(layer.num_tokens, rows / layer.top_k);
}

bool fits(LayerShape layer, int64_t num_tokens, int64_t limit) {
  layer.num_tokens = num_tokens;
  return workspace_layout(layer).size <= limit;
}

// The most tokens, up to `most`, whose workspace is within the limit.
int64_t tokens_within(const LayerShape& layer, int64_t limit, int64_t most) {
  if (fits(layer, most, limit)) return most;
  int64_t fitting = 0, too_many = most;
  while (too_many - fitting > 1) {
    const int64_t middle = (fitting + too_many) / 2;
    (fits(layer, middle, limit) ? fitting : too_many) = middle;
  }
  return fitting;
}

}  // namespace

Chunks plan_chunks(const LayerShape& layer, int64_t limit) {
  const int64_t most = addressable_tokens(layer);
  int64_t tokens = tokens_within(layer, limit > 0 ? limit : kDefaultLimit, most);
  if (limit == 0) {
    const int64_t efficient = ceil_div(kRowsPerExpert * layer.num_experts, layer.top_k);
    tokens = std::max(tokens, std::min(efficient, most));
  }
  return {layer, tokens > 0 ? ceil_div(layer.num_tokens, tokens) : 0};
}

}  // namespace sm80moe::plan
