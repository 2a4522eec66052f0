#include "gemm/general_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kBf16Fp8 =
    launch_table<__nv_bfloat16, Fp8Weight<__nv_bfloat16>, BlockwiseEpilogue>();
const LaunchTable kFp16Fp8 = launch_table<__half, Fp8Weight<__half>, BlockwiseEpilogue>();

}  // namespace sm80moe::gemm
