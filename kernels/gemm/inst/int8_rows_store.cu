#include "gemm/int8_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kInt8RowsStore =
    launch_table<Int8Pair, Int8PairWeight<Int8Pair>, Int8Epilogue<StoreEpilogue>>();

}  // namespace sm80moe::gemm
