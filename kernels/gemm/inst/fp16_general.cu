#include "gemm/general_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kFp16General = launch_table<__half, DenseWeight<__half>, GeneralEpilogue>();

}  // namespace sm80moe::gemm
