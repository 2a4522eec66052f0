#include "runtime/report.h"

#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "runtime/machine.h"

namespace simt {

std::string format(const char* pattern, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, pattern);
  vsnprintf(text, sizeof(text), pattern, arguments);
  va_end(arguments);
  return text;
}

namespace {

// "f<int>(char) at ./kernels/x.cuh:5 (discriminator 2)" -> "f at ./kernels/x.cuh:5": a kernel's
// template arguments would fill the screen.
std::string shorten(const std::string& line) {
  const std::string inlined = " (inlined by) ";
  const size_t name = line.rfind(inlined, 0) == 0 ? inlined.size() : 0;
  const size_t place = std::min(line.find(" at ", name), line.size());
  std::string result = line.substr(0, name);
  int depth = 0;
  for (size_t i = name; i < place; ++i) {
    depth += line[i] == '<' || line[i] == '(';
    if (depth == 0) result += line[i];
    depth -= line[i] == '>' || line[i] == ')';
  }
  return result + line.substr(place, line.find(" (discriminator", place) - place);
}

}  // namespace

std::string describe(Site site) {
  // The call is the instruction before the return address.
  const auto address = reinterpret_cast<uintptr_t>(site) - 1;
  const std::string command =
      format("addr2line -e /proc/%d/exe -f -i -p -C 0x%lx", getpid(), static_cast<long>(address));
  std::string lines;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    char line[4096];
    while (fgets(line, sizeof(line), pipe)) {
      line[strcspn(line, "\n")] = '\0';
      lines += "    " + shorten(line) + "\n";
    }
    pclose(pipe);
  }
  return lines;
}

void fail(const char* check, const std::string& details) {
  std::fflush(stdout);
  std::fprintf(stderr, "host check failed: %s\n%s", check, details.c_str());
  if (details.empty() || details.back() != '\n') std::fputc('\n', stderr);
  if (const Thread* thread = current_thread())
    std::fprintf(stderr, "  while running %s\n", thread_name(*thread).c_str());
  std::fprintf(stderr, "  seed %lu\n", static_cast<unsigned long>(settings().seed));
  _exit(3);
}

}  // namespace simt

// libubsan calls this in place of printing, and has the facts ready.
extern "C" void __ubsan_get_current_report_data(const char** kind, const char** message,
                                                const char** file, unsigned* line, unsigned* column,
                                                char** address);
extern "C" void __ubsan_on_report() {
  const char *kind, *message, *file;
  unsigned line, column;
  char* address;
  __ubsan_get_current_report_data(&kind, &message, &file, &line, &column, &address);
  simt::fail("undefined-behaviour", simt::format("  %s at %s:%u\n", message, file, line));
}
