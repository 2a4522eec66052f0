#pragma once
// The weights of a GEMM as a format stores them, and their exact values.

#include <memory>

#include "common/element_type.h"
#include "driver/epilogue.h"
#include "gemm/problem.h"
#include "runtime/random.h"

namespace driver {

struct WeightShape {
  int num_experts, n, k;
  int pad;    // weights after each row, and rows after each expert
  int group;  // weights of a row that share a scale; 0: all
  bool zero_points;
};

class Weights {
 public:
  virtual ~Weights() = default;
  virtual double value(int expert, int row, int k) const = 0;
  virtual void fill_args(sm80moe::gemm::GroupedGemmArgs& args, const ColumnRows& rows) const = 0;
};

// What the bits of a small float mean: a sign, then an exponent whose bias is half of its range,
// then a mantissa.
double small_float(unsigned code, int exponent_bits, int mantissa_bits);

// Where quantization/packing.py puts bit `bit` of weight k of a row, counted from the row's start.
int64_t packed_bit(sm80moe::WeightFormat format, int k, int bit);

// Random ones: their products with short fractions, and long sums of them, are exact in fp32.
std::unique_ptr<Weights> make_weights(sm80moe::WeightFormat format, sm80moe::ElementType type,
                                      const WeightShape& shape, simt::Random& random);

}  // namespace driver
