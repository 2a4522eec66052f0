#pragma once
// Counts the sectors of device memory that a warp's copies bring, each of which is 32 bytes however
// few of them are wanted.

#include <cstdint>

#include "runtime/warp_accesses.h"

namespace simt {

class CopiedSectors {
 public:
  // Of the copies of so many bytes a lane.
  struct Bytes {
    uint64_t wanted = 0, brought = 0;
  };

  CopiedSectors();
  // One thread's part of an instruction; null if it reads nothing.
  void add(const void* source, int bytes, Site site) {
    accesses_.add(0, reinterpret_cast<uint64_t>(source), bytes, site);
  }
  void end_block() { accesses_.end_block(); }

  const Bytes& words() const { return words_; }
  const Bytes& chunks() const { return chunks_; }

 private:
  void count(const WarpAccess& access);

  WarpAccesses accesses_;
  Bytes words_, chunks_;  // of 4 bytes, and of 16
};

CopiedSectors& copied_sectors();

}  // namespace simt
