#pragma once
// The kernel and its launch, for rows of weights of one kind.

#include <cooperative_groups.h>

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

// What the host works out before the launch.
struct LayerPlan {
  TileWidths gate_up_widths, down_widths;
  ColumnPairs column_pairs;
};

// All CTAs are resident, so that they can wait for each other: between the halves, when each warp
// has sent for what it multiplies first in the second one.
template <class Rows, class Epilogue, bool kHasOptions>
__global__ void __launch_bounds__(kThreads, 1)
    layer_kernel(const __grid_constant__ LayerArgs args, const __grid_constant__ LayerPlan plan) {
  extern __shared__ __align__(16) uint8_t smem[];
  ActivationScales scales(smem + kRingBytes);
  auto* products = reinterpret_cast<uint32_t*>(smem + kRingBytes + ActivationScales::kBytes);
  const ExpertGroups groups(args);
  const GateUp<Rows, Epilogue> gate_up(args, scales);
  stream_rows(gate_up, groups, plan.gate_up_widths.log2_width_for(groups), smem, [] {});
  Down<Rows, kHasOptions> down(args, groups, products, scales, plan.column_pairs);
  do {
    stream_rows(down, groups, plan.down_widths.log2_width_for(groups), smem, [&] {
      if (down.is_first_turn())
        cooperative_groups::this_grid().sync();
      else
        __syncthreads();
    });
    __syncthreads();
    down.combine();
  } while (down.next_turn());
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

template <class Rows>
LayerPlan plan_layer(const LayerArgs& args, int columns_of_group, int num_ctas) {
  const int num_pairs = args.num_tokens * args.top_k, column_pairs = args.hidden_size / 2;
  const int most = ceil_div(column_pairs, num_ctas);
  const int at_once = min_of(most, kSmemForProducts / (num_pairs * kBytesPerProduct));
  const auto gate_up_tiles = [&](int groups, int width) {
    return ceil_div(groups * ceil_div(columns_of_group, width), num_ctas);
  };
  const auto down_tiles = [&](int groups, int width) { return groups * ceil_div(at_once, width); };
  const int hidden_depth = Rows::depth(num_chunks(args.hidden_size));
  const int intermediate_depth = Rows::depth(num_chunks(args.intermediate_size));
  return {{Rows::kLog2Width, hidden_depth, num_pairs, gate_up_tiles},
          {Rows::kLog2Width, intermediate_depth, num_pairs, down_tiles},
          {column_pairs / num_ctas, column_pairs % num_ctas, at_once}};
}

template <class Rows, class Epilogue, bool kHasOptions>
cudaError_t launch_layer(LayerArgs args, int device, const DeviceInfo& info, cudaStream_t stream) {
  static std::atomic<bool> known[kMaxDevices];
  const auto kernel = layer_kernel<Rows, Epilogue, kHasOptions>;
  const cudaError_t status = allow_smem(kernel, device, known);
  if (status != cudaSuccess) return status;
  const int num_pairs = args.num_tokens * args.top_k;
  const int columns_of_group = args.intermediate_size / Epilogue::kPerTileColumn;
  const int64_t most_tiles =
      max_of(int64_t{num_pairs} * columns_of_group, int64_t{args.hidden_size} / 2);
  const int num_ctas = static_cast<int>(min_of<int64_t>(info.num_sms, most_tiles));
  LayerPlan plan = plan_layer<Rows>(args, columns_of_group, num_ctas);
  const int products = plan.column_pairs.at_once * num_pairs * kBytesPerProduct;
  void* arguments[] = {&args, &plan};
  // By address: CUDA 12 takes no function here.
  return cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), dim3(num_ctas),
                                     dim3(kThreads), arguments,
                                     kRingBytes + ActivationScales::kBytes + products, stream);
}

}  // namespace sm80moe::decode
