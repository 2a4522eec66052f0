#include "gemm/int8_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kInt8RowsSwiglu =
    launch_table<Int8Pair, Int8PairWeight<Int8Pair>, Int8Epilogue<SwigluEpilogue>>();

}  // namespace sm80moe::gemm
