#pragma once
// Settings that hold for the process.

#include <cstdint>
#include <optional>

namespace sm80moe::ops {

// What is not given stays as it is; 0 restores the default.
void configure(std::optional<int64_t> shared_memory_limit, std::optional<int64_t> workspace_limit);

// Bytes that the workspace of a layer may take; 0 is the default, see plan_chunks.
int64_t workspace_limit();

}  // namespace sm80moe::ops
