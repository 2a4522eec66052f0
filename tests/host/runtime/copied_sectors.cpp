#include "runtime/copied_sectors.h"

#include <set>

namespace simt {
namespace {

constexpr int kLanes = 32, kSectorBytes = 32, kWordBytes = 4;

}  // namespace

CopiedSectors::CopiedSectors()
    : accesses_([](const WarpAccess& access) { copied_sectors().count(access); }) {}

void CopiedSectors::count(const WarpAccess& access) {
  Bytes& bytes = access.bytes == kWordBytes ? words_ : chunks_;
  std::set<uint64_t> sectors;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(access.lanes >> lane & 1) || access.address[lane] == 0) continue;
    sectors.insert(access.address[lane] / kSectorBytes);
    bytes.wanted += access.bytes;
  }
  bytes.brought += sectors.size() * kSectorBytes;
}

CopiedSectors& copied_sectors() {
  static CopiedSectors counts;
  return counts;
}

}  // namespace simt
