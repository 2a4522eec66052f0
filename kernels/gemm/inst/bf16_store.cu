#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kBf16Store =
    launch_table<__nv_bfloat16, DenseWeight<__nv_bfloat16>, StoreEpilogue>();

}  // namespace sm80moe::gemm
