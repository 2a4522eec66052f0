#include "runtime/async_copy.h"

#include <cstring>

#include "runtime/machine.h"
#include "runtime/memory.h"

namespace simt {

void CopyQueue::issue(uint32_t dst, const void* src, int bytes, int src_bytes, Site site) {
  check_alignment(dst, bytes, site);
  if (src_bytes > 0) {
    check_alignment(reinterpret_cast<uintptr_t>(src), bytes, site);
    check_access(src, src_bytes, Access::kRead, site);
  }
  begin_async_write(dst, bytes, site);
  copies_.push_back(
      {dst, static_cast<const char*>(src), bytes, src_bytes, committed_, site, false});

  // An odd seed lets copies land at any moment, an even one as late as is legal.
  if (settings().seed % 2 == 0) return;
  for (Copy& copy : copies_)
    if (!copy.landed && schedule_random().below(4) == 0) land(copy);
}

void CopyQueue::wait_for_all_but(int groups) {
  if (committed_ >= static_cast<uint64_t>(groups)) finish_groups_before(committed_ - groups);
}

void CopyQueue::wait_for_all() { finish_groups_before(committed_ + 1); }

bool CopyQueue::in_flight() const { return !copies_.empty(); }

void CopyQueue::clear() {
  copies_.clear();
  committed_ = 0;
}

void CopyQueue::finish_groups_before(uint64_t group) {
  size_t done = 0;
  for (; done < copies_.size() && copies_[done].group < group; ++done) finish(copies_[done]);
  copies_.erase(copies_.begin(), copies_.begin() + done);
}

void CopyQueue::land(Copy& copy) {
  char* dst = shared_pointer(copy.dst);
  if (copy.src_bytes > 0) memcpy(dst, copy.src, copy.src_bytes);
  memset(dst + copy.src_bytes, 0, copy.bytes - copy.src_bytes);
  copy.landed = true;
}

void CopyQueue::finish(Copy& copy) {
  if (!copy.landed) land(copy);
  end_async_write(copy.dst, copy.bytes, copy.site);
}

}  // namespace simt
