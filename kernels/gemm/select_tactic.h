#pragma once
// Which tactic a GEMM gets: candidates -> estimate -> compare. Host only; measures nothing.

#include "common/device_info.h"
#include "gemm/launch.h"

namespace sm80moe::gemm {

inline constexpr int kNoTactic = -1;

struct GemmShape {
  int num_rows;  // rows of all experts together
  int num_experts;
  int n, k;
  int weight_bits = 16;  // that one weight takes
};

// Which tactics a choice is made among.
enum class Tactics {
  kAll,
  // Those of which one warp adds up a whole sum, front to back, and scales of groups in one way:
  // all of them give the same bits.
  kOneOrder,
};
bool is_among(int tactic, Tactics among, WeightFormat format);

// Shared memory that one CTA of the tactic needs for so many experts.
int smem_bytes(const LaunchTable& table, int tactic, int num_experts);

// True if the table has a kernel of the tactic, and that much is to be had on the device.
bool tactic_fits(const LaunchTable& table, int tactic, int num_experts, const DeviceInfo& info);

// Estimated time in microseconds of a tactic whose CTAs take `smem` bytes; see docs/tactics.md.
double estimate_us(const GemmShape& shape, int tactic, int smem, const DeviceInfo& info);

// The tactic with the least estimate of those that fit, kNoTactic if none does.
int select_tactic(const GemmShape& shape, const LaunchTable& table, Tactics among,
                  WeightFormat format, const DeviceInfo& info);

}  // namespace sm80moe::gemm
