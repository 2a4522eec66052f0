#pragma once
// Replaces CUDA's header: the part of the runtime that the launchers and device_info.cpp call, on
// one imaginary GPU whose properties runtime/device.h sets.

#include <cstddef>
#include <utility>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorCooperativeLaunchTooLarge = 720,
};

enum cudaDeviceAttr {
  cudaDevAttrClockRate = 13,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMemoryClockRate = 36,
  cudaDevAttrGlobalMemoryBusWidth = 37,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
  cudaDevAttrReservedSharedMemoryPerBlock = 111,
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

struct CUstream_st;
using cudaStream_t = CUstream_st*;

cudaError_t cudaGetLastError();
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

namespace simt {
cudaError_t set_dynamic_smem_limit(const void* kernel, int bytes);
cudaError_t resident_blocks(int* blocks, int threads, std::size_t smem_bytes);

// How to call a kernel of which only the address is known, with arguments of which only theirs are.
using CallByAddress = void (*)(const void* kernel, void** args);
void know_kernel(const void* kernel, CallByAddress call);

template <class... Args, std::size_t... kIndices>
__attribute__((no_sanitize("thread"))) void call_with(const void* kernel, void** args,
                                                      std::index_sequence<kIndices...>) {
  reinterpret_cast<void (*)(Args...)>(kernel)(*static_cast<Args*>(args[kIndices])...);
}
template <class... Args>
__attribute__((no_sanitize("thread"))) void call_by_address(const void* kernel, void** args) {
  call_with<Args...>(kernel, args, std::index_sequence_for<Args...>{});
}
}  // namespace simt

template <class... Args>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Args...), cudaFuncAttribute, int value) {
  const auto* address = reinterpret_cast<const void*>(kernel);
  simt::know_kernel(address, simt::call_by_address<Args...>);
  return simt::set_dynamic_smem_limit(address, value);
}

template <class... Args>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*)(Args...),
                                                          int threads, std::size_t smem_bytes) {
  return simt::resident_blocks(blocks, threads, smem_bytes);
}
