#pragma once

#include "ops/checks.h"

namespace sm80moe::ops {

Tensor grouped_mm(Tensor mat_a, Tensor mat_b, Tensor offs, int64_t tactic);

}  // namespace sm80moe::ops
