#include "ops/settings.h"

#include <atomic>
#include <limits>

#include "common/device_info.h"
#include "ops/checks.h"

namespace sm80moe::ops {
namespace {

std::atomic<int64_t> limit_of_workspace{0};

}  // namespace

int64_t workspace_limit() { return limit_of_workspace.load(std::memory_order_relaxed); }

void configure(std::optional<int64_t> shared_memory_limit, std::optional<int64_t> workspace_limit) {
  constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
  constexpr int64_t kMaxBytes = std::numeric_limits<int64_t>::max();
  const Checker check("configure");
  if (shared_memory_limit) check.between("shared_memory_limit", *shared_memory_limit, 0, kMaxInt);
  if (workspace_limit) check.between("workspace_limit", *workspace_limit, 0, kMaxBytes);
  if (shared_memory_limit) set_shared_memory_limit(static_cast<int>(*shared_memory_limit));
  if (workspace_limit) limit_of_workspace.store(*workspace_limit);
}

}  // namespace sm80moe::ops
