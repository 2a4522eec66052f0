#include "gemm/choose_tactic.h"

#include <array>
#include <cstdint>

namespace sm80moe::gemm {
namespace {

int choose(const GemmProblem& gemm, Tactics among, int device, const DeviceInfo& info) {
  const LaunchTable& table = launch_table_for(gemm.type, gemm.format, gemm.epilogue);
  // Only 16-bit weights are tuned.
  const int tuned = gemm.format == WeightFormat::kDense ? tuned_tactic(device, gemm) : kNoTactic;
  if (tuned != kNoTactic && is_among(tuned, among, gemm.format) &&
      tactic_fits(table, tuned, gemm.shape.num_experts, info))
    return tuned;
  return select_tactic(gemm.shape, table, among, gemm.format, info);
}

// Everything that a choice depends on.
using Question = std::array<int, 11>;

struct Answer {
  Question question{};  // all zero: no call has no rows
  int tactic{};
};

// A layer asks two questions. Serving asks them again and again, for some hundred sizes.
constexpr int kAnswers = 512;

size_t slot_of(const Question& question) {
  constexpr uint64_t kOddFactor = 0x9e3779b97f4a7c15;  // 2^64 over the golden ratio
  uint64_t hash = 0;
  for (const int word : question) hash = (hash ^ static_cast<uint32_t>(word)) * kOddFactor;
  return (hash >> 32) % kAnswers;
}

}  // namespace

int choose_tactic(const GemmProblem& gemm, Tactics among, int device, const DeviceInfo& info) {
  // One memory a thread, so that no call waits for another.
  thread_local std::array<Answer, kAnswers> answers;
  const Question question = {gemm.shape.num_rows,
                             gemm.shape.num_experts,
                             gemm.shape.n,
                             gemm.shape.k,
                             static_cast<int>(gemm.type),
                             static_cast<int>(gemm.format),
                             static_cast<int>(gemm.epilogue),
                             static_cast<int>(among),
                             device,
                             info.smem_per_cta,
                             static_cast<int>(tuning_generation())};
  Answer& answer = answers[slot_of(question)];
  if (answer.question != question) answer = {question, choose(gemm, among, device, info)};
  return answer.tactic;
}

}  // namespace sm80moe::gemm
