#include "ops/run_gemm.h"

#include "gemm/choose_tactic.h"

namespace sm80moe::ops {
namespace {

int resolve_tactic(const Checker& check, const DeviceScope& device,
                   const gemm::GemmProblem& problem, const char* argument, int64_t tactic,
                   gemm::Tactics among) {
  const DeviceInfo& info = device.info();
  check.between(argument, tactic, kSelect, gemm::kNumTactics - 1, "the last tactic");
  if (tactic == kSelect) {
    const int selected = gemm::choose_tactic(problem, among, device.index(), info);
    if (selected == gemm::kNoTactic)
      check.fail("a tactic must fit the device's shared memory, got ", info.smem_per_cta,
                 " bytes a CTA");
    return selected;
  }
  const int id = static_cast<int>(tactic), num_experts = problem.shape.num_experts;
  const gemm::LaunchTable& table =
      gemm::launch_table_for(problem.type, problem.format, problem.epilogue);
  if (table.launch[id] == nullptr && problem.format != WeightFormat::kDense)
    check.fail(argument, " must have a kernel for the weight format, got tactic ", id);
  if (table.launch[id] == nullptr)
    check.fail(argument, " must have tiles of at most 128 rows with these options, got tactic ", id,
               ", which has ", gemm::kTactics[id].cta_m);
  if (!gemm::tactic_fits(table, id, num_experts, info))
    check.fail(argument, " must fit the device's shared memory of ", info.smem_per_cta,
               " bytes a CTA, got tactic ", id, ", which needs ",
               gemm::smem_bytes(table, id, num_experts));
  if (!gemm::is_among(id, among, problem.format)) {
    const gemm::Tactic& t = gemm::kTactics[id];
    if (t.warps_k > 1)
      check.fail(argument, " must have warps_k 1 for batch_invariant, got tactic ", id,
                 ", which has ", t.warps_k);
    check.fail(argument, " must round as other tactics do for batch_invariant, got tactic ", id,
               ", whose tiles of ", t.cta_m, " rows add up otherwise");
  }
  return id;
}

// Zero points of int8 activations, and int8 results.
bool has_int8_options(const gemm::GroupedGemmArgs& args) {
  return args.int8.range != nullptr || args.int8.output != gemm::Int8Output::k16Bit;
}

}  // namespace

void set_weights(gemm::GroupedGemmArgs& args, const Tensor& w, const ColumnRows& rows) {
  const auto element_size = static_cast<int64_t>(w.element_size());
  const int64_t row_bytes = w.stride(1) * element_size;
  args.w = static_cast<const char*>(w.data_ptr()) + rows.first * row_bytes;
  args.w_expert_bytes = w.stride(0) * element_size;
  args.w_column_bytes = static_cast<uint32_t>(rows.step * row_bytes);
  args.w_up_bytes = rows.second * row_bytes;
  args.num_experts = static_cast<int>(w.size(0));
  args.n = static_cast<int>(w.size(1));
  args.k = static_cast<int>(w.size(2));
}

void set_activations(gemm::GroupedGemmArgs& args, const void* a, int64_t num_rows,
                     int64_t row_stride) {
  args.a = a;
  args.num_source_rows = static_cast<int>(num_rows);
  args.a_row_chunks = static_cast<uint32_t>(row_stride / kRowMultiple);
}

void run_gemm(const Checker& check, const DeviceScope& device, gemm::GroupedGemmArgs args,
              ElementType type, gemm::EpilogueKind epilogue, const char* argument, int64_t tactic,
              gemm::Tactics among) {
  args.gated = gemm::is_gated(epilogue);
  args.plain = epilogue == gemm::plain(epilogue);
  const WeightFormat format = args.packed.format;
  const gemm::EpilogueKind kind = has_int8_options(args) ? gemm::general(epilogue) : epilogue;
  const gemm::GemmProblem problem{
      type, kind, {args.num_rows, args.num_experts, args.n, args.k, weight_bits(format)}, format};
  const int id = resolve_tactic(check, device, problem, argument, tactic, among);
  const auto launch = gemm::launch_table_for(type, format, kind).launch[id];
  device.check_cuda(launch(args, device.index(), device.info(), device.stream()));
}

}  // namespace sm80moe::ops
