// build/host/.../run <command> [name=value ...]: see README.md.

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "driver/commands.h"
#include "runtime/bank_conflicts.h"
#include "runtime/copied_sectors.h"
#include "runtime/settings.h"

namespace {

using driver::Options;

const std::map<std::string, void (*)(const Options&)> kCommands = {
    {"list", driver::run_list},
    {"gemm", driver::run_gemm},
    {"int8_gemm", driver::run_int8_gemm},
    {"quantize", driver::run_quantize},
    {"topk", driver::run_topk},
    {"sort", driver::run_sort},
    {"combine", driver::run_combine},
    {"ends", driver::run_ends},
    {"decode", driver::run_decode},
    {"select", driver::run_select},
    {"plan", driver::run_plan},
    {"read", driver::run_read_ceiling},
    {"mma", driver::run_mma_ceiling},
    {"selftest", driver::run_selftest},
    {"dequantize", driver::run_dequantize},
};

void print_bank_conflicts() {
  const auto extra = [](simt::SharedOp op) {
    return static_cast<unsigned long>(simt::bank_conflicts().extra_passes(op));
  };
  std::printf("bank_conflicts load=%lu store=%lu cp.async=%lu ldmatrix=%lu\n",
              extra(simt::SharedOp::kLoad), extra(simt::SharedOp::kStore),
              extra(simt::SharedOp::kAsyncCopy), extra(simt::SharedOp::kLdmatrix));
}

void print_copied_sectors() {
  const auto print = [](const char* what, const simt::CopiedSectors::Bytes& bytes) {
    std::printf(" %s_wanted=%lu %s_brought=%lu", what, static_cast<unsigned long>(bytes.wanted),
                what, static_cast<unsigned long>(bytes.brought));
  };
  std::printf("copied_bytes");
  print("words", simt::copied_sectors().words());
  print("chunks", simt::copied_sectors().chunks());
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  const auto command = kCommands.find(argc > 1 ? argv[1] : "");
  if (command == kCommands.end() || command->second == nullptr) {
    std::string names;
    for (const auto& known : kCommands) names += " " + known.first;
    driver::usage_error("the first word must be one of" + names);
  }
  const Options options(argc, argv, 2);
  simt::settings().seed = options.number("seed", 0);
  simt::settings().num_sms = static_cast<int>(options.number("sms", simt::settings().num_sms));
  command->second(options);
  options.check_all_read();
  print_bank_conflicts();
  print_copied_sectors();
  std::printf("ok seed=%lu\n", static_cast<unsigned long>(simt::settings().seed));
}
