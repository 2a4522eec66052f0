#pragma once
// What a failed check prints, and how the process then ends: at the first failure, exit status 3.

#include <string>

namespace simt {

// Where an access was made: the return address of a call in the kernel.
using Site = const void*;

std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));

// The chain of inlined functions at `site`, innermost first, one indented line each.
std::string describe(Site site);

// Prints "host check failed: <check>", the details, and which thread of which kernel was running.
// A breakpoint here shows the kernel's variables one frame up.
[[noreturn]] void fail(const char* check, const std::string& details);

}  // namespace simt
