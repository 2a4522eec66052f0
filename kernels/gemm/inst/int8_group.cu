#include "gemm/general_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kBf16Int8Group =
    launch_table<__nv_bfloat16, Int8GroupWeight<__nv_bfloat16>, BlockwiseEpilogue>();
const LaunchTable kFp16Int8Group =
    launch_table<__half, Int8GroupWeight<__half>, BlockwiseEpilogue>();

}  // namespace sm80moe::gemm
