#pragma once
// Both kernels and their launches, for rows of weights of one kind.

#include <atomic>

#include "decode/down_combine.cuh"
#include "decode/gate_up.cuh"
#include "decode/tile_widths.cuh"

namespace sm80moe::decode {

inline constexpr int kThreads = kWarps * kWarpSize;
inline constexpr int kSmemForProducts = kSmemBytes - kRingBytes - ActivationScales::kBytes;
inline constexpr int kBytesPerProduct = sizeof(uint32_t);  // of two columns and a pair

static_assert(kMaxPairs == kWarpSize, "each lane keeps a pair");
static_assert(kSmemForProducts >= kMaxPairs * kBytesPerProduct, "two columns must fit");

template <class Rows, class Epilogue>
__global__ void __launch_bounds__(kThreads, 1)
    gate_up_kernel(const __grid_constant__ LayerArgs args,
                   const __grid_constant__ TileWidths widths,
                   const __grid_constant__ Prefetch prefetch) {
  extern __shared__ __align__(16) uint8_t smem[];
  ActivationScales scales(smem + kRingBytes);
  const ExpertGroups groups(args);
  const GateUp<Rows, Epilogue> work(args, groups, prefetch, scales);
  stream_rows(work, groups, widths.log2_width_for(groups), smem);
}

template <class Rows, bool kHasOptions>
__global__ void __launch_bounds__(kThreads, 1)
    down_combine_kernel(const __grid_constant__ LayerArgs args,
                        const __grid_constant__ TileWidths widths,
                        const __grid_constant__ ColumnPairs column_pairs) {
  extern __shared__ __align__(16) uint8_t smem[];
  ActivationScales scales(smem + kRingBytes);
  auto* products = reinterpret_cast<uint32_t*>(smem + kRingBytes + ActivationScales::kBytes);
  const ExpertGroups groups(args);
  const Down<Rows, kHasOptions> work(args, groups, products, scales, column_pairs);
  stream_rows(work, groups, widths.log2_width_for(groups), smem);
  __syncthreads();
  work.combine();
}

// The first launch on a device lifts the kernel's shared-memory limit there.
template <class Kernel>
cudaError_t allow_smem(Kernel* kernel, int device, std::atomic<bool>* known) {
  if (device >= kMaxDevices) return cudaErrorInvalidDevice;
  if (known[device].load(std::memory_order_acquire)) return cudaSuccess;
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmemBytes);
  if (status == cudaSuccess) known[device].store(true, std::memory_order_release);
  return status;
}

template <class Rows, class Epilogue>
cudaError_t launch_gate_up(const LayerArgs& args, int device, const DeviceInfo& info,
                           cudaStream_t stream) {
  static std::atomic<bool> known[kMaxDevices];
  const auto kernel = gate_up_kernel<Rows, Epilogue>;
  const cudaError_t status = allow_smem(kernel, device, known);
  if (status != cudaSuccess) return status;
  const int num_pairs = args.num_tokens * args.top_k;
  const int num_columns = args.intermediate_size / Epilogue::kPerTileColumn;
  const int num_ctas =
      static_cast<int>(min_of<int64_t>(info.num_sms, int64_t{num_pairs} * num_columns));
  const auto tiles_of_cta = [&](int groups, int width) {
    return ceil_div(groups * ceil_div(num_columns, width), num_ctas);
  };
  const TileWidths widths(Rows::kLog2Width, Rows::depth(num_chunks(args.hidden_size)), num_pairs,
                          tiles_of_cta);
  constexpr int kSmem = kRingBytes + ActivationScales::kBytes;
  const Prefetch prefetch = prefetch_for<Rows>(args, info);
  kernel<<<num_ctas, kThreads, kSmem, stream>>>(args, widths, prefetch);
  return cudaGetLastError();
}

template <class Rows, bool kHasOptions>
cudaError_t launch_down_combine(const LayerArgs& args, int device, const DeviceInfo& info,
                                cudaStream_t stream) {
  static std::atomic<bool> known[kMaxDevices];
  const auto kernel = down_combine_kernel<Rows, kHasOptions>;
  const cudaError_t status = allow_smem(kernel, device, known);
  if (status != cudaSuccess) return status;
  const int column_pairs = args.hidden_size / 2, num_pairs = args.num_tokens * args.top_k;
  const int bytes_per_column_pair = num_pairs * kBytesPerProduct;
  const int ctas_by_smem = ceil_div(column_pairs, kSmemForProducts / bytes_per_column_pair);
  const int num_ctas = max_of(min_of(info.num_sms, column_pairs), ctas_by_smem);
  const ColumnPairs of_cta{column_pairs / num_ctas, column_pairs % num_ctas};
  const int products = of_cta.most() * bytes_per_column_pair;
  const int smem = kRingBytes + ActivationScales::kBytes + products;
  const auto tiles_of_cta = [&](int groups, int width) {
    return groups * ceil_div(of_cta.most(), width);
  };
  const TileWidths widths(Rows::kLog2Width, Rows::depth(num_chunks(args.intermediate_size)),
                          num_pairs, tiles_of_cta);
  kernel<<<num_ctas, kThreads, smem, stream>>>(args, widths, of_cta);
  return cudaGetLastError();
}

}  // namespace sm80moe::decode
