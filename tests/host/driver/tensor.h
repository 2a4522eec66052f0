#pragma once
// Tensors in guarded device memory, the values that tests put there, and exact 16-bit conversions.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "common/element_type.h"
#include "runtime/memory.h"
#include "runtime/random.h"

namespace driver {

// `rows` rows of `cols` elements, `stride` apart. What lies between two rows may not be read.
template <class T>
class Tensor {
 public:
  Tensor(const char* name, int64_t rows, int64_t cols, int64_t stride)
      : cols_(cols), stride_(stride), num_elements_(rows ? (rows - 1) * stride + cols : 0) {
    data_ = static_cast<T*>(simt::device_allocate(name, num_elements_ * sizeof(T)));
  }
  Tensor(const char* name, int64_t elements) : Tensor(name, elements ? 1 : 0, elements, elements) {}

  T* data() const { return data_; }
  int64_t stride() const { return stride_; }
  T at(int64_t row, int64_t col) const { return data_[row * stride_ + col]; }
  T operator[](int64_t i) const { return data_[i]; }

  void set(int64_t row, int64_t col, T value) { set_flat(row * stride_ + col, value); }
  void set_flat(int64_t i, T value) {
    data_[i] = value;
    simt::mark_initialised(data_ + i, sizeof(T));
  }

 private:
  T* data_;
  int64_t cols_, stride_, num_elements_;
};

// One of a few short fractions: products and long sums of them are exact in fp32, so the fp64
// reference must be met to the last bit.
inline double short_fraction(simt::Random& random) {
  return (static_cast<int>(random.below(17)) - 8) * 0.125;
}

inline double to_double(uint16_t bits, sm80moe::ElementType type) {
  return type == sm80moe::ElementType::kBFloat16 ? __bfloat162float({bits}) : __half2float({bits});
}
inline uint16_t to_bits(double value, sm80moe::ElementType type) {
  const auto narrow = static_cast<float>(value);
  return type == sm80moe::ElementType::kBFloat16 ? __float2bfloat16_rn(narrow).bits
                                                 : __float2half_rn(narrow).bits;
}

// Maps twice as many experts as this device has: to one of its own, to none, or past the last.
// Without entries there is no map.
class ExpertMap {
 public:
  ExpertMap(bool exists, int num_experts, simt::Random& random)
      : exists_(exists),
        num_ids_(exists ? 2 * num_experts : num_experts),
        map_("expert_map", exists ? num_ids_ : 0) {
    for (int id = 0; exists && id < num_ids_; ++id)
      map_.set_flat(id, static_cast<int32_t>(random.below(num_experts + 2)) - 1);
  }

  int num_ids() const { return num_ids_; }
  const int32_t* data() const { return exists_ ? map_.data() : nullptr; }
  int64_t operator[](int64_t id) const {
    if (!exists_) return id;
    return id >= 0 && id < num_ids_ ? map_[id] : -1;
  }

 private:
  const bool exists_;
  const int num_ids_;
  Tensor<int32_t> map_;
};

// Half a unit in the last place of a 16-bit type, at `value`.
inline double half_ulp(double value, sm80moe::ElementType type) {
  const bool bfloat = type == sm80moe::ElementType::kBFloat16;
  const int exponent = std::ilogb(std::max(std::fabs(value), bfloat ? 1e-37 : 6.2e-5));
  return std::ldexp(0.5, exponent - (bfloat ? 7 : 10));
}

}  // namespace driver
