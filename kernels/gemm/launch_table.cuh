#pragma once
// Expands the tactic table into kernels. Included by inst/*.cu only.

#include <atomic>
#include <utility>

#include "common/limits.h"
#include "gemm/grouped_gemm.cuh"
#include "gemm/launch.h"
#include "gemm/weight_format.cuh"

namespace sm80moe::gemm {

// How many CTAs of `kernel` the registers and threads of one SM can hold. The first call on a
// device also lifts the kernel's shared-memory limit there.
template <class Kernel>
cudaError_t resident_ctas(Kernel* kernel, int threads, int device, std::atomic<int>* known,
                          int* ctas) {
  *ctas = known[device].load(std::memory_order_acquire);
  if (*ctas > 0) return cudaSuccess;
  int max_smem = 0;
  cudaError_t status =
      cudaDeviceGetAttribute(&max_smem, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status != cudaSuccess) return status;
  status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, max_smem);
  if (status != cudaSuccess) return status;
  status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(ctas, kernel, threads, 0);
  if (status != cudaSuccess) return status;
  known[device].store(*ctas, std::memory_order_release);
  return cudaSuccess;
}

template <int kId, class Weight, class Epilogue>
constexpr bool has_kernel() {
  return Weight::has_tactic(kTactics[kId]) && Epilogue::template has_registers<ConfigAt<kId>>();
}

template <int kId, class T, class Weight, class Epilogue>
constexpr int fixed_smem_bytes() {
  if constexpr (has_kernel<kId, Weight, Epilogue>())
    return GroupedGemmSmem<ConfigAt<kId>, T, Weight, Epilogue>::kFixedBytes;
  else
    return 0;
}

template <int kId, class T, class Weight, class Epilogue>
cudaError_t launch(const GroupedGemmArgs& general_args, int device, const DeviceInfo& info,
                   cudaStream_t stream) {
  using Config = ConfigAt<kId>;
  GroupedGemmArgs args = general_args;
  Epilogue::prepare(args, Config::kCtaN);
  static std::atomic<int> known_ctas[kMaxDevices];
  if (device >= kMaxDevices) return cudaErrorInvalidDevice;

  const auto kernel = grouped_gemm_kernel<Config, T, Weight, Epilogue>;
  const int smem =
      fixed_smem_bytes<kId, T, Weight, Epilogue>() + scheduler_smem_bytes(args.num_experts);
  int ctas_per_sm = 0;
  const cudaError_t status =
      resident_ctas(kernel, Config::kThreads, device, known_ctas, &ctas_per_sm);
  if (status != cudaSuccess) return status;
  ctas_per_sm =
      max_of(1, min_of(ctas_per_sm, info.smem_per_sm / (smem + info.smem_reserved_per_cta)));

  // Each expert may end in a short tile; nobody on the host knows which do.
  const int64_t tiles_m =
      int64_t{min_of(args.num_experts, args.num_rows)} + args.num_rows / Config::kCtaM;
  const int tiles_n = ceil_div(args.n, Config::kCtaN);
  const int64_t resident = int64_t{info.num_sms} * ctas_per_sm;
  const int grid = static_cast<int>(min_of(tiles_m * tiles_n, resident));
  kernel<<<grid, Config::kThreads, smem, stream>>>(args);
  return cudaGetLastError();
}

template <int kId, class T, class Weight, class Epilogue>
constexpr LaunchFn launch_or_null() {
  if constexpr (has_kernel<kId, Weight, Epilogue>())
    return &launch<kId, T, Weight, Epilogue>;
  else
    return nullptr;
}

template <class T, class Weight, class Epilogue, int... kIds>
constexpr LaunchTable make_launch_table(std::integer_sequence<int, kIds...>) {
  return {{launch_or_null<kIds, T, Weight, Epilogue>()...},
          {fixed_smem_bytes<kIds, T, Weight, Epilogue>()...}};
}

// Instantiates the kernel once per row of kTactics that weight format and epilogue can do with.
template <class T, class Weight, class Epilogue>
constexpr LaunchTable launch_table() {
  return make_launch_table<T, Weight, Epilogue>(std::make_integer_sequence<int, kNumTactics>{});
}

}  // namespace sm80moe::gemm
