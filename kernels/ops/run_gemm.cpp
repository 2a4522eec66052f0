#include "ops/run_gemm.h"

#include "gemm/choose_tactic.h"

namespace sm80moe::ops {
namespace {

int resolve_tactic(const Checker& check, const DeviceScope& device,
                   const gemm::GemmProblem& problem, const char* argument, int64_t tactic) {
  const DeviceInfo& info = device.info();
  check.between(argument, tactic, kSelect, gemm::kNumTactics - 1, "the last tactic");
  if (tactic == kSelect) {
    const int selected = gemm::choose_tactic(problem, device.index(), info);
    if (selected == gemm::kNoTactic)
      check.fail("a tactic must fit the device's shared memory, got ", info.smem_per_cta,
                 " bytes a CTA");
    return selected;
  }
  const int id = static_cast<int>(tactic), num_experts = problem.shape.num_experts;
  const gemm::LaunchTable& table = gemm::launch_table_for(problem.type, problem.epilogue);
  if (!gemm::tactic_fits(table, id, num_experts, info))
    check.fail(argument, " must fit the device's shared memory of ", info.smem_per_cta,
               " bytes a CTA, got tactic ", id, ", which needs ",
               gemm::smem_bytes(table, id, num_experts));
  return id;
}

}  // namespace

void set_weights(gemm::GroupedGemmArgs& args, const Tensor& w) {
  args.w = w.data_ptr();
  const auto element_size = static_cast<int64_t>(w.element_size());
  args.w_expert_bytes = w.stride(0) * element_size;
  args.w_row_bytes = static_cast<uint32_t>(w.stride(1) * element_size);
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

void run_gemm(const Checker& check, const DeviceScope& device, const gemm::GroupedGemmArgs& args,
              ElementType type, gemm::EpilogueKind epilogue, const char* argument, int64_t tactic) {
  const gemm::GemmProblem problem{
      type, epilogue, {args.num_rows, args.num_experts, args.n, args.k}};
  const int id = resolve_tactic(check, device, problem, argument, tactic);
  const auto launch = gemm::launch_table_for(type, epilogue).launch[id];
  device.check_cuda(launch(args, device.index(), device.info(), device.stream()));
}

}  // namespace sm80moe::ops
