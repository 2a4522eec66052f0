#pragma once
// Kernels that do nothing but reach one limit of the current device, for the benchmark to measure.
// C functions without tensors: Python calls them by ctypes, and they are no operators. Each returns
// a cudaError_t, cudaErrorInvalidValue for arguments that break what is said here.

#include <cuda_runtime_api.h>

#include <cstdint>

#define SM80MOE_EXPORT extern "C" __attribute__((visibility("default")))

// Reads all of `src` by 16-byte loads. The XOR of its 32-bit words is that of all of `checksums`:
// each warp writes a word, words that no warp has are left alone.
struct ReadCeiling {
  const void* src;      // aligned to 16 bytes
  int64_t num_bytes;    // a multiple of kReadGranularity
  uint32_t* checksums;  // [num_checksums]
  int64_t num_checksums;
};
inline constexpr int64_t kReadGranularity = 8192;
SM80MOE_EXPORT int sm80moe_read_ceiling(const ReadCeiling* args, cudaStream_t stream);

// Every CTA of one full wave multiplies the same two tiles `rounds` times: mma.sync fed by ldmatrix
// from shared memory. sums[m, n] = rounds * (a[m, :] . b[n, :]).
enum MmaOperand { kMmaFp16, kMmaBf16, kMmaInt8, kNumMmaOperands };
struct MmaCeiling {
  const void* tiles;  // a, then b: each 128 rows of 128 bytes; aligned to 16 bytes
  void* sums;         // [128, 128] fp32, for int8 int32
  int operand;        // MmaOperand
  int rounds;
};
// Stores how many multiplications and additions the launch does in `num_operations`.
SM80MOE_EXPORT int sm80moe_mma_ceiling(const MmaCeiling* args, cudaStream_t stream,
                                       int64_t* num_operations);
