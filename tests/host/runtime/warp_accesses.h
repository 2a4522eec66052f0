#pragma once
// Puts the parts of a warp's memory instructions together, which the threads execute one by one.

#include <cstdint>
#include <map>
#include <vector>

#include "runtime/report.h"

namespace simt {

struct WarpAccess {
  int kind;  // what the user of this header says it is
  int bytes;
  unsigned lanes = 0;
  uint64_t address[32];
};

class WarpAccesses {
 public:
  using Count = void (*)(const WarpAccess& access);
  // `count` is called once for each instruction.
  explicit WarpAccesses(Count count) : count_(count) {}

  // One thread's part. Parts belong together by their site: a lane's n-th to the n-th instruction.
  void add(int kind, uint64_t address, int bytes, Site site);
  // Counts instructions that not all lanes of a warp have executed.
  void end_block();

 private:
  struct Key {
    int warp;
    Site site;
    bool operator<(const Key& other) const {
      return warp != other.warp ? warp < other.warp : site < other.site;
    }
  };

  const Count count_;
  std::map<Key, std::vector<WarpAccess>> open_;
};

}  // namespace simt
