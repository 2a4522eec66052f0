#pragma once
// cp.async as the PTX manual defines it: bytes land at some moment between the copy and the wait
// of the thread that issued it, and may be touched by nobody meanwhile.

#include <cstdint>
#include <vector>

#include "runtime/report.h"

namespace simt {

// One thread's copies, in the groups that it committed.
class CopyQueue {
 public:
  void issue(uint32_t dst, const void* src, int bytes, int src_bytes, Site site);
  void commit() { ++committed_; }
  void wait_for_all_but(int groups);
  void wait_for_all();
  // True if a copy of something is still in flight. Zeros may be: the ring asks for them where no
  // tile is left, and nobody reads them.
  bool in_flight() const;
  void clear();

 private:
  struct Copy {
    uint32_t dst;
    const char* src;
    int bytes, src_bytes;
    uint64_t group;
    Site site;
    bool landed;
  };
  static void land(Copy& copy);
  static void finish(Copy& copy);
  void finish_groups_before(uint64_t group);

  std::vector<Copy> copies_;
  uint64_t committed_ = 0;
};

}  // namespace simt
