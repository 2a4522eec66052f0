#include "driver/options.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "runtime/report.h"

namespace driver {

Options::Options(int argc, char** argv, int first) {
  for (int i = first; i < argc; ++i) {
    const std::string word = argv[i];
    const size_t equals = word.find('=');
    if (equals == std::string::npos) usage_error("options must look like name=value, got " + word);
    values_[word.substr(0, equals)] = word.substr(equals + 1);
  }
}

std::string Options::text(const std::string& name, const std::string& otherwise) const {
  read_.insert(name);
  const auto found = values_.find(name);
  return found == values_.end() ? otherwise : found->second;
}

int64_t Options::number(const std::string& name, int64_t otherwise) const {
  return std::stoll(text(name, std::to_string(otherwise)));
}

std::vector<int> Options::numbers(const std::string& name) const {
  std::vector<int> numbers;
  std::stringstream list(text(name, ""));
  for (std::string item; std::getline(list, item, ',');) numbers.push_back(std::stoi(item));
  return numbers;
}

void Options::check_all_read() const {
  for (const auto& value : values_)
    if (!read_.count(value.first)) usage_error("unknown option " + value.first);
}

sm80moe::ElementType read_type(const Options& options) {
  const std::string name = options.text("type", "bf16");
  if (name == "fp32") return sm80moe::ElementType::kFloat32;
  if (name == "fp16") return sm80moe::ElementType::kFloat16;
  if (name == "bf16") return sm80moe::ElementType::kBFloat16;
  usage_error("type must be fp32, fp16 or bf16, got " + name);
}

void usage_error(const std::string& message) {
  std::fprintf(stderr, "host driver: %s\n", message.c_str());
  std::exit(2);
}

void wrong_result(const std::string& message) { simt::fail("wrong-result", message); }

void check_status(int status) {
  if (status != 0) wrong_result(simt::format("  the launch failed with %d", status));
}

}  // namespace driver
