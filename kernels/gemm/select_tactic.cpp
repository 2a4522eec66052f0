#include "gemm/select_tactic.h"

#include <algorithm>
#include <cmath>

namespace sm80moe::gemm {
namespace {

// The model and its constants are explained in docs/tactics.md. Fitted: H100, 2026-11-22.
constexpr double kFragmentCost = 35.0;  // mma slowed down by fragment loads, per 1/row + 1/column
constexpr double kFreeFragments = 0.0196;  // 1/row + 1/column of a warp tile that mma hides
constexpr double kShallowStage = 1.08;     // a barrier every 32 elements of depth
constexpr double kL2BytesPerSmUs = 4.2e4;  // what one SM gets from L2
constexpr double kTileUs = 0.5;            // finding a tile, its epilogue
constexpr double kLaunchUs = 2.0;
constexpr double kEmptyRows = 0.2;  // streaming slowed down by a tile that holds few rows
constexpr double kUnevenSms = 0.4;  // likewise by SMs that have a tile more than others
constexpr double kLoneCta = 0.65;   // time of a CTA alone on an SM, of that of several

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

int resident_ctas(const Tactic& t, int smem_bytes, const DeviceInfo& info) {
  constexpr int kRegistersPerSm = 65536, kMostRegistersPerThread = 255, kFewRegisters = 168;
  const int threads = 32 * t.warps_m * t.warps_n * t.warps_k;
  const bool large = t.cta_m / t.warps_m * (t.cta_n / t.warps_n) >= 64 * 48;
  const int registers = large ? kMostRegistersPerThread : kFewRegisters;
  const int by_smem = info.smem_per_sm / (smem_bytes + info.smem_reserved_per_cta);
  return std::max(1, std::min(by_smem, kRegistersPerSm / (registers * threads)));
}

// One expert's share of the work with so many rows: how many CTA tiles, and the SM time they take.
struct Work {
  double tiles = 0, sm_us = 0;
};

Work expert_work(const GemmShape& shape, const Tactic& t, double rows, const DeviceInfo& info) {
  const double rows_per_block = 16.0 * t.warps_m;
  const double most_blocks = t.cta_m / rows_per_block;
  const double blocks = std::ceil(std::max(1.0, rows) / rows_per_block);
  const double tiles_m = std::ceil(blocks / most_blocks);
  const double tiles_n = std::ceil(static_cast<double>(shape.n) / t.cta_n);
  const double depth = std::ceil(static_cast<double>(shape.k) / t.cta_k) * t.cta_k;

  const double warp_rows = 16.0 * blocks / tiles_m;
  const double warp_columns = static_cast<double>(t.cta_n) / t.warps_n;
  const double exposed = std::max(0.0, 1 / warp_rows + 1 / warp_columns - kFreeFragments);
  const double slowdown = (1 + kFragmentCost * exposed) * (t.cta_k < 64 ? kShallowStage : 1.0);
  const double computed_rows = blocks * rows_per_block;
  const double mma_us = 2 * computed_rows * t.cta_n * depth * slowdown / info.mma_flops_per_us;
  const double l2_us = 2 * (tiles_m * t.cta_n + computed_rows) * depth / kL2BytesPerSmUs;
  return {tiles_m * tiles_n, (std::max(mma_us, l2_us) + tiles_m * kTileUs) * tiles_n};
}

}  // namespace

int smem_bytes(const LaunchTable& table, int tactic, int num_experts) {
  return table.smem_bytes[tactic] + scheduler_smem_bytes(num_experts);
}

bool tactic_fits(const LaunchTable& table, int tactic, int num_experts, const DeviceInfo& info) {
  return smem_bytes(table, tactic, num_experts) <= info.smem_per_cta;
}

double estimate_us(const GemmShape& shape, int tactic, int smem_bytes, const DeviceInfo& info) {
  const Tactic& t = kTactics[tactic];
  const Rows rows = expected_rows(shape);

  // Experts with fewer rows than the mean, the mean, and more.
  Work total;
  for (const double deviations : {-1.0, 0.0, 1.0}) {
    const Work one = expert_work(shape, t, rows.mean + deviations * rows.deviation, info);
    total.tiles += one.tiles * rows.active_experts / 3;
    total.sm_us += one.sm_us * rows.active_experts / 3;
  }

  // Whole waves of resident CTAs, and a last one in which each SM has what is left.
  const double ctas = resident_ctas(t, smem_bytes, info);
  const double tile_us = total.sm_us / total.tiles;
  const double waves = total.tiles / (info.num_sms * ctas);
  const double left_per_sm = (waves - std::floor(waves)) * ctas;
  const double lone = ctas > 1 ? kLoneCta : 1.0;
  const double last_us =
      left_per_sm > 0 ? std::max(left_per_sm, lone * std::ceil(left_per_sm)) * tile_us : 0;
  const double compute_us = std::floor(waves) * ctas * tile_us + last_us;

  const double weight_bytes = 2 * rows.active_experts * shape.n * static_cast<double>(shape.k);
  const double empty = std::max(0.0, 1 - rows.mean / t.cta_m);
  const double tiles_per_sm = total.tiles / info.num_sms;
  const double uneven = std::ceil(tiles_per_sm) / tiles_per_sm - 1;
  const double dram_us =
      weight_bytes / info.dram_bytes_per_us * (1 + kEmptyRows * empty + kUnevenSms * uneven);
  return std::sqrt(compute_us * compute_us + dram_us * dram_us) + kLaunchUs;
}

int select_tactic(const GemmShape& shape, const LaunchTable& table, const DeviceInfo& info) {
  int best = kNoTactic;
  double best_us = 0;
  for (int tactic = 0; tactic < kNumTactics; ++tactic) {
    const int smem = smem_bytes(table, tactic, shape.num_experts);
    if (smem > info.smem_per_cta) continue;
    const double us = estimate_us(shape, tactic, smem, info);
    if (best == kNoTactic || us < best_us) {
      best = tactic;
      best_us = us;
    }
  }
  return best;
}

}  // namespace sm80moe::gemm
