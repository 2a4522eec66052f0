#include "gemm/general_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kFp16Fp8 = launch_table<__half, Fp8Weight<__half>, GeneralEpilogue>();

}  // namespace sm80moe::gemm
