#pragma once

namespace sm80moe {

inline constexpr int kMaxExperts = 1024;  // _shapes.py has the same number for CPU tensors

}  // namespace sm80moe
