#pragma once
// One function per PTX instruction, named after it; no inline assembly lives anywhere else.
// Shared addresses are 32-bit.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "common/macros.cuh"

namespace sm80moe::ptx {

SM80MOE_DEVICE uint32_t shared_address(const void* ptr) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(ptr));
}

// clang-format off

// No instruction: keeps nvcc from working out x anew, or later, wherever it is used.
SM80MOE_DEVICE uint32_t worked_out(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}
template <class T>
SM80MOE_DEVICE const T* worked_out(const T* x) {
  asm volatile("" : "+l"(x));
  return x;
}

// 16-byte copy that bypasses L1. Writes zeros when `valid` is 0; `src` is then not read. L2 fetches
// 256 bytes: the next stage of the same row, which DRAM then gives in one burst.
SM80MOE_DEVICE void cp_async_16(uint32_t dst, const void* src, uint32_t valid) {
  asm volatile("{\n"
               ".reg .pred ignore_src;\n"
               "setp.eq.u32 ignore_src, %2, 0;\n"
               "cp.async.cg.shared.global.L2::256B [%0], [%1], 16, ignore_src;\n"
               "}"
               :: "r"(dst), "l"(src), "r"(valid) : "memory");
}

// The same through L1, for what other warps of the SM copy, too.
SM80MOE_DEVICE void cp_async_ca_16(uint32_t dst, const void* src, uint32_t valid) {
  asm volatile("{\n"
               ".reg .pred ignore_src;\n"
               "setp.eq.u32 ignore_src, %2, 0;\n"
               "cp.async.ca.shared.global [%0], [%1], 16, ignore_src;\n"
               "}"
               :: "r"(dst), "l"(src), "r"(valid) : "memory");
}

// 4 bytes; zeros when `valid` is 0.
SM80MOE_DEVICE void cp_async_4(uint32_t dst, const void* src, uint32_t valid) {
  asm volatile("{\n"
               ".reg .pred ignore_src;\n"
               "setp.eq.u32 ignore_src, %2, 0;\n"
               "cp.async.ca.shared.global [%0], [%1], 4, ignore_src;\n"
               "}"
               :: "r"(dst), "l"(src), "r"(valid) : "memory");
}

SM80MOE_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Returns when at most kPending of this thread's groups are still in flight. Other threads see the
// data only after a barrier.
template <int kPending>
SM80MOE_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" :: "n"(kPending) : "memory");
}

SM80MOE_DEVICE uint4 ld_global_v4_b32(const uint4* address) {
  uint4 four;
  asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(four.x), "=r"(four.y), "=r"(four.z), "=r"(four.w) : "l"(address));
  return four;
}
SM80MOE_DEVICE uint4 ld_shared_v4_b32(uint32_t address) {
  uint4 four;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(four.x), "=r"(four.y), "=r"(four.z), "=r"(four.w) : "r"(address));
  return four;
}
SM80MOE_DEVICE uint32_t ld_shared_b32(uint32_t address) {
  uint32_t word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address));
  return word;
}
SM80MOE_DEVICE float ld_shared_f32(uint32_t address) {
  float word;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(word) : "r"(address));
  return word;
}
SM80MOE_DEVICE float2 ld_shared_v2_f32(uint32_t address) {
  float2 words;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(words.x), "=f"(words.y) : "r"(address));
  return words;
}

// 1 / x to the last bit but one; infinity for subnormal x.
SM80MOE_DEVICE float rcp_approx(float x) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  return inverse;
}

// Any function of three bits, for all bits of three words at once; kTable is its truth table: the
// function of 0xf0, 0xcc and 0xaa. From C++ nvcc makes two instructions where two constants meet.
template <int kTable>
SM80MOE_DEVICE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(kTable));
  return d;
}

// Lanes 8i..8i+7 give the row addresses of matrix i; lane l receives elements 2(l%4), 2(l%4)+1 of
// row l/4 of each matrix.
SM80MOE_DEVICE void ldmatrix_x4(uint32_t (&r)[4], uint32_t addr) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(addr));
}

// d += a * b on one 16x8x16 tile, fp32 accumulation.
SM80MOE_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                 __nv_bfloat16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

SM80MOE_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                 __half) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d += a * b on one 16x8x32 tile of signed bytes, int32 accumulation that wraps.
SM80MOE_DEVICE void mma_m16n8k32(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                 uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// clang-format on

}  // namespace sm80moe::ptx
