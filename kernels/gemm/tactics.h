#pragma once
// The tactic table: the only place where tile shapes are written down. Plain C++; Python reads the
// same rows through torch.ops.sm80moe.tactic_table().

namespace sm80moe::gemm {

struct Tactic {
  int cta_m, cta_n, cta_k;        // elements of the output and of the reduction owned by one CTA
  int warps_m, warps_n, warps_k;  // how the CTA tile is cut into warp tiles
  int stages;                     // cp.async ring depth
};

// Ordered by cta_m. An id is an index into this table: append rows, never reorder them.
// clang-format off
inline constexpr Tactic kTactics[] = {
    //  M    N    K  wM wN wK st
    {  16,  32, 256,  1, 1, 4, 4},  // id 0: one token; short tiles so that every SM has some
    {  16, 128,  64,  1, 4, 1, 4},  // id 1: decode
    {  32, 128,  64,  1, 4, 1, 4},  // id 2
    {  64, 128,  64,  1, 4, 1, 4},  // id 3: weights still stream, all experts active
    {  64, 256,  64,  1, 4, 1, 3},  // id 4: the same, with fewer reads of the activations
    { 128, 128,  64,  2, 2, 1, 3},  // id 5: prefill
    { 128, 256,  64,  2, 4, 1, 3},  // id 6: long prefill, one CTA an SM
    { 128, 128,  32,  2, 2, 1, 5},  // id 7: prefill, two CTAs in the 99 KB of SM86
    { 160, 256,  64,  2, 4, 1, 3},  // id 8
};
// clang-format on
inline constexpr int kNumTactics = sizeof(kTactics) / sizeof(kTactics[0]);

}  // namespace sm80moe::gemm
