#pragma once
// What the bindings see: tables of functions, one per tactic. Plain C++, no templates of ours.

#include <cuda_runtime_api.h>

#include "common/device_info.h"
#include "common/element_type.h"
#include "gemm/problem.h"
#include "gemm/tactics.h"

namespace sm80moe::gemm {

using LaunchFn = cudaError_t (*)(const GroupedGemmArgs&, int device, const DeviceInfo&,
                                 cudaStream_t);

struct LaunchTable {
  LaunchFn
      launch[kNumTactics];      // null where epilogue or weight format have no kernel of the tactic
  int smem_bytes[kNumTactics];  // of one CTA, without the scheduler's list
};

extern const LaunchTable kBf16Store, kBf16Swiglu, kBf16General;
extern const LaunchTable kFp16Store, kFp16Swiglu, kFp16General;
extern const LaunchTable kBf16Int8, kBf16Int8Group, kBf16Int4, kBf16Fp8, kBf16Mxfp4;
extern const LaunchTable kFp16Int8, kFp16Int8Group, kFp16Int4, kFp16Fp8, kFp16Mxfp4;
// Of either 16-bit type.
extern const LaunchTable kInt8RowsStore, kInt8RowsSwiglu, kInt8RowsGeneral;

// `type` is the 16-bit one.
const LaunchTable& launch_table_for(ElementType type, WeightFormat format, EpilogueKind epilogue);

}  // namespace sm80moe::gemm
