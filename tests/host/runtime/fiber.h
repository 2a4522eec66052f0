#pragma once
// A stack of its own and a place to continue. x86-64 only: one switch is a few pushes, while
// swapcontext would enter the kernel twice.

#include <cstddef>

namespace simt {

class Fiber {
 public:
  static constexpr size_t kStackBytes = 128 * 1024;

  // The fiber will run `entry`, which must never return, when first switched to. Maps a stack at
  // the first call and keeps it for later ones.
  void start(void (*entry)());

  // Saves where the caller is in `from` and continues `to`.
  static void switch_to(Fiber& from, Fiber& to);

  bool owns_stack_address(const void* address) const {
    const char* at = static_cast<const char*>(address);
    return at >= stack_ && at < stack_ + kStackBytes;
  }

 private:
  char* stack_ = nullptr;  // null in the fiber that main() runs on
  void* stack_pointer_ = nullptr;
};

}  // namespace simt
