#pragma once
// What the command line asks for: `name=value` words. A name that no command reads is an error.

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/element_type.h"

namespace driver {

class Options {
 public:
  Options(int argc, char** argv, int first);

  int64_t number(const std::string& name, int64_t otherwise) const;
  std::string text(const std::string& name, const std::string& otherwise) const;
  std::vector<int> numbers(const std::string& name) const;  // `1,2,3`; empty if absent
  // Ends the process if a word was read by nobody.
  void check_all_read() const;

 private:
  std::map<std::string, std::string> values_;
  mutable std::set<std::string> read_;
};

// `type=`: fp32, fp16 or bf16.
sm80moe::ElementType read_type(const Options& options);

[[noreturn]] void usage_error(const std::string& message);

// The kernel's result is not the reference's: ends the process as a failed check does.
[[noreturn]] void wrong_result(const std::string& message);

// Of a launcher of kernels/, which must have succeeded.
void check_status(int status);

}  // namespace driver
