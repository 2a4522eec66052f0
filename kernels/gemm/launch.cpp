#include "gemm/launch.h"

namespace sm80moe::gemm {

const LaunchTable& launch_table_for(ElementType type, EpilogueKind epilogue) {
  const bool bf16 = type == ElementType::kBFloat16;
  switch (epilogue) {
    case EpilogueKind::kStore:
      return bf16 ? kBf16Store : kFp16Store;
    case EpilogueKind::kSwiglu:
      return bf16 ? kBf16Swiglu : kFp16Swiglu;
    default:
      return bf16 ? kBf16General : kFp16General;
  }
}

}  // namespace sm80moe::gemm
