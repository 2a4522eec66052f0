#include "gemm/launch.h"

namespace sm80moe::gemm {

const LaunchTable& launch_table_for(ElementType type, EpilogueKind epilogue) {
  const bool swiglu = epilogue == EpilogueKind::kSwiglu;
  if (type == ElementType::kBFloat16) return swiglu ? kBf16Swiglu : kBf16Store;
  return swiglu ? kFp16Swiglu : kFp16Store;
}

}  // namespace sm80moe::gemm
