#pragma once

#include "common/macros.cuh"

namespace sm80moe {

SM80MOE_DEVICE float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

}  // namespace sm80moe
