#pragma once
// Counts the extra passes over the 32 banks of shared memory that a warp's accesses need.

#include <cstdint>

#include "runtime/warp_accesses.h"

namespace simt {

enum class SharedOp { kLoad, kStore, kAsyncCopy, kLdmatrix };
constexpr int kNumSharedOps = 4;

class BankConflicts {
 public:
  BankConflicts();
  // One thread's part of an instruction.
  void add(SharedOp op, uint32_t address, int bytes, Site site) {
    accesses_.add(static_cast<int>(op), address, bytes, site);
  }
  // The rows of one 8x8 matrix.
  void add_matrix(const uint32_t (&rows)[8]);
  void end_block() { accesses_.end_block(); }

  uint64_t extra_passes(SharedOp op) const { return extra_[static_cast<int>(op)]; }

 private:
  void count(const WarpAccess& access);

  WarpAccesses accesses_;
  uint64_t extra_[kNumSharedOps] = {};
};

BankConflicts& bank_conflicts();

}  // namespace simt
