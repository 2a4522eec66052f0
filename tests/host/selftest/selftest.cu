// Kernels that only test the host execution itself: what kernels/ does not use, and one mistake
// each. `selftest case=<name>` runs one.

#include <cstdint>
#include <map>

#include "common/ptx.cuh"
#include "driver/commands.h"
#include "driver/tensor.h"
#include "runtime/launch.h"

namespace {

using driver::Tensor;
using namespace sm80moe::ptx;

// 16x16 times 16x8 by one mma; ldmatrix brings A, and B as the manual's table of fragments has it.
__global__ void mma_kernel(const uint16_t* a, const uint16_t* b, float* d) {
  __shared__ __align__(16) uint16_t a_smem[16 * 16];
  const int lane = threadIdx.x;
  for (int i = lane; i < 16 * 16; i += 32) a_smem[i] = a[i];
  __syncwarp();
  uint32_t a_frag[4];
  ldmatrix_x4(a_frag, shared_address(a_smem + lane % 16 * 16 + lane / 16 * 8));
  uint32_t b_frag[2];
  for (int i = 0; i < 2; ++i) {
    const int k = lane % 4 * 2 + i * 8;
    b_frag[i] = b[k * 8 + lane / 4] | uint32_t{b[(k + 1) * 8 + lane / 4]} << 16;
  }
  float sum[4] = {};
  mma_m16n8k16(sum, a_frag, b_frag[0], b_frag[1], __half{});
  for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

void run_mma() {
  simt::Random random(1);
  Tensor<uint16_t> a("a", 16 * 16), b("b", 16 * 8);
  Tensor<float> d("d", 16 * 8);
  constexpr auto kHalf = sm80moe::ElementType::kFloat16;
  for (int i = 0; i < 16 * 16; ++i)
    a.set_flat(i, driver::to_bits(driver::short_fraction(random), kHalf));
  for (int i = 0; i < 16 * 8; ++i)
    b.set_flat(i, driver::to_bits(driver::short_fraction(random), kHalf));
  mma_kernel<<<1, 32>>>(a.data(), b.data(), d.data());
  for (int row = 0; row < 16; ++row)
    for (int col = 0; col < 8; ++col) {
      double sum = 0;
      for (int k = 0; k < 16; ++k)
        sum += driver::to_double(a[row * 16 + k], kHalf) * driver::to_double(b[k * 8 + col], kHalf);
      if (d[row * 8 + col] != sum) driver::wrong_result("  mma\n");
    }
}

__global__ void atomics_kernel(int* total, unsigned* votes) {
  __shared__ int in_block;
  if (threadIdx.x == 0) in_block = 0;
  __syncthreads();
  atomicAdd(&in_block, 1);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(total, in_block);
  const unsigned odd = __ballot_sync(0xffffffffu, threadIdx.x % 2);
  if (threadIdx.x == 0 && blockIdx.x == 0 && blockIdx.y == 0) *votes = odd;
}

void run_atomics() {
  Tensor<int> total("total", 1);
  Tensor<unsigned> votes("votes", 1);
  total.set_flat(0, 0);
  atomics_kernel<<<dim3(3, 2), 96>>>(total.data(), votes.data());
  if (total[0] != 6 * 96) driver::wrong_result("  atomicAdd\n");
  if (votes[0] != 0xaaaaaaaau) driver::wrong_result("  __ballot_sync\n");
}

// Below, each kernel is wrong in the way of its name.

__global__ void read_past_the_end(const int* in, int* out) {
  out[threadIdx.x] = in[threadIdx.x + 1];
}
__global__ void blocks_overlap(const int*, int* out) {
  if (threadIdx.x == 0) out[0] = static_cast<int>(blockIdx.x);
}
__global__ void warps_overlap(const int*, int* out) {
  if (threadIdx.x < 32) __syncwarp();
  if (threadIdx.x == 0 || threadIdx.x == 32) out[blockIdx.x] = 1;
}
__global__ void write_after_read(const int*, int* out) {
  __shared__ int smem[64];
  smem[threadIdx.x] = 1;
  __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = smem[63 - threadIdx.x];
  smem[threadIdx.x] = 2;
}
__global__ void thread_waits_forever(const int*, int*) {
  if (threadIdx.x != 7) __syncwarp();
}
__global__ void barriers_differ(const int*, int*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void read_before_write(const int*, int* out) {
  __shared__ int smem[2];
  if (threadIdx.x == 0) smem[0] = 1;
  __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = smem[1];
}
__global__ void write_past_shared(const int*, int*) {
  extern __shared__ int smem[];
  smem[threadIdx.x] = 1;
}
__global__ void misaligned_copy(const int* in, int*) {
  __shared__ __align__(16) int smem[8];
  if (threadIdx.x == 0) cp_async_16(shared_address(smem), in + 1, 1);
}
__global__ void misaligned_vector(const int* in, int* out) {
  if (threadIdx.x == 0) out[blockIdx.x] = reinterpret_cast<const uint4*>(in + 1)->x;
}
__global__ void copy_never_awaited(const int* in, int*) {
  __shared__ __align__(16) int smem[4];
  if (threadIdx.x == 0) cp_async_16(shared_address(smem), in, 1);
}
__global__ void read_in_flight(const int* in, int* out) {
  __shared__ __align__(16) int smem[4];
  if (threadIdx.x > 0) return;
  cp_async_16(shared_address(smem), in, 1);
  out[blockIdx.x] = smem[0];
}
__global__ void barrier_before_wait(const int* in, int* out) {
  __shared__ __align__(16) int smem[4];
  if (threadIdx.x == 0) cp_async_16(shared_address(smem), in, 1);
  cp_async_commit();
  __syncthreads();
  cp_async_wait<0>();
  out[blockIdx.x * 64 + threadIdx.x] = smem[0];
}
__global__ void shift_too_far(const int* in, int* out) {
  out[blockIdx.x * 64 + threadIdx.x] = 1 << (in[0] + 32);
}
__global__ void index_past_a_local_array(const int* in, int* out) {
  int local[4] = {1, 2, 3, 4};
  local[in[1] + 3] = 0;
  if (threadIdx.x == 0) out[blockIdx.x] = local[in[2]];
}

using Mistake = void (*)(const int*, int*);
const std::map<std::string, Mistake> kMistakes = {
    {"read_past_the_end", read_past_the_end},
    {"blocks_overlap", blocks_overlap},
    {"warps_overlap", warps_overlap},
    {"write_after_read", write_after_read},
    {"thread_waits_forever", thread_waits_forever},
    {"barriers_differ", barriers_differ},
    {"read_before_write", read_before_write},
    {"write_past_shared", write_past_shared},
    {"misaligned_copy", misaligned_copy},
    {"misaligned_vector", misaligned_vector},
    {"copy_never_awaited", copy_never_awaited},
    {"read_in_flight", read_in_flight},
    {"barrier_before_wait", barrier_before_wait},
    {"shift_too_far", shift_too_far},
    {"index_past_a_local_array", index_past_a_local_array},
};

void run_mistake(Mistake kernel) {
  constexpr int kThreads = 64;
  constexpr int kBlocks = 2;
  Tensor<int> in("in", kThreads), out("out", kThreads * kBlocks);
  for (int i = 0; i < kThreads; ++i) in.set_flat(i, i);
  // One element less than write_past_shared writes.
  kernel<<<kBlocks, kThreads, (kThreads - 1) * sizeof(int)>>>(in.data(), out.data());
}

}  // namespace

void driver::run_selftest(const Options& options) {
  const std::string name = options.text("case", "mma");
  if (name == "mma") return run_mma();
  if (name == "atomics") return run_atomics();
  const auto mistake = kMistakes.find(name);
  if (mistake == kMistakes.end()) usage_error("selftest: no case " + name);
  run_mistake(mistake->second);
}
