#include "runtime/bank_conflicts.h"

#include <algorithm>
#include <set>

#include "runtime/machine.h"

namespace simt {
namespace {

constexpr int kNumBanks = 32;
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

void BankConflicts::add(SharedOp op, uint32_t address, int bytes, Site site) {
  const Thread& thread = *current_thread();
  std::vector<Instruction>& open = open_[{thread.warp, site}];
  const unsigned bit = 1u << thread.lane;
  auto mine = std::find_if(open.begin(), open.end(),
                           [bit](const Instruction& other) { return !(other.lanes & bit); });
  if (mine == open.end()) {
    Instruction fresh;
    fresh.op = op;
    fresh.bytes = bytes;
    mine = open.insert(open.end(), fresh);
  }
  mine->lanes |= bit;
  mine->address[thread.lane] = address;
  if (mine->lanes != kFullWarp) return;
  count(*mine);
  open.erase(mine);
}

void BankConflicts::add_matrix(const uint32_t (&rows)[8]) {
  extra_[static_cast<int>(SharedOp::kLdmatrix)] += extra_passes_for(rows, 8, 16);
}

void BankConflicts::end_block() {
  for (const auto& entry : open_)
    for (const Instruction& instruction : entry.second) count(instruction);
  open_.clear();
}

// 16 bytes a lane are served 8 lanes at a time, 8 bytes 16 lanes at a time.
void BankConflicts::count(const Instruction& instruction) {
  const int lanes_together = std::min(kWarpSize, kNumBanks * kBankBytes / instruction.bytes);
  for (int first = 0; first < kWarpSize; first += lanes_together) {
    uint32_t addresses[kWarpSize];
    int num = 0;
    for (int lane = first; lane < first + lanes_together; ++lane)
      if (instruction.lanes >> lane & 1) addresses[num++] = instruction.address[lane];
    extra_[static_cast<int>(instruction.op)] += extra_passes_for(addresses, num, instruction.bytes);
  }
}

BankConflicts& bank_conflicts() {
  static BankConflicts counts;
  return counts;
}

}  // namespace simt
