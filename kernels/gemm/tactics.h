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
    {  16,  32, 256,  1, 1, 4, 3},  // id 0: one token; short tiles so that every SM has some
    {  16,  64, 128,  1, 2, 2, 4},  // id 1: decode
    {  32, 128,  64,  1, 4, 1, 4},  // id 2: some tokens per expert; weights still stream
    {  64, 128,  64,  1, 4, 1, 4},  // id 3
    { 128, 128,  64,  2, 2, 1, 3},  // id 4: weights stream while the tensor cores are half busy
    { 128, 256,  64,  2, 4, 1, 3},  // id 5: prefill
    { 160, 128,  32,  2, 2, 1, 4},  // id 6: prefill in 99 KB, two CTAs where there is more
    { 160, 256,  64,  2, 4, 1, 3},  // id 7: prefill, the most mma for a fragment load
    { 160, 256,  32,  2, 4, 1, 3},  // id 8: the same in 99 KB
    {  16, 128, 128,  1, 4, 1, 3},  // id 9: packed weights stream
    {  32, 128, 128,  1, 4, 1, 3},  // id 10: the same
    { 128, 256,  64,  1, 8, 1, 3},  // id 11: prefill, each packed weight becomes a fragment once
    { 160, 256,  64,  1, 8, 1, 3},  // id 12
    {   8, 128, 128,  1, 4, 1, 3},  // id 13: 8 bits stream, experts have few rows
    {   8, 128, 256,  1, 4, 1, 2},  // id 14: the same, 4 bits
    {  64, 256,  64,  1, 4, 1, 3},  // id 15: packed weights, dozens of rows an expert
    {  96, 128,  64,  1, 4, 1, 3},  // id 16: the same, where 64 rows are just too few
    {  48, 128, 128,  1, 4, 1, 3},  // id 17: 4 bits, where 32 rows are just too few
    {  80, 128, 128,  1, 4, 1, 3},  // id 18: the same for 64
};
// clang-format on
inline constexpr int kNumTactics = sizeof(kTactics) / sizeof(kTactics[0]);

// Whether weights are the 16-row operand of mma; see swapped_operands.cuh.
constexpr bool swaps_operands(int cta_m, int warps_m) { return cta_m / warps_m == 8; }

// Rows that a mma multiplies, of activations.
constexpr int mma_rows(const Tactic& t) { return swaps_operands(t.cta_m, t.warps_m) ? 8 : 16; }

// Whether a tile of packed weights, if groups of them have scales, adds up each group by itself:
// that takes twice the accumulators. Others change the units of their sums, and round otherwise.
constexpr bool has_group_sums(const Tactic& t) { return t.cta_m / t.warps_m <= 32; }

// Tiles of packed weights multiply all blocks of 16 rows that a warp has, or about three quarters
// of them, or half: with a loop for each number kernels would take too long to compile. This is
// what comes after `blocks`, 0 if nothing does.
constexpr int fewer_packed_blocks(int most, int blocks) {
  const int fewer = blocks - (most >= 4 ? most / 4 : 1);
  return 2 * fewer >= most && fewer > 0 ? fewer : 0;
}

}  // namespace sm80moe::gemm
