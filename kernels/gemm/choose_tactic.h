#pragma once
// The tactic of a GEMM for which the caller names none: the one measured to be fastest on this
// device, or else the one estimated to be. Remembers its choices, because every call asks again.

#include "gemm/tuning.h"

namespace sm80moe::gemm {

// kNoTactic if none fits the device.
int choose_tactic(const GemmProblem& gemm, Tactics among, int device, const DeviceInfo& info);

}  // namespace sm80moe::gemm
