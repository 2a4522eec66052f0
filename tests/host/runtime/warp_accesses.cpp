#include "runtime/warp_accesses.h"

#include <algorithm>

#include "runtime/machine.h"

namespace simt {

void WarpAccesses::add(int kind, uint64_t address, int bytes, Site site) {
  const Thread& thread = *current_thread();
  std::vector<WarpAccess>& open = open_[{thread.warp, site}];
  const unsigned bit = 1u << thread.lane;
  auto mine = std::find_if(open.begin(), open.end(),
                           [bit](const WarpAccess& other) { return !(other.lanes & bit); });
  if (mine == open.end()) {
    WarpAccess fresh;
    fresh.kind = kind;
    fresh.bytes = bytes;
    mine = open.insert(open.end(), fresh);
  }
  mine->lanes |= bit;
  mine->address[thread.lane] = address;
  if (mine->lanes != kFullWarp) return;
  count_(*mine);
  open.erase(mine);
}

void WarpAccesses::end_block() {
  for (const auto& entry : open_)
    for (const WarpAccess& access : entry.second) count_(access);
  open_.clear();
}

}  // namespace simt
