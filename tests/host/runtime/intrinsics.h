#pragma once
// CUDA's built-in variables and warp functions. Default arguments note the kernel's line.

#include <cstddef>

#include "runtime/machine.h"
#include "runtime/memory.h"

extern const uint3 threadIdx, blockIdx;
extern const dim3 blockDim, gridDim;

// The kernel's line, which a call gets by default.
#define SIMT_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SIMT_CALLER) { simt::block_barrier({file, line}); }
inline void __syncwarp(unsigned mask = simt::kFullWarp, SIMT_CALLER) {
  simt::warp_barrier({file, line}, mask);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, SIMT_CALLER) {
  const int source = lane % simt::kWarpSize;
  simt::shuffle("__shfl_sync", {file, line}, mask, &value, sizeof(T), source);
  return value;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, SIMT_CALLER) {
  const int source = simt::own_lane() ^ bits;
  simt::shuffle("__shfl_xor_sync", {file, line}, mask, &value, sizeof(T), source);
  return value;
}
// A lane with none below it at the distance keeps its value.
template <class T>
T __shfl_up_sync(unsigned mask, T value, int distance, SIMT_CALLER) {
  const int lane = simt::own_lane(), source = lane >= distance ? lane - distance : lane;
  simt::shuffle("__shfl_up_sync", {file, line}, mask, &value, sizeof(T), source);
  return value;
}

template <class T>
unsigned __match_any_sync(unsigned mask, T value, SIMT_CALLER) {
  return simt::match("__match_any_sync", {file, line}, mask, &value, sizeof(T));
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_CALLER) {
  const bool holds = predicate != 0;
  const unsigned same = simt::match("__ballot_sync", {file, line}, mask, &holds, sizeof(holds));
  return holds ? same : mask & ~same;
}

template <class T>
T __reduce_max_sync(unsigned mask, T value, SIMT_CALLER) {
  return static_cast<T>(
      simt::reduce("__reduce_max_sync", {file, line}, mask, value, simt::Reduction::kMax));
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, SIMT_CALLER) {
  const int64_t negated = -static_cast<int64_t>(value);
  return static_cast<T>(
      -simt::reduce("__reduce_min_sync", {file, line}, mask, negated, simt::Reduction::kMax));
}

template <class T>
T __reduce_add_sync(unsigned mask, T value, SIMT_CALLER) {
  return static_cast<T>(
      simt::reduce("__reduce_add_sync", {file, line}, mask, value, simt::Reduction::kSum));
}

// An atomic is never part of a race with another atomic. A fence orders nothing here: what a
// kernel publishes by a fence and a flag is reported as a race unless the reader is atomic too.
template <class T>
__attribute__((noinline, no_sanitize("thread"))) T atomicAdd(T* address, T value) {
  simt::check_access(address, sizeof(T), simt::Access::kAtomic, __builtin_return_address(0));
  const T old = *address;
  *address = old + value;
  return old;
}
template <class T>
__attribute__((noinline, no_sanitize("thread"))) T atomicMax(T* address, T value) {
  simt::check_access(address, sizeof(T), simt::Access::kAtomic, __builtin_return_address(0));
  const T old = *address;
  if (value > old) *address = value;
  return old;
}
inline void __threadfence() {}

inline size_t __cvta_generic_to_shared(const void* pointer) {
  return simt::shared_address(pointer);
}

namespace simt {

// `extern __shared__ T name[];`
template <class T>
T* dynamic_shared(size_t alignment = alignof(T) > 16 ? alignof(T) : 16) {
  return static_cast<T*>(dynamic_shared_memory(alignment));
}

// `__shared__ T name;`
template <class T>
T& static_shared(const char* name, size_t alignment = alignof(T)) {
  return *static_cast<T*>(static_shared_memory(name, sizeof(T), alignment));
}

}  // namespace simt
