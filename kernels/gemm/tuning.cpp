#include "gemm/tuning.h"

#include <atomic>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <tuple>

namespace sm80moe::gemm {
namespace {

using Key = std::tuple<int, ElementType, EpilogueKind, int, int, int>;  // begins with the device
using TacticByRows = std::map<int, int>;

std::mutex mutex;
std::map<Key, TacticByRows> tuning;
std::atomic<unsigned> generation{0};

Key key_of(int device, const GemmProblem& gemm) {
  return {device,       gemm.type,   plain(gemm.epilogue), gemm.shape.num_experts,
          gemm.shape.n, gemm.shape.k};
}

int nearest(const TacticByRows& measured, int num_rows) {
  const auto above = measured.lower_bound(num_rows);
  if (above == measured.end()) return kNoTactic;
  if (above->first == num_rows) return above->second;
  if (above == measured.begin()) return kNoTactic;
  const auto below = std::prev(above);
  // Halfway by ratio is the geometric mean.
  const int64_t squared = int64_t{num_rows} * num_rows;
  return squared < int64_t{below->first} * above->first ? below->second : above->second;
}

}  // namespace

void set_tuning(int device, const std::vector<Measurement>& measurements) {
  const std::lock_guard<std::mutex> lock(mutex);
  for (auto it = tuning.begin(); it != tuning.end();)
    it = std::get<0>(it->first) == device ? tuning.erase(it) : std::next(it);
  for (const Measurement& m : measurements)
    tuning[key_of(device, m.gemm)][m.gemm.shape.num_rows] = m.tactic;
  generation.store(generation.load() + 1);
}

int tuned_tactic(int device, const GemmProblem& gemm) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = tuning.find(key_of(device, gemm));
  return found == tuning.end() ? kNoTactic : nearest(found->second, gemm.shape.num_rows);
}

unsigned tuning_generation() { return generation.load(std::memory_order_acquire); }

}  // namespace sm80moe::gemm
