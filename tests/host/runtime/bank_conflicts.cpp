#include "runtime/bank_conflicts.h"

#include <algorithm>
#include <set>

namespace simt {
namespace {

constexpr int kLanes = 32, kNumBanks = 32;
constexpr int kBankBytes = 4;

// Passes beyond the first for addresses that the hardware serves together. Lanes that want the
// same word share a pass.
int extra_passes_for(const uint32_t* addresses, int num, int bytes) {
  std::set<uint32_t> words[kNumBanks];
  for (int i = 0; i < num; ++i)
    for (int byte = 0; byte < std::max(bytes, kBankBytes); byte += kBankBytes) {
      const uint32_t word = (addresses[i] + byte) / kBankBytes;
      words[word % kNumBanks].insert(word);
    }
  size_t passes = 1;
  for (const auto& bank : words) passes = std::max(passes, bank.size());
  return static_cast<int>(passes) - 1;
}

}  // namespace

BankConflicts::BankConflicts()
    : accesses_([](const WarpAccess& access) { bank_conflicts().count(access); }) {}

void BankConflicts::add_matrix(const uint32_t (&rows)[8]) {
  extra_[static_cast<int>(SharedOp::kLdmatrix)] += extra_passes_for(rows, 8, 16);
}

// 16 bytes a lane are served 8 lanes at a time, 8 bytes 16 lanes at a time.
void BankConflicts::count(const WarpAccess& access) {
  const int lanes_together = std::min(kLanes, kNumBanks * kBankBytes / access.bytes);
  for (int first = 0; first < kLanes; first += lanes_together) {
    uint32_t addresses[kLanes];
    int num = 0;
    for (int lane = first; lane < first + lanes_together; ++lane)
      if (access.lanes >> lane & 1) addresses[num++] = static_cast<uint32_t>(access.address[lane]);
    extra_[access.kind] += extra_passes_for(addresses, num, access.bytes);
  }
}

BankConflicts& bank_conflicts() {
  static BankConflicts counts;
  return counts;
}

}  // namespace simt
