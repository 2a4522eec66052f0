#pragma once
// Counts the extra passes over the 32 banks of shared memory that a warp's accesses need.

#include <cstdint>
#include <map>
#include <vector>

#include "runtime/report.h"

namespace simt {

enum class SharedOp { kLoad, kStore, kAsyncCopy, kLdmatrix };
constexpr int kNumSharedOps = 4;

class BankConflicts {
 public:
  // One thread's part of an instruction. The parts of a warp are put together by their site: a
  // lane's n-th part belongs to the n-th instruction.
  void add(SharedOp op, uint32_t address, int bytes, Site site);
  // The rows of one 8x8 matrix.
  void add_matrix(const uint32_t (&rows)[8]);
  void end_block();

  uint64_t extra_passes(SharedOp op) const { return extra_[static_cast<int>(op)]; }

 private:
  struct Instruction {
    SharedOp op;
    int bytes;
    unsigned lanes = 0;
    uint32_t address[32];
  };
  struct Key {
    int warp;
    Site site;
    bool operator<(const Key& other) const {
      return warp != other.warp ? warp < other.warp : site < other.site;
    }
  };
  void count(const Instruction& instruction);

  std::map<Key, std::vector<Instruction>> open_;
  uint64_t extra_[kNumSharedOps] = {};
};

BankConflicts& bank_conflicts();

}  // namespace simt
