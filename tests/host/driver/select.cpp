// select device=a100 rows=8 experts=128 n=1536 k=2048: the tactic that a GPU would get. Runs
// nothing. batch_invariant=1 leaves those that add up in one order. measured=64,2,512,5 says that 2
// was the fastest at 64 rows and 5 at 512; measured_n=... and the like say that it was measured of
// another GEMM.

#include <cstdio>
#include <map>
#include <string>

#include "driver/commands.h"
#include "gemm/choose_tactic.h"

namespace driver {
namespace {

using sm80moe::DeviceInfo;
using namespace sm80moe::gemm;

// SMs, capability, shared memory of an SM and of a CTA, reserved for a CTA, DRAM bytes and one
// SM's mma flops a microsecond: NVIDIA's figures, H100's rates as device_info.cpp works them out.
const std::map<std::string, DeviceInfo> kDevices = {
    {"a100", {108, 80, 167936, 166912, 1024, 1.43e6, 2048 * 1410.0}},
    {"a6000", {84, 86, 102400, 101376, 1024, 0.70e6, 1024 * 1800.0}},
    {"h100", {132, 90, 233472, 232448, 1024, 3.08e6, 2450 * 1980.0}},
};

constexpr int kDevice = 0;

GemmProblem read_problem(const Options& options) {
  const auto number = [&options](const char* name, int64_t otherwise) {
    return static_cast<int>(options.number(name, otherwise));
  };
  return {sm80moe::ElementType::kBFloat16,
          static_cast<EpilogueKind>(number("epilogue", 0)),
          {number("rows", 1), number("experts", 8), number("n", 4096), number("k", 4096)}};
}

// Sets what was measured, of the same GEMM unless the options say otherwise.
void measure(const Options& options, GemmProblem gemm) {
  const auto change = [&options](int& value, const char* name) {
    value = static_cast<int>(options.number(name, value));
  };
  change(gemm.shape.num_experts, "measured_experts");
  change(gemm.shape.n, "measured_n");
  change(gemm.shape.k, "measured_k");
  if (options.number("measured_swiglu", 0) != 0) gemm.epilogue = EpilogueKind::kSwiglu;
  if (options.number("measured_fp16", 0) != 0) gemm.type = sm80moe::ElementType::kFloat16;

  const std::vector<int> words = options.numbers("measured");
  std::vector<Measurement> measurements;
  for (size_t i = 0; i + 1 < words.size(); i += 2) {
    gemm.shape.num_rows = words[i];
    measurements.push_back({gemm, words[i + 1]});
  }
  set_tuning(static_cast<int>(options.number("measured_device", kDevice)), measurements);
}

}  // namespace

void run_select(const Options& options) {
  const auto device = kDevices.find(options.text("device", "a100"));
  if (device == kDevices.end()) usage_error("select: device must be a100, a6000 or h100");
  DeviceInfo info = device->second;
  info.smem_per_cta = static_cast<int>(options.number("smem", info.smem_per_cta));
  const GemmProblem gemm = read_problem(options);

  const auto among = options.number("batch_invariant", 0) ? Tactics::kOneOrder : Tactics::kAll;
  const auto choose = [&] { return choose_tactic(gemm, among, kDevice, info); };
  const int estimated = choose();
  measure(options, gemm);
  const int selected = choose();
  if (choose() != selected) wrong_result("a choice must stay the same");
  set_tuning(kDevice, {});
  if (choose() != estimated) wrong_result("without measurements the estimate must decide again");

  std::printf("selected %d\n", selected);
  if (selected == kNoTactic) return;
  const int smem = smem_bytes(launch_table_for(gemm.type, gemm.format, gemm.epilogue), selected,
                              gemm.shape.num_experts);
  const Tactic& t = kTactics[selected];
  std::printf("cta_m %d smem %d warps_k %d warps %d\n", t.cta_m, smem, t.warps_k,
              t.warps_m * t.warps_n * t.warps_k);
}

}  // namespace driver
