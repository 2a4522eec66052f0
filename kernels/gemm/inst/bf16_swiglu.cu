#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kBf16Swiglu =
    launch_table<__nv_bfloat16, DenseWeight<__nv_bfloat16>, SwigluEpilogue>();

}  // namespace sm80moe::gemm
