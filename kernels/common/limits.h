#pragma once

#include <cstdint>

namespace sm80moe {

inline constexpr int64_t kRowMultiple = 8;  // elements in the 16 bytes that kernels copy at a time
inline constexpr int kMaxExperts = 1024;    // _shapes.py has the same number for CPU tensors
inline constexpr int kMaxDevices = 64;      // of which each kernel remembers what it asked

}  // namespace sm80moe
