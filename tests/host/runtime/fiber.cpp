#include "runtime/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

// Callee-saved registers go to the stack, the stack pointer to *from; then the same from `to`.
extern "C" void simt_switch_stack(void** from, void* to);
asm(R"(
.text
.globl simt_switch_stack
.type simt_switch_stack, @function
simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch_stack, .-simt_switch_stack
)");

namespace simt {
namespace {

constexpr size_t kPageBytes = 4096;

// The page below the stack stays unmapped, so that an overflow ends the process.
char* map_stack() {
  void* memory = mmap(nullptr, Fiber::kStackBytes + kPageBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kPageBytes, PROT_NONE) != 0) {
    std::perror("fiber: a stack must be mapped");
    std::exit(1);
  }
  return static_cast<char*>(memory) + kPageBytes;
}

}  // namespace

void Fiber::start(void (*entry)()) {
  if (!stack_) stack_ = map_stack();
  constexpr int kSavedRegisters = 6;
  // `ret` leaves the stack pointer 8 below a multiple of 16, as a call would.
  auto* top = reinterpret_cast<uintptr_t*>(stack_ + kStackBytes) - 2;
  *top = reinterpret_cast<uintptr_t>(entry);
  for (int i = 1; i <= kSavedRegisters; ++i) top[-i] = 0;
  stack_pointer_ = top - kSavedRegisters;
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
  simt_switch_stack(&from.stack_pointer_, to.stack_pointer_);
}

}  // namespace simt
