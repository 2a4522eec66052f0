#pragma once
// One run's choices: the schedule and the imaginary GPU.

#include <cstdint>

namespace simt {

struct Settings {
  uint64_t seed = 0;  // of the thread order, the block order and the landing of copies

  int num_sms = 4;
  int blocks_per_sm = 1;         // what the occupancy query answers
  int smem_per_sm = 164 * 1024;  // as on SM80
  int smem_per_block_optin = 163 * 1024;
  int smem_reserved_per_block = 1024;

  // Off where the caller asks for overlapping outputs, which then have no defined value.
  bool check_global_races = true;
};

Settings& settings();

}  // namespace simt
