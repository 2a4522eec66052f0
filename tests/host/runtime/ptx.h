#pragma once
// Runs the text of an asm statement. The rewriter turns
//   asm volatile("add.u32 %0, %1, 2;" : "=r"(x) : "r"(y) : "memory")   into
//   simt::run_ptx("add.u32 %0, %1, 2;", {simt::write_back("=r", x), simt::pass("r", y)}).
// So kernels/common/ptx.cuh itself is under test, operand lists included.

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>

namespace simt {

struct PtxOperand {
  uint64_t value;  // of an input
  void* address;   // of an output
  int bytes;
};

template <class T>
PtxOperand write_back(const char*, T& variable) {
  return {0, &variable, sizeof(T)};
}

template <class T>
PtxOperand pass(const char*, const T& input) {
  PtxOperand operand{0, nullptr, sizeof(T)};
  memcpy(&operand.value, &input, sizeof(T));
  return operand;
}

void run_ptx(const char* text, std::initializer_list<PtxOperand> operands);
inline void run_ptx(const char* text) { run_ptx(text, {}); }

}  // namespace simt
