#include "gemm/general_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kBf16Int4 =
    launch_table<__nv_bfloat16, Int4Weight<__nv_bfloat16>, GeneralEpilogue>();

}  // namespace sm80moe::gemm
