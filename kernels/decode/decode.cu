#include "decode/dense_rows.cuh"
#include "decode/layer_kernels.cuh"

namespace sm80moe::decode {
namespace {

template <class Rows>
cudaError_t run_layer_of(const LayerArgs& args, int device, const DeviceInfo& info,
                         cudaStream_t stream) {
  const auto first = args.first_kernel == FirstKernel::kSwiglu  ? launch_gate_up<Rows, Swiglu>
                     : args.first_kernel == FirstKernel::kGated ? launch_gate_up<Rows, Gated>
                                                                : launch_gate_up<Rows, Ungated>;
  const bool has_options = args.weighs_input || args.residual != nullptr || args.w2_bias != nullptr;
  const auto second =
      has_options ? launch_down_combine<Rows, true> : launch_down_combine<Rows, false>;
  const cudaError_t status = first(args, device, info, stream);
  if (status != cudaSuccess) return status;
  return second(args, device, info, stream);
}

}  // namespace

cudaError_t run_layer(const LayerArgs& given, ElementType type, int device, const DeviceInfo& info,
                      cudaStream_t stream) {
  LayerArgs args = given;
  args.inverse_of_top_k = ceil_div<unsigned>(kUnitOfInverse, args.top_k);
  if (args.w13_packed.format != WeightFormat::kDense)
    return run_packed_layer(args, type, device, info, stream);
  if (type == ElementType::kBFloat16)
    return run_layer_of<DenseRows<__nv_bfloat16>>(args, device, info, stream);
  return run_layer_of<DenseRows<__half>>(args, device, info, stream);
}

}  // namespace sm80moe::decode
