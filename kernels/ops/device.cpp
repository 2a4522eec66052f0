#include "ops/device.h"

#include <array>
#include <limits>

// Only a CUDA build of torch has this symbol. Weak, so that the library also loads beside a
// CPU-only torch, where no operator ever gets here.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace sm80moe::ops {
namespace {

constexpr int kMinCapability = 80;
constexpr size_t kMaxDims = 2;

int32_t dtype_code(ScalarType type) {
  switch (type) {
    case ScalarType::BFloat16:
      return aoti_torch_dtype_bfloat16();
    case ScalarType::Half:
      return aoti_torch_dtype_float16();
    case ScalarType::Int:
      return aoti_torch_dtype_int32();
    case ScalarType::Byte:
      return aoti_torch_dtype_uint8();
    case ScalarType::Char:
      return aoti_torch_dtype_int8();
    default:
      return aoti_torch_dtype_float32();
  }
}

}  // namespace

DeviceScope::DeviceScope(const Checker& check, const Tensor& t)
    : check_(check), index_(t.get_device_index()), guard_(index_) {
  if (aoti_torch_get_current_cuda_stream == nullptr)
    check_.fail("torch must be built with CUDA, got a CPU-only build");
  check_cuda(get_device_info(index_, &info_));
  if (info_.capability < kMinCapability)
    check_.fail("the device must have compute capability ", kMinCapability / 10, ".",
                kMinCapability % 10, " or newer, got ", info_.capability / 10, ".",
                info_.capability % 10);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
  stream_ = static_cast<cudaStream_t>(stream);
}

void DeviceScope::check_cuda(cudaError_t status) const {
  if (status == cudaSuccess) return;
  if (status == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    check_.fail("the driver must support CUDA ", CUDART_VERSION / 1000, ", got one for CUDA ",
                driver / 1000, ".", driver % 1000 / 10);
  }
  check_.fail("the CUDA call must succeed, got ", cudaGetErrorName(status), " (",
              cudaGetErrorString(status), ")");
}

Tensor DeviceScope::empty(std::initializer_list<int64_t> sizes, ScalarType type) const {
  std::array<int64_t, kMaxDims> strides{};
  int64_t stride = 1;
  for (size_t dim = sizes.size(); dim-- > 0;) {
    strides[dim] = stride;
    stride *= sizes.begin()[dim];
  }
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(),
                                                  strides.data(), dtype_code(type),
                                                  aoti_torch_device_type_cuda(), index_, &handle));
  return Tensor(handle);
}

DeviceInfo device_info_of(const Checker& check, int64_t device_index) {
  check.between("device_index", device_index, 0, std::numeric_limits<int32_t>::max());
  DeviceInfo info;
  const cudaError_t status = get_device_info(static_cast<int>(device_index), &info);
  if (status != cudaSuccess)
    check.fail("device_index must name a CUDA device, got ", device_index, " (",
               cudaGetErrorString(status), ")");
  return info;
}

}  // namespace sm80moe::ops
