#include "ceilings/ceilings.h"
#include "ceilings/full_wave.cuh"
#include "common/ptx.cuh"
#include "common/smem_layout.cuh"
#include "common/warp.cuh"

namespace sm80moe::ceilings {
namespace {

// Both tiles by their bytes: a step along the reduction is two chunks of a row, which is 16
// elements of 16 bits or 32 of 8, and their fragments lie in the same lanes.
constexpr int kCtaRows = 128, kRowBytes = 128;
using Tile = SwizzledTile<uint8_t, kCtaRows, kRowBytes>;
constexpr int kSteps = Tile::kChunksPerRow / 2;
static_assert(Tile::conflict_free() && Tile::advance_is_exact() && kSteps % 2 == 0);

// 2x2 warps of 64x64: 32 mma for 8 fragment loads.
constexpr int kWarpsPerSide = 2;
constexpr int kWarps = kWarpsPerSide * kWarpsPerSide, kThreads = kWarps * kWarpSize;
constexpr int kWarpRows = kCtaRows / kWarpsPerSide;
constexpr int kMmasM = kWarpRows / 16, kMmasN = kWarpRows / 8, kPairs = kMmasN / 2;

// What one mma adds up, and how deep it is.
template <class T>
struct Operand {
  using Sum = float;
  static constexpr int kDepth = 16;
  SM80MOE_DEVICE static void mma(Sum (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    ptx::mma_m16n8k16(d, a, b0, b1, T{});
  }
};
template <>
struct Operand<int8_t> {
  using Sum = int32_t;
  static constexpr int kDepth = 32;
  SM80MOE_DEVICE static void mma(Sum (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    ptx::mma_m16n8k32(d, a, b0, b1);
  }
};

SM80MOE_DEVICE void copy_to_smem(uint8_t* smem, const uint4* tiles) {
  for (int chunk = threadIdx.x; chunk < 2 * kCtaRows * Tile::kChunksPerRow; chunk += kThreads) {
    const int row = chunk / Tile::kChunksPerRow;
    const int offset = Tile::byte_offset(row % kCtaRows, chunk % Tile::kChunksPerRow);
    *reinterpret_cast<uint4*>(smem + row / kCtaRows * Tile::kBytes + offset) = tiles[chunk];
  }
}

// The fragments of one step, loaded in parts between the mma of the step before.
struct Fragments {
  uint32_t a[kMmasM][4], b[kPairs][4];
  static constexpr int kParts = kMmasM + kPairs;

  SM80MOE_DEVICE void load(int part, uint32_t a_lane, uint32_t b_lane, int step) {
    const int i = part % kMmasM, offset = i * 16 * Tile::kRowBytes;
    if (part < kMmasM)
      ptx::ldmatrix_x4(a[i], Tile::advance(a_lane, 2 * step) + offset);
    else
      ptx::ldmatrix_x4(b[i], Tile::advance(b_lane, 2 * step) + offset);
  }
};
static_assert(kMmasM == kPairs && Fragments::kParts == kMmasN);

// One column of mma. Serpentine order: neighbouring mma share an operand.
template <class T>
SM80MOE_DEVICE void multiply_column(typename Operand<T>::Sum (&acc)[kMmasM][kMmasN][4],
                                    const Fragments& fragments, int col) {
  const uint32_t(&b)[4] = fragments.b[col / 2];
#pragma unroll
  for (int row = 0; row < kMmasM; ++row) {
    const int i = col % 2 == 0 ? row : kMmasM - 1 - row;
    Operand<T>::mma(acc[i][col], fragments.a[i], b[col % 2 * 2], b[col % 2 * 2 + 1]);
  }
}

// Nobody writes to shared memory after the first barrier, so that no warp waits for another.
template <class T>
__global__ void __launch_bounds__(kThreads)
    mma_kernel(const uint4* tiles, typename Operand<T>::Sum* sums, int rounds) {
  __shared__ __align__(1024) uint8_t smem[2 * Tile::kBytes];
  copy_to_smem(smem, tiles);
  __syncthreads();

  const int lane = lane_index();
  const int row0 = warp_index() / kWarpsPerSide * kWarpRows;
  const int col0 = warp_index() % kWarpsPerSide * kWarpRows;
  const uint32_t base = ptx::shared_address(smem);
  const uint32_t a_lane = base + Tile::byte_offset(row0 + lane % 16, lane / 16);
  const uint32_t b_lane =
      base + Tile::kBytes + Tile::byte_offset(col0 + lane / 16 * 8 + lane % 8, lane / 8 % 2);

  typename Operand<T>::Sum acc[kMmasM][kMmasN][4] = {};
  Fragments fragments[2];
#pragma unroll
  for (int part = 0; part < Fragments::kParts; ++part) fragments[0].load(part, a_lane, b_lane, 0);
#pragma unroll 1
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int col = 0; col < kMmasN; ++col) {
        fragments[(step + 1) % 2].load(col, a_lane, b_lane, (step + 1) % kSteps);
        multiply_column<T>(acc, fragments[step % 2], col);
      }
  }

  if (blockIdx.x > 0) return;  // every CTA has the same sums
#pragma unroll
  for (int i = 0; i < kMmasM; ++i)
#pragma unroll
    for (int j = 0; j < kMmasN; ++j)
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const int row = row0 + i * 16 + lane / 4 + part / 2 * 8;
        const int col = col0 + j * 8 + lane % 4 * 2 + part % 2;
        sums[row * kCtaRows + col] = acc[i][j][part];
      }
}

template <class T>
cudaError_t launch(const MmaCeiling& args, cudaStream_t stream, int64_t* num_operations) {
  int num_ctas = 0;
  const cudaError_t status = full_wave(mma_kernel<T>, kThreads, &num_ctas);
  if (status != cudaSuccess) return status;
  constexpr int64_t kOperationsPerRound =
      int64_t{2} * kCtaRows * kCtaRows * kSteps * Operand<T>::kDepth;
  *num_operations = kOperationsPerRound * args.rounds * num_ctas;
  mma_kernel<T><<<num_ctas, kThreads, 0, stream>>>(
      static_cast<const uint4*>(args.tiles), static_cast<typename Operand<T>::Sum*>(args.sums),
      args.rounds);
  return cudaGetLastError();
}

bool is_valid(const MmaCeiling* args, const int64_t* num_operations) {
  return args && num_operations && args->tiles && args->sums && args->rounds > 0 &&
         args->operand >= 0 && args->operand < kNumMmaOperands &&
         reinterpret_cast<uintptr_t>(args->tiles) % sizeof(uint4) == 0 &&
         reinterpret_cast<uintptr_t>(args->sums) % sizeof(float) == 0;
}

}  // namespace
}  // namespace sm80moe::ceilings

int sm80moe_mma_ceiling(const MmaCeiling* args, cudaStream_t stream, int64_t* num_operations) {
  using namespace sm80moe::ceilings;
  if (!is_valid(args, num_operations)) return cudaErrorInvalidValue;
  constexpr decltype(&launch<int8_t>) kLaunch[kNumMmaOperands] = {
      &launch<__half>, &launch<__nv_bfloat16>, &launch<int8_t>};
  return kLaunch[args->operand](*args, stream, num_operations);
}
