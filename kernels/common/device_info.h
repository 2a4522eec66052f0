#pragma once
// What the host must know of a GPU before it launches. Asked once per device, then remembered.

#include <cuda_runtime_api.h>

namespace sm80moe {

struct DeviceInfo {
  int num_sms = 0;
  int capability = 0;             // 10 * major + minor
  int smem_per_sm = 0;            // bytes that the CTAs of one SM share
  int smem_per_cta = 0;           // opt-in limit of one CTA, in bytes
  int smem_reserved_per_cta = 0;  // bytes the system takes from smem_per_sm for each CTA
  double dram_bytes_per_us = 0;   // what can be read, by clock and bus width
  double mma_flops_per_us = 0;    // of one SM, by clock and generation
};

// Fills `info` with the limits of `device`, lowered to what set_shared_memory_limit allows.
cudaError_t get_device_info(int device, DeviceInfo* info);

// Makes every GPU pretend that a CTA, and an SM, has at most `bytes` of shared memory; 0 lifts the
// limit. Holds for the process.
void set_shared_memory_limit(int bytes);

}  // namespace sm80moe
