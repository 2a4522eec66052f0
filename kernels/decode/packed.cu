#include "decode/int8_rows.cuh"
#include "decode/layer_kernels.cuh"

namespace sm80moe::decode {
namespace {

// The usual first kernel has an instance of its own; otherwise one has all options, since there are
// many formats.
template <class Rows>
cudaError_t run_layer_of(const LayerArgs& args, int device, const DeviceInfo& info,
                         cudaStream_t stream) {
  const auto launch = args.first_half == FirstHalf::kSwiglu  ? launch_layer<Rows, Swiglu, true>
                      : args.first_half == FirstHalf::kGated ? launch_layer<Rows, Gated, true>
                                                             : launch_layer<Rows, Ungated, true>;
  return launch(args, device, info, stream);
}

// int8 with a scale a row is a case of its own; where only one of both weights has no zero points,
// it is one of groups.
WeightFormat format_of(const LayerArgs& args) {
  const WeightFormat first = args.w13_packed.format, second = args.w2_packed.format;
  return first == WeightFormat::kInt8 ? second : first;
}

// Zero points are the exception: without them there is nothing to copy beside the scales.
template <class T, class Numbers>
cudaError_t run_layer_with_codes(const LayerArgs& args, int device, const DeviceInfo& info,
                                 cudaStream_t stream) {
  if (args.w13_packed.codes == nullptr && args.w2_packed.codes == nullptr)
    return run_layer_of<PackedRows<T, WithoutCodes<Numbers>>>(args, device, info, stream);
  return run_layer_of<PackedRows<T, Numbers>>(args, device, info, stream);
}

template <class T>
cudaError_t run_layer_as(const LayerArgs& args, int device, const DeviceInfo& info,
                         cudaStream_t stream) {
  switch (format_of(args)) {
    case WeightFormat::kInt8:
      return run_layer_of<PackedRows<T, Int8Numbers<T>>>(args, device, info, stream);
    case WeightFormat::kInt4:
      return run_layer_with_codes<T, Int4Numbers<T>>(args, device, info, stream);
    case WeightFormat::kFp8:
      return run_layer_of<PackedRows<T, Fp8Numbers<T>>>(args, device, info, stream);
    case WeightFormat::kMxfp4:
      return run_layer_of<PackedRows<T, Mxfp4Numbers<T>>>(args, device, info, stream);
    case WeightFormat::kInt8Rows:
      return run_layer_of<Int8Rows<T>>(args, device, info, stream);
    default:
      return run_layer_with_codes<T, Int8GroupNumbers<T>>(args, device, info, stream);
  }
}

}  // namespace

cudaError_t run_packed_layer(const LayerArgs& args, ElementType type, int device,
                             const DeviceInfo& info, cudaStream_t stream) {
  if (type == ElementType::kBFloat16)
    return run_layer_as<__nv_bfloat16>(args, device, info, stream);
  return run_layer_as<__half>(args, device, info, stream);
}

}  // namespace sm80moe::decode
