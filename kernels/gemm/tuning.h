#pragma once
// What was measured on a device: the fastest tactic of a GEMM at some numbers of rows.

#include <vector>

#include "gemm/select_tactic.h"

namespace sm80moe::gemm {

// What a tactic is chosen for.
struct GemmProblem {
  ElementType type;
  EpilogueKind epilogue;
  GemmShape shape;
  WeightFormat format = WeightFormat::kDense;
};

struct Measurement {
  GemmProblem gemm;
  int tactic;  // the fastest
};

// Replaces what is known of a device; of equal sizes the last counts.
void set_tuning(int device, const std::vector<Measurement>& measurements);

// The tactic of the measurement that is nearest by the ratio of rows; kNoTactic for more or fewer
// rows than were measured.
int tuned_tactic(int device, const GemmProblem& gemm);

// Another number after every set_tuning.
unsigned tuning_generation();

}  // namespace sm80moe::gemm
