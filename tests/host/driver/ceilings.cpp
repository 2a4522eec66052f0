// read and mma: the kernels that measure the device's ceilings, against plain loops.

#include "ceilings/ceilings.h"

#include <cstring>

#include "driver/commands.h"
#include "driver/tensor.h"
#include "runtime/settings.h"

namespace driver {
namespace {

constexpr int kRows = 128, kRowBytes = 128;

void check_status(int status, int wanted) {
  if (status != wanted)
    wrong_result(simt::format("  the status must be %d, got %d", wanted, status));
}

// Two tiles of elements in any of the three types, and their values.
class Tiles {
 public:
  Tiles(int operand, simt::Random& random)
      : operand_(operand), bytes_("tiles", 2 * kRows * kRowBytes) {
    for (int i = 0; i < 2 * kRows * depth(); ++i) set(i, random);
  }

  const void* data() const { return bytes_.data(); }
  int depth() const { return kRowBytes / element_size(); }
  // Of row `row` of both tiles together.
  double at(int row, int k) const {
    const uint8_t* element = bytes_.data() + row * kRowBytes + k * element_size();
    if (operand_ == kMmaInt8) return static_cast<int8_t>(*element);
    uint16_t bits;
    memcpy(&bits, element, sizeof(bits));
    return to_double(bits, type());
  }

 private:
  int element_size() const { return operand_ == kMmaInt8 ? 1 : 2; }
  sm80moe::ElementType type() const {
    return operand_ == kMmaFp16 ? sm80moe::ElementType::kFloat16 : sm80moe::ElementType::kBFloat16;
  }
  void set(int i, simt::Random& random) {
    uint16_t bits = static_cast<uint8_t>(random.below(256));
    if (operand_ != kMmaInt8) bits = to_bits(short_fraction(random), type());
    for (int byte = 0; byte < element_size(); ++byte)
      bytes_.set_flat(i * element_size() + byte, static_cast<uint8_t>(bits >> (8 * byte)));
  }

  const int operand_;
  Tensor<uint8_t> bytes_;
};

template <class Sum>
void multiply(int operand, int rounds) {
  simt::Random random(simt::settings().seed);
  const Tiles tiles(operand, random);
  Tensor<Sum> sums("sums", kRows * kRows);
  const MmaCeiling args{tiles.data(), sums.data(), operand, rounds};
  int64_t num_operations = 0;
  check_status(sm80moe_mma_ceiling(&args, nullptr, &num_operations), cudaSuccess);

  const int64_t ctas = simt::settings().num_sms * simt::settings().blocks_per_sm;
  const int64_t wanted = ctas * rounds * 2 * kRows * kRows * tiles.depth();
  if (num_operations != wanted)
    wrong_result(simt::format("  num_operations must be %ld, got %ld", wanted, num_operations));
  for (int m = 0; m < kRows; ++m)
    for (int n = 0; n < kRows; ++n) {
      double sum = 0;
      for (int k = 0; k < tiles.depth(); ++k) sum += tiles.at(m, k) * tiles.at(kRows + n, k);
      const double got = sums[m * kRows + n];
      if (got != rounds * sum)
        wrong_result(simt::format("  sums[%d, %d] must be %g, got %g", m, n, rounds * sum, got));
    }
}

}  // namespace

void run_read_ceiling(const Options& options) {
  const int64_t num_bytes = options.number("steps", 7) * kReadGranularity;
  const int64_t num_checksums = options.number("checksums", 1024);
  simt::Random random(simt::settings().seed);
  Tensor<uint32_t> src("src", num_bytes / 4), checksums("checksums", num_checksums);
  uint32_t wanted = 0;
  for (int64_t i = 0; i < num_bytes / 4; ++i) {
    src.set_flat(i, static_cast<uint32_t>(random.below(1u << 31)));
    wanted ^= src[i];
  }
  for (int64_t i = 0; i < num_checksums; ++i) checksums.set_flat(i, 0);
  const ReadCeiling args{src.data(), num_bytes, checksums.data(), num_checksums};
  check_status(sm80moe_read_ceiling(&args, nullptr), cudaSuccess);
  uint32_t got = 0;
  for (int64_t i = 0; i < num_checksums; ++i) got ^= checksums[i];
  if (got != wanted) wrong_result(simt::format("  the XOR must be %x, got %x", wanted, got));

  const ReadCeiling wrong[] = {
      {nullptr, num_bytes, checksums.data(), num_checksums},
      {src.data(), num_bytes, nullptr, num_checksums},
      {src.data(), num_bytes - 16, checksums.data(), num_checksums},
      {src.data(), 0, checksums.data(), num_checksums},
      {src.data() + 1, num_bytes, checksums.data(), num_checksums},
      {src.data(), num_bytes, checksums.data(), 7},
  };
  check_status(sm80moe_read_ceiling(nullptr, nullptr), cudaErrorInvalidValue);
  for (const ReadCeiling& one : wrong)
    check_status(sm80moe_read_ceiling(&one, nullptr), cudaErrorInvalidValue);
}

void run_mma_ceiling(const Options& options) {
  const auto operand = static_cast<int>(options.number("operand", kMmaFp16));
  const auto rounds = static_cast<int>(options.number("rounds", 1));
  operand == kMmaInt8 ? multiply<int32_t>(operand, rounds) : multiply<float>(operand, rounds);

  alignas(16) char tiles[16], sums[16];
  int64_t num_operations = 0;
  const MmaCeiling good{tiles, sums, kMmaFp16, 1};
  const MmaCeiling wrong[] = {
      {nullptr, sums, kMmaFp16, 1},  {tiles + 8, sums, kMmaFp16, 1},
      {tiles, nullptr, kMmaFp16, 1}, {tiles, sums + 2, kMmaFp16, 1},
      {tiles, sums, -1, 1},          {tiles, sums, kNumMmaOperands, 1},
      {tiles, sums, kMmaFp16, 0},
  };
  check_status(sm80moe_mma_ceiling(nullptr, nullptr, &num_operations), cudaErrorInvalidValue);
  check_status(sm80moe_mma_ceiling(&good, nullptr, nullptr), cudaErrorInvalidValue);
  for (const MmaCeiling& one : wrong)
    check_status(sm80moe_mma_ceiling(&one, nullptr, &num_operations), cudaErrorInvalidValue);
}

}  // namespace driver
