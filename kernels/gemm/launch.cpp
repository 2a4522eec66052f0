#include "gemm/launch.h"

namespace sm80moe::gemm {

namespace {

const LaunchTable& dense_table(ElementType type, EpilogueKind epilogue) {
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

const LaunchTable& int8_table(EpilogueKind epilogue) {
  switch (epilogue) {
    case EpilogueKind::kStore:
      return kInt8RowsStore;
    case EpilogueKind::kSwiglu:
      return kInt8RowsSwiglu;
    default:
      return kInt8RowsGeneral;
  }
}

}  // namespace

const LaunchTable& launch_table_for(ElementType type, WeightFormat format, EpilogueKind epilogue) {
  const bool bf16 = type == ElementType::kBFloat16;
  switch (format) {
    case WeightFormat::kInt8:
      return bf16 ? kBf16Int8 : kFp16Int8;
    case WeightFormat::kInt8Group:
      return bf16 ? kBf16Int8Group : kFp16Int8Group;
    case WeightFormat::kInt4:
      return bf16 ? kBf16Int4 : kFp16Int4;
    case WeightFormat::kFp8:
      return bf16 ? kBf16Fp8 : kFp16Fp8;
    case WeightFormat::kMxfp4:
      return bf16 ? kBf16Mxfp4 : kFp16Mxfp4;
    case WeightFormat::kInt8Rows:
      return int8_table(epilogue);
    default:
      return dense_table(type, epilogue);
  }
}

}  // namespace sm80moe::gemm
