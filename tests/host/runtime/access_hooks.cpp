// What the compiler calls before each load and store of a kernel. -fsanitize=thread puts the calls
// there; none of ThreadSanitizer's own library takes part. Unlike AddressSanitizer's calls they
// tell a read from a write, and none is left out.

#include <cstddef>
#include <cstdint>

#include "runtime/bank_conflicts.h"
#include "runtime/machine.h"
#include "runtime/memory.h"

namespace {

using simt::Access;
using simt::SharedOp;
using simt::Site;

void before_access(void* address, size_t bytes, Access access, Site site) {
  simt::check_access(address, bytes, access, site);
  if (simt::current_thread() && simt::is_shared(address))
    simt::bank_conflicts().add(access == Access::kRead ? SharedOp::kLoad : SharedOp::kStore,
                               simt::shared_address(address), static_cast<int>(bytes), site);
}

}  // namespace

#define ACCESS_HOOK(name, bytes, access)                                \
  extern "C" void __tsan_##name(void* address) {                        \
    before_access(address, bytes, access, __builtin_return_address(0)); \
  }
ACCESS_HOOK(read1, 1, Access::kRead)
ACCESS_HOOK(read2, 2, Access::kRead)
ACCESS_HOOK(read4, 4, Access::kRead)
ACCESS_HOOK(read8, 8, Access::kRead)
ACCESS_HOOK(read16, 16, Access::kRead)
ACCESS_HOOK(write1, 1, Access::kWrite)
ACCESS_HOOK(write2, 2, Access::kWrite)
ACCESS_HOOK(write4, 4, Access::kWrite)
ACCESS_HOOK(write8, 8, Access::kWrite)
ACCESS_HOOK(write16, 16, Access::kWrite)
ACCESS_HOOK(unaligned_read2, 2, Access::kRead)
ACCESS_HOOK(unaligned_read4, 4, Access::kRead)
ACCESS_HOOK(unaligned_read8, 8, Access::kRead)
ACCESS_HOOK(unaligned_write2, 2, Access::kWrite)
ACCESS_HOOK(unaligned_write4, 4, Access::kWrite)
ACCESS_HOOK(unaligned_write8, 8, Access::kWrite)

extern "C" void __tsan_read_range(void* address, size_t bytes) {
  before_access(address, bytes, Access::kRead, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* address, size_t bytes) {
  before_access(address, bytes, Access::kWrite, __builtin_return_address(0));
}
extern "C" void __tsan_init() {}

// The launchers' own atomics, in host code with one thread.
extern "C" uint32_t __tsan_atomic32_load(const uint32_t* address, int) { return *address; }
extern "C" void __tsan_atomic32_store(uint32_t* address, uint32_t value, int) { *address = value; }
extern "C" uint8_t __tsan_atomic8_load(const uint8_t* address, int) { return *address; }
extern "C" void __tsan_atomic8_store(uint8_t* address, uint8_t value, int) { *address = value; }
