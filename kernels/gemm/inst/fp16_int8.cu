#include "gemm/general_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kFp16Int8 = launch_table<__half, Int8Weight<__half>, GeneralEpilogue>();

}  // namespace sm80moe::gemm
