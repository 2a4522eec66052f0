#include "common/device_info.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <unordered_map>

namespace sm80moe {
namespace {

std::atomic<int> shared_memory_limit{0};

cudaError_t query(int device, DeviceInfo* info) {
  int major = 0, minor = 0;
  const struct {
    int* value;
    cudaDeviceAttr attribute;
  } queries[] = {
      {&info->num_sms, cudaDevAttrMultiProcessorCount},
      {&major, cudaDevAttrComputeCapabilityMajor},
      {&minor, cudaDevAttrComputeCapabilityMinor},
      {&info->smem_per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor},
      {&info->smem_per_cta, cudaDevAttrMaxSharedMemoryPerBlockOptin},
      {&info->smem_reserved_per_cta, cudaDevAttrReservedSharedMemoryPerBlock},
  };
  for (const auto& q : queries) {
    const cudaError_t status = cudaDeviceGetAttribute(q.value, q.attribute, device);
    if (status != cudaSuccess) return status;
  }
  info->capability = 10 * major + minor;
  return cudaSuccess;
}

}  // namespace

cudaError_t get_device_info(int device, DeviceInfo* info) {
  static std::mutex mutex;
  static std::unordered_map<int, DeviceInfo> known;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = known.find(device);
    if (found == known.end()) {
      DeviceInfo fresh;
      const cudaError_t status = query(device, &fresh);
      if (status != cudaSuccess) return status;
      known.emplace(device, fresh);
      *info = fresh;
    } else {
      *info = found->second;
    }
  }
  const int limit = shared_memory_limit.load(std::memory_order_relaxed);
  if (limit > 0) {
    info->smem_per_cta = std::min(info->smem_per_cta, limit);
    info->smem_per_sm = std::min(info->smem_per_sm, limit + info->smem_reserved_per_cta);
  }
  return cudaSuccess;
}

void set_shared_memory_limit(int bytes) { shared_memory_limit.store(bytes); }

}  // namespace sm80moe
