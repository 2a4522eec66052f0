#include "decode/dense_rows.cuh"
#include "decode/layer_kernels.cuh"

namespace sm80moe::decode {
namespace {

template <class Rows>
cudaError_t run_layer_of(const LayerArgs& args, int device, const DeviceInfo& info,
                         cudaStream_t stream) {
  const bool has_options = args.weighs_input || args.residual != nullptr || args.w2_bias != nullptr;
  const auto launch = args.first_half == FirstHalf::kUngated ? launch_layer<Rows, Ungated, true>
                      : args.first_half == FirstHalf::kGated ? launch_layer<Rows, Gated, true>
                      : has_options                          ? launch_layer<Rows, Swiglu, true>
                                                             : launch_layer<Rows, Swiglu, false>;
  return launch(args, device, info, stream);
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
