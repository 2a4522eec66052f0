#pragma once
// Where scales and codes of packed weights are. Both are words of 4 bytes, a word of codes those of
// four groups; the words of eight neighbouring rows lie side by side, since who reads one reads the
// others' too, and memory is read 32 bytes at a time.

#include <cstdint>

#include "common/macros.cuh"
#include "common/packed_args.h"

namespace sm80moe {

// In [num_experts, n / 8, words, 8], that of word 0 of a row, counted over all experts.
SM80MOE_DEVICE uint64_t first_word(uint32_t row, uint32_t words) {
  return uint64_t{row / kRowsSideBySide} * (words * kRowsSideBySide) + row % kRowsSideBySide;
}
// And from there to word number `word`.
SM80MOE_DEVICE int to_word(int word) { return word * kRowsSideBySide; }

}  // namespace sm80moe
