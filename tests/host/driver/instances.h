#pragma once
// The GEMM kernels of this program. build.py writes the list from kernels/gemm/inst.

#include <string>
#include <vector>

#include "driver/options.h"
#include "gemm/launch.h"

namespace driver {

struct Instance {
  std::string table;  // the launch table's name
  int tactic;
  sm80moe::ElementType type;
  sm80moe::WeightFormat format;
  sm80moe::gemm::EpilogueKind epilogue;
  sm80moe::gemm::LaunchFn launch;
  bool reachable;  // launch_table_for leads to the table
};

std::vector<Instance> instances();

// The one that options name, by table and tactic.
Instance find_instance(const Options& options, const std::string& table);

}  // namespace driver
