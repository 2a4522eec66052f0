#pragma once
// One wording for all errors: `op: argument must requirement, got value`. The same sentences as
// torch_sm80moe/_shapes.py, which speaks for CPU tensors and for tracing.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "common/element_type.h"
#include "common/expert_ids.h"
#include "common/limits.h"

namespace sm80moe::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline constexpr int64_t kAlignment = 16;  // bytes
inline constexpr int64_t kAnySize = -1;

struct Dimension {
  Dimension(int64_t size) : size(size) {}                      // NOLINT: a number stands for itself
  Dimension(const char* name) : size(kAnySize), name(name) {}  // NOLINT: a name for any size
  int64_t size;
  const char* name = nullptr;
};
std::ostream& operator<<(std::ostream& out, const Dimension& dimension);

class Checker {
 public:
  explicit Checker(const char* op) : op_(op) {}

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    std::ostringstream message;
    message << op_ << ": ";
    (message << ... << parts);
    throw std::runtime_error(message.str());
  }

  void dtype(const char* name, const Tensor& t, std::initializer_list<ScalarType> allowed) const;
  void shape(const char* name, const Tensor& t, std::initializer_list<Dimension> wanted) const;
  void num_experts(const char* name, int64_t num_experts) const;
  void multiple(const char* name, int64_t dim, int64_t size, int64_t multiple) const;
  void at_least_one_column(const char* name, const Tensor& t) const;
  void num_rows(const char* name, int64_t num_rows) const;
  void between(const char* name, int64_t value, int64_t low, int64_t high,
               const char* high_meaning = "") const;

  // From all experts, whose number is anyone's, to those of this device.
  void expert_map(const std::optional<Tensor>& map, const Tensor& topk_ids) const;

  // Rows that kernels read and write 16 bytes at a time.
  void rows(const char* name, const Tensor& t) const;
  // The same where there may be none; of the leader's type and on its device.
  void optional_rows(const char* name, const std::optional<Tensor>& t,
                     std::initializer_list<Dimension> wanted, const char* leader_name,
                     const Tensor& leader) const;
  void distinct_rows(const char* name, const Tensor& t) const;
  void contiguous(const char* name, const Tensor& t) const;
  void aligned(const char* name, const Tensor& t) const;
  void contiguous_last_dimension(const char* name, const Tensor& t) const;
  void same_device(const char* name, const Tensor& t, const char* leader_name,
                   const Tensor& leader) const;

 private:
  const char* op_;
};

// The ids as our kernels read them; without a map there are num_experts.
ExpertIds expert_ids(const Tensor& topk_ids, const std::optional<Tensor>& expert_map,
                     int64_t num_experts);

// The dtype as our kernels name it; the checks have made sure that it is one of the three.
ElementType element_type(const Tensor& t);

}  // namespace sm80moe::ops
