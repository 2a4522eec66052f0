#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kFp16Swiglu = launch_table<__half, DenseWeight<__half>, SwigluEpilogue>();

}  // namespace sm80moe::gemm
