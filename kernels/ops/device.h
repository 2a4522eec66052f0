#pragma once
// The device side of a call: guard, stream, limits, allocation, and CUDA's errors as exceptions.

#include <torch/csrc/stable/accelerator.h>

#include <initializer_list>

#include "common/device_info.h"
#include "ops/checks.h"

namespace sm80moe::ops {

// For as long as it lives the tensor's device is the current one.
class DeviceScope {
 public:
  DeviceScope(const Checker& check, const Tensor& t);

  void check_cuda(cudaError_t status) const;

  // Uninitialised, contiguous, on this device.
  Tensor empty(std::initializer_list<int64_t> sizes, ScalarType type) const;

  int index() const { return index_; }
  const DeviceInfo& info() const { return info_; }
  cudaStream_t stream() const { return stream_; }

 private:
  const Checker& check_;
  int index_;
  torch::stable::accelerator::DeviceGuard guard_;
  DeviceInfo info_;
  cudaStream_t stream_ = nullptr;
};

// What is known of the device that an argument named device_index asks for.
DeviceInfo device_info_of(const Checker& check, int64_t device_index);

}  // namespace sm80moe::ops
