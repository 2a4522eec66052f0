#include "gemm/int8_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kInt8RowGroups =
    launch_table<GroupedInt8Pair, Int8PairWeight<GroupedInt8Pair>, RowGroupsEpilogue>();

}  // namespace sm80moe::gemm
