#include "ops/tactic_ops.h"

#include <cstring>
#include <iterator>
#include <limits>

#include "decode/decode.h"
#include "gemm/choose_tactic.h"
#include "ops/device.h"

namespace sm80moe::ops {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();

gemm::GemmProblem checked_problem(const Checker& check, int64_t dtype, int64_t epilogue,
                                  int64_t num_experts, int64_t n, int64_t k, int64_t num_rows) {
  constexpr auto kFirstType = static_cast<int64_t>(ElementType::kFloat16);
  constexpr auto kLastType = static_cast<int64_t>(ElementType::kBFloat16);
  check.between("num_rows", num_rows, 1, kMaxInt);
  check.between("num_experts", num_experts, 1, kMaxExperts);
  check.between("n", n, 1, kMaxInt);
  check.between("k", k, 1, kMaxInt);
  check.between("epilogue", epilogue, 0, gemm::kNumEpilogues - 1);
  check.between("dtype", dtype, kFirstType, kLastType);
  return {static_cast<ElementType>(dtype),
          static_cast<gemm::EpilogueKind>(epilogue),
          {static_cast<int>(num_rows), static_cast<int>(num_experts), static_cast<int>(n),
           static_cast<int>(k)}};
}

}  // namespace

Tensor tactic_table() {
  // In the order of the formats' numbers. Of int8 in groups those tactics whose registers suffice.
  constexpr WeightFormat kFormats[] = {WeightFormat::kDense, WeightFormat::kInt8,
                                       WeightFormat::kInt4,  WeightFormat::kFp8,
                                       WeightFormat::kMxfp4, WeightFormat::kInt8Rows};
  constexpr int64_t kSizes = sizeof(gemm::Tactic) / sizeof(int);
  constexpr int64_t kColumns = kSizes + std::size(kFormats);
  constexpr int64_t sizes[] = {gemm::kNumTactics, kColumns}, strides[] = {kColumns, 1};
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(2, sizes, strides, aoti_torch_dtype_int32(),
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  Tensor rows(handle);
  auto* row = static_cast<int32_t*>(rows.data_ptr());
  for (int id = 0; id < gemm::kNumTactics; ++id, row += kColumns) {
    std::memcpy(row, &gemm::kTactics[id], sizeof(gemm::Tactic));
    for (size_t i = 0; i < std::size(kFormats); ++i)
      row[kSizes + i] =
          gemm::launch_table_for(ElementType::kBFloat16, kFormats[i], gemm::EpilogueKind::kStore)
              .smem_bytes[id];
  }
  return rows;
}

int64_t select_tactic(int64_t num_rows, int64_t num_experts, int64_t n, int64_t k, int64_t epilogue,
                      int64_t dtype, int64_t device_index, bool batch_invariant) {
  const Checker check("select_tactic");
  const auto problem = checked_problem(check, dtype, epilogue, num_experts, n, k, num_rows);
  const DeviceInfo info = device_info_of(check, device_index);
  const auto among = batch_invariant ? gemm::Tactics::kOneOrder : gemm::Tactics::kAll;
  return gemm::choose_tactic(problem, among, static_cast<int>(device_index), info);
}

int64_t decode_limit(int64_t num_experts, int64_t hidden_size, int64_t intermediate_size,
                     int64_t device_index) {
  const Checker check("decode_limit");
  check.between("num_experts", num_experts, 1, kMaxExperts);
  check.between("hidden_size", hidden_size, 1, kMaxInt);
  check.between("intermediate_size", intermediate_size, 1, kMaxInt);
  return decode::max_pairs(device_info_of(check, device_index), num_experts, hidden_size,
                           intermediate_size);
}

void set_tuning(Tensor measurements, int64_t device_index) {
  constexpr int64_t kColumns = 7;
  const Checker check("set_tuning");
  check.dtype("measurements", measurements, {ScalarType::Int});
  check.shape("measurements", measurements, {"R", kColumns});
  check.contiguous("measurements", measurements);
  if (measurements.is_cuda()) check.fail("measurements must be on the CPU, got a CUDA device");
  check.between("device_index", device_index, 0, kMaxInt);

  std::vector<gemm::Measurement> measured;
  const auto* row = static_cast<const int32_t*>(measurements.data_ptr());
  for (int64_t i = 0; i < measurements.size(0); ++i, row += kColumns) {
    check.between("tactic", row[6], 0, gemm::kNumTactics - 1, "the last tactic");
    measured.push_back(
        {checked_problem(check, row[0], row[1], row[2], row[3], row[4], row[5]), row[6]});
  }
  gemm::set_tuning(static_cast<int>(device_index), measured);
}

}  // namespace sm80moe::ops
