#pragma once
// From the template arguments of a launch table to what the reference must compute. Kernels of int8
// activations take the 16-bit type as an argument.

#include <cuda_runtime.h>

#include <type_traits>

#include "driver/instances.h"
#include "gemm/epilogue.cuh"
#include "gemm/general_epilogue.cuh"
#include "gemm/int8_epilogue.cuh"
#include "gemm/weight_format.cuh"

namespace driver {

template <class T>
constexpr sm80moe::ElementType element_type() {
  return std::is_same<T, __half>::value ? sm80moe::ElementType::kFloat16
                                        : sm80moe::ElementType::kBFloat16;
}

template <class Weight>
constexpr sm80moe::WeightFormat weight_format() {
  return Weight::kFormat;
}

// The general epilogue is gated unless a run's options say otherwise.
template <class Epilogue>
constexpr sm80moe::gemm::EpilogueKind epilogue_kind() {
  using namespace sm80moe::gemm;
  if constexpr (std::is_base_of<GeneralEpilogue, Epilogue>::value) {
    return EpilogueKind::kGated;
  } else {
    constexpr bool kIsSwiglu = std::is_base_of<SwigluEpilogue, Epilogue>::value;
    static_assert(std::is_base_of<StoreEpilogue, Epilogue>::value || kIsSwiglu,
                  "a new epilogue needs its reference in driver/gemm.cpp");
    return kIsSwiglu ? EpilogueKind::kSwiglu : EpilogueKind::kStore;
  }
}

}  // namespace driver
