#include "gemm/int8_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kInt8Rows = launch_table<Int8Pair, Int8PairWeight<Int8Pair>, Int8Epilogue>();

}  // namespace sm80moe::gemm
