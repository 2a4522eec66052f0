#pragma once
// `kernel<<<grid, block, smem, stream>>>(args)`, which the rewriter turns into
// `kernel ->* simt::configure(grid, block, smem, stream)(args)`.

#include <cuda_runtime_api.h>

#include <tuple>
#include <utility>

#include "runtime/dim.h"

namespace simt {

struct Configuration {
  dim3 grid, block;
  size_t smem_bytes;
};

// What each thread runs.
struct Body {
  void (*call)(const void* data);
  const void* data;
};

// Runs all blocks in an order of the seed's choosing, or sets the error that CUDA would.
cudaError_t launch_cooperative_grid(const void* kernel, const Configuration& configuration,
                                    const Body& body);
void launch_grid(const void* kernel, const Configuration& configuration, const Body& body);

template <class... Args>
struct Launch {
  Configuration configuration;
  std::tuple<Args...> args;
};

struct Configured {
  Configuration configuration;
  template <class... Args>
  Launch<Args...> operator()(Args... args) const {
    return {configuration, {args...}};
  }
};

inline Configured configure(dim3 grid, dim3 block, size_t smem_bytes = 0, cudaStream_t = nullptr) {
  return {{grid, block, smem_bytes}};
}

// A kernel and its arguments, which lie in the host's memory: no access of this struct is checked.
template <class Kernel, class Args>
struct BoundKernel {
  Kernel kernel;
  const Args& args;

  __attribute__((no_sanitize("thread"))) static void call(const void* data) {
    const auto* bound = static_cast<const BoundKernel*>(data);
    call_with(*bound, std::make_index_sequence<std::tuple_size<Args>::value>{});
  }
  template <size_t... kIndices>
  __attribute__((no_sanitize("thread"))) static void call_with(const BoundKernel& bound,
                                                               std::index_sequence<kIndices...>) {
    bound.kernel(std::get<kIndices>(bound.args)...);
  }
};

template <class... Params, class... Args>
void operator->*(void (*kernel)(Params...), const Launch<Args...>& launch) {
  using Bound = BoundKernel<void (*)(Params...), std::tuple<Args...>>;
  const Bound bound{kernel, launch.args};
  launch_grid(reinterpret_cast<const void*>(kernel), launch.configuration, {Bound::call, &bound});
}

}  // namespace simt

// Of a kernel whose attributes have been set before.
cudaError_t cudaLaunchCooperativeKernel(const void* kernel, dim3 grid, dim3 block, void** args,
                                        size_t smem_bytes, cudaStream_t stream);
