#include "gemm/general_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kFp16Mxfp4 = launch_table<__half, Mxfp4Weight<__half>, GeneralEpilogue>();

}  // namespace sm80moe::gemm
