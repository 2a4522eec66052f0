#pragma once
// The size of a grid that fills the device exactly once.

#include "common/device_info.h"

namespace sm80moe::ceilings {

// Stores how many CTAs of `kernel` the current device holds at once.
template <class Kernel>
cudaError_t full_wave(Kernel* kernel, int threads, int* num_ctas) {
  int device = 0, ctas_per_sm = 0;
  DeviceInfo info;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = get_device_info(device, &info);
  if (status == cudaSuccess)
    status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&ctas_per_sm, kernel, threads, 0);
  *num_ctas = info.num_sms * ctas_per_sm;
  return status;
}

}  // namespace sm80moe::ceilings
