#include "gemm/int8_epilogue.cuh"
#include "gemm/launch_table.cuh"

namespace sm80moe::gemm {

const LaunchTable kInt8RowsGeneral =
    launch_table<Int8Pair, Int8PairWeight<Int8Pair>, Int8GeneralEpilogue>();

}  // namespace sm80moe::gemm
