#include "gemm/select_tactic.h"

#include <algorithm>
#include <cmath>

namespace sm80moe::gemm {
namespace {

// The model and its constants are explained in docs/tactics.md. Fitted: H100, 2026-11-24.
constexpr double kFragmentCost = 49.0;  // mma slowed down by fragment loads, per 1/row + 1/column
constexpr double kFreeFragments = 0.0225;  // 1/row + 1/column of a warp tile that mma hides
constexpr double kShallowStage = 1.17;     // a barrier every 32 elements of depth
constexpr double kFewWarps = 1.15;  // mma slowed down on an SM that holds fewer warps than these:
constexpr int kWarpsForLatency = 8;
// Of packed weights. Making fragments takes what mma of so many rows would; stages of short pieces
// of rows are read more slowly.
constexpr double kPackedMma = 0.94;
constexpr double kPackedFragments = 15;  // per column of a warp
constexpr double kRowsOfDecoding = 40;
constexpr double kTileUs = 0.1;     // finding a tile, its epilogue
constexpr double kLastTiles = 0.2;  // of a tile's time, while other SMs have nothing left
constexpr double kUnevenSms = 0.2;  // reading slowed down by SMs that have a tile more than others
constexpr double kStartUs = 5.2;    // the launch, the first loads

bool is_packed(const GemmShape& shape) { return shape.weight_bits < 16; }

struct Rows {
  double active_experts;
  double mean, deviation;  // of an active expert's rows
};

// What a router that favours no expert gives: a multinomial draw.
Rows expected_rows(const GemmShape& shape) {
  const double experts = shape.num_experts, rows = shape.num_rows;
  if (experts == 1) return {1, rows, 0};
  const double active = experts * (1 - std::pow(1 - 1 / experts, rows));
  const double mean = rows / active;
  return {active, mean, std::sqrt(std::max(0.0, mean * (1 - 1 / experts)))};
}

// One expert's share of the work with so many rows: how many CTA tiles, and the SM time they take.
struct Work {
  double tiles = 0, sm_us = 0;
};

// How much slower than the limit mma are, without what making fragments of packed weights takes.
double mma_slowdown(const GemmShape& shape, const Tactic& t, double warp_rows, int warps_per_sm) {
  const double few_warps = warps_per_sm < kWarpsForLatency ? kFewWarps : 1.0;
  const double warp_columns = static_cast<double>(t.cta_n) / t.warps_n;
  if (is_packed(shape)) return kPackedMma + kPackedFragments / warp_columns;
  const double exposed = std::max(0.0, 1 / warp_rows + 1 / warp_columns - kFreeFragments);
  return (1 + kFragmentCost * exposed) * (t.cta_k < 64 ? kShallowStage : 1.0) * few_warps;
}

// How much longer it takes to read rows so many bytes at a time.
double short_pieces(int bytes) { return bytes < 64 ? 2.8 : bytes < 128 ? 1.1 : 1.0; }

// The blocks of 16 rows a warp that a tile multiplies, given those that hold rows.
double multiplied_blocks(const GemmShape& shape, const Tactic& t, double blocks) {
  if (!is_packed(shape)) return blocks;
  const int most = t.cta_m / (mma_rows(t) * t.warps_m);
  int multiplied = most;
  for (int fewer = most; fewer > 0 && fewer >= blocks; fewer = fewer_packed_blocks(most, fewer))
    multiplied = fewer;
  return multiplied;
}

Work expert_work(const GemmShape& shape, const Tactic& t, double rows, int warps_per_sm,
                 const DeviceInfo& info) {
  const double rows_per_block = mma_rows(t) * t.warps_m;
  const double blocks_of_rows = std::ceil(std::max(1.0, rows) / rows_per_block);
  const double tiles_m = std::ceil(blocks_of_rows * rows_per_block / t.cta_m);
  const double blocks = is_packed(shape)
                            ? tiles_m * multiplied_blocks(shape, t, blocks_of_rows / tiles_m)
                            : blocks_of_rows;
  const double tiles_n = std::ceil(static_cast<double>(shape.n) / t.cta_n);
  const double depth = std::ceil(static_cast<double>(shape.k) / t.cta_k) * t.cta_k;

  const double slowdown = mma_slowdown(shape, t, 16.0 * blocks / tiles_m, warps_per_sm);
  const double computed_rows = blocks * rows_per_block;
  const double decoding_rows = is_packed(shape) ? tiles_m * t.warps_m * kRowsOfDecoding : 0;
  const double mma_us =
      2 * (computed_rows * slowdown + decoding_rows) * t.cta_n * depth / info.mma_flops_per_us;
  return {tiles_m * tiles_n, (mma_us + tiles_m * kTileUs) * tiles_n};
}

// As many as shared memory has room for.
int warps_per_sm(const Tactic& t, int smem, const DeviceInfo& info) {
  const int warps = t.warps_m * t.warps_n * t.warps_k;
  return info.smem_per_sm / (smem + info.smem_reserved_per_cta) * warps;
}

}  // namespace

bool is_among(int tactic, Tactics among, WeightFormat format) {
  const Tactic& t = kTactics[tactic];
  const bool has_other_sums =
      swaps_operands(t.cta_m, t.warps_m) || (has_group_scales(format) && has_group_sums(t));
  return among == Tactics::kAll || (t.warps_k == 1 && !has_other_sums);
}

int smem_bytes(const LaunchTable& table, int tactic, int num_experts) {
  return table.smem_bytes[tactic] + scheduler_smem_bytes(num_experts);
}

bool tactic_fits(const LaunchTable& table, int tactic, int num_experts, const DeviceInfo& info) {
  return table.launch[tactic] != nullptr &&
         smem_bytes(table, tactic, num_experts) <= info.smem_per_cta;
}

double estimate_us(const GemmShape& shape, int tactic, int smem, const DeviceInfo& info) {
  const Tactic& t = kTactics[tactic];
  const int warps = warps_per_sm(t, smem, info);
  const Rows rows = expected_rows(shape);

  // Experts with fewer rows than the mean, the mean, and more.
  Work total;
  for (const double deviations : {-1.0, 0.0, 1.0}) {
    const Work one = expert_work(shape, t, rows.mean + deviations * rows.deviation, warps, info);
    total.tiles += one.tiles * rows.active_experts / 3;
    total.sm_us += one.sm_us * rows.active_experts / 3;
  }
  // Tiles come from a queue: SMs end together but for part of a tile.
  const double compute_us = total.sm_us / info.num_sms + kLastTiles * total.sm_us / total.tiles;

  const double weight_bytes =
      shape.weight_bits / 8.0 * rows.active_experts * shape.n * static_cast<double>(shape.k);
  const double tiles_per_sm = total.tiles / info.num_sms;
  const double uneven = std::ceil(tiles_per_sm) / tiles_per_sm - 1;
  const double dram_us = weight_bytes / info.dram_bytes_per_us * (1 + kUnevenSms * uneven) *
                         (is_packed(shape) ? short_pieces(t.cta_k * shape.weight_bits / 8) : 1.0);
  return std::cbrt(std::pow(compute_us, 3) + std::pow(dram_us, 3)) + kStartUs;
}

int select_tactic(const GemmShape& shape, const LaunchTable& table, Tactics among,
                  WeightFormat format, const DeviceInfo& info) {
  int best = kNoTactic;
  double best_us = 0;
  for (int tactic = 0; tactic < kNumTactics; ++tactic) {
    if (!is_among(tactic, among, format) || !tactic_fits(table, tactic, shape.num_experts, info))
      continue;
    const int smem = smem_bytes(table, tactic, shape.num_experts);
    const double us = estimate_us(shape, tactic, smem, info);
    if (best == kNoTactic || us < best_us) {
      best = tactic;
      best_us = us;
    }
  }
  return best;
}

}  // namespace sm80moe::gemm
