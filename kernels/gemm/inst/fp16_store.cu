#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kFp16Store = launch_table<__half, DenseWeight<__half>, StoreEpilogue>();

}  // namespace sm80moe::gemm
