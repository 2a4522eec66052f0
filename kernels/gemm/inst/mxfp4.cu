#include "gemm/general_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kBf16Mxfp4 =
    launch_table<__nv_bfloat16, Mxfp4Weight<__nv_bfloat16>, BlockwiseEpilogue>();
const LaunchTable kFp16Mxfp4 = launch_table<__half, Mxfp4Weight<__half>, BlockwiseEpilogue>();

}  // namespace sm80moe::gemm
