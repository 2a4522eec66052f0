// select device=a100 rows=8 experts=128 n=1536 k=2048: the tactic that a GPU would get. Runs
// nothing.

#include <cstdio>
#include <map>
#include <string>

#include "driver/commands.h"
#include "gemm/select_tactic.h"

namespace driver {
namespace {

using sm80moe::DeviceInfo;

// SMs, capability, shared memory of an SM and of a CTA, reserved for a CTA, DRAM bytes and one SM's
// mma flops a microsecond: NVIDIA's figures, H100's rates as device_info.cpp works them out.
const std::map<std::string, DeviceInfo> kDevices = {
    {"a100", {108, 80, 167936, 166912, 1024, 1.43e6, 2048 * 1410.0}},
    {"a6000", {84, 86, 102400, 101376, 1024, 0.70e6, 1024 * 1800.0}},
    {"h100", {132, 90, 233472, 232448, 1024, 3.08e6, 2450 * 1980.0}},
};

}  // namespace

void run_select(const Options& options) {
  const auto device = kDevices.find(options.text("device", "a100"));
  if (device == kDevices.end()) usage_error("select: device must be a100, a6000 or h100");
  DeviceInfo info = device->second;
  info.smem_per_cta = static_cast<int>(options.number("smem", info.smem_per_cta));
  const sm80moe::gemm::GemmShape shape{
      static_cast<int>(options.number("rows", 1)), static_cast<int>(options.number("experts", 8)),
      static_cast<int>(options.number("n", 4096)), static_cast<int>(options.number("k", 4096))};
  const auto& table = sm80moe::gemm::launch_table_for(sm80moe::ElementType::kBFloat16,
                                                      sm80moe::gemm::EpilogueKind::kStore);
  const int tactic = sm80moe::gemm::select_tactic(shape, table, info);
  std::printf("selected %d\n", tactic);
  if (tactic == sm80moe::gemm::kNoTactic) return;
  const int smem = sm80moe::gemm::smem_bytes(table, tactic, shape.num_experts);
  std::printf("cta_m %d smem %d\n", sm80moe::gemm::kTactics[tactic].cta_m, smem);
}

}  // namespace driver
