#include "gemm/select_tactic.h"

#include <algorithm>
#include <cmath>

namespace sm80moe::gemm {
namespace {

// Rates of one SM at nominal clocks. Tactics are compared with one another on the same device, so
// only the ratios matter: on A100 and H100 alike an SM does about 200 mma flops for each byte that
// DRAM can give it.
constexpr double kFlopsPerUs = 4.4e6;
constexpr double kDramBytesPerUs = 2.2e4;
constexpr double kL2BytesPerUs = 5.0e4;
constexpr double kStageOverheadUs = 0.05;  // barrier, address arithmetic
constexpr double kTileOverheadUs = 0.6;    // scheduling, epilogue

// Rows that the fullest experts are likely to have more than the mean: one standard deviation of a
// uniform routing.
double likely_rows_per_expert(const GemmShape& shape) {
  const double active = std::min<double>(shape.num_experts, shape.num_rows);
  const double mean = shape.num_rows / active;
  return active > 1 ? mean + std::sqrt(std::max(0.0, mean - 1.0)) * 0.5 : mean;
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
  const double active = std::min<double>(shape.num_experts, shape.num_rows);
  const double rows = likely_rows_per_expert(shape);
  const double m_tiles = std::ceil(rows / t.cta_m);
  const double n_tiles = std::ceil(static_cast<double>(shape.n) / t.cta_n);
  const double tiles = active * m_tiles * n_tiles;

  // A 16-row block of a short tile is skipped when it holds no row; what is multiplied comes in
  // units of 16 * warps_m rows.
  const double block = 16.0 * t.warps_m;
  const double multiplied = std::ceil(rows / m_tiles / block) * block;
  const double k_tiles = std::ceil(static_cast<double>(shape.k) / t.cta_k);
  const double depth = k_tiles * t.cta_k;

  // Wider tiles feed more mma from one fragment load.
  const double warp_m = static_cast<double>(t.cta_m) / t.warps_m;
  const double warp_n = static_cast<double>(t.cta_n) / t.warps_n;
  const double fragment_efficiency = 1.0 / (1.0 + 16.0 * (1.0 / warp_m + 1.0 / warp_n));

  const double ctas_per_sm =
      std::max(1, std::min(info.smem_per_sm / (smem_bytes + info.smem_reserved_per_cta),
                           1024 / (32 * t.warps_m * t.warps_n * t.warps_k)));
  const double waves = std::ceil(tiles / (info.num_sms * ctas_per_sm));
  const double tiles_per_sm = std::max(tiles / info.num_sms, waves * ctas_per_sm * 0.75);

  const double mma_us = 2.0 * multiplied * t.cta_n * depth / (kFlopsPerUs * fragment_efficiency);
  const double weight_bytes = 2.0 * t.cta_n * depth / m_tiles;
  const double l2_bytes = 2.0 * (t.cta_n + rows / m_tiles) * depth;
  const double memory_us = std::max(weight_bytes / kDramBytesPerUs, l2_bytes / kL2BytesPerUs);
  const double overhead_us = (kTileOverheadUs + kStageOverheadUs * k_tiles) / ctas_per_sm;
  return tiles_per_sm * (std::max(mma_us, memory_us) + overhead_us);
}

int select_tactic(const GemmShape& shape, const LaunchTable& table, const DeviceInfo& info) {
  int best = kNoTactic;
  double best_us = 0;
  for (int tactic = 0; tactic < kNumTactics; ++tactic) {
    if (!tactic_fits(table, tactic, shape.num_experts, info)) continue;
    const double us =
        estimate_us(shape, tactic, smem_bytes(table, tactic, shape.num_experts), info);
    if (best == kNoTactic || us < best_us) {
      best = tactic;
      best_us = us;
    }
  }
  return best;
}

}  // namespace sm80moe::gemm
