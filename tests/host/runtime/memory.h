#pragma once
// Every byte that a kernel may touch, who touched it last, and the checks made at each access.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "runtime/report.h"

namespace simt {

enum class Access { kRead, kWrite, kAtomic };

// Device memory of exactly `bytes` bytes with nothing legal around it, poisoned with NaN. What
// the host writes there becomes readable only by mark_initialised.
void* device_allocate(const char* name, size_t bytes);
void mark_initialised(const void* address, size_t bytes);

// Fails unless the access stays inside one tensor, the block's shared memory or the thread's own
// stack, is read only after it was written, and conflicts with no unordered access.
void check_access(const void* address, size_t bytes, Access access, Site site);
void check_alignment(uint64_t address, size_t bytes, Site site);

// The bytes belong to a copy in flight: touching them is a failure until the copy has ended.
void begin_async_write(uint32_t shared_address, size_t bytes, Site site);
void end_async_write(uint32_t shared_address, size_t bytes, Site site);

// Shared memory of the block that runs. Its addresses are offsets in a window.
void reset_shared_memory(size_t dynamic_bytes);
// The same of a block that waits while another runs: it takes the place of what is in the window,
// and the other way round.
class SharedMemory {
 public:
  SharedMemory();
  ~SharedMemory();

 private:
  friend void exchange_shared_memory(SharedMemory& waiting);
  struct State;
  std::unique_ptr<State> state_;
};
void exchange_shared_memory(SharedMemory& waiting);
void* dynamic_shared_memory(size_t alignment);
void* static_shared_memory(const char* name, size_t bytes, size_t alignment);
char* shared_pointer(uint32_t address);
uint32_t shared_address(const void* pointer);
bool is_shared(const void* pointer);

// Forgets who touched what: a kernel sees everything that earlier kernels did.
void forget_accesses();

}  // namespace simt
