#include "gemm/general_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kFp16Int4 = launch_table<__half, Int4Weight<__half>, GeneralEpilogue>();

}  // namespace sm80moe::gemm
