#include "ops/packed_weight.h"

#include <algorithm>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <string_view>

#include "ops/int8_rows.h"

namespace sm80moe::ops {
namespace {

// What torch_sm80moe/_formats.py says of a format; operators take its place.
struct FormatRules {
  std::string_view name;
  int64_t bits;  // of a stored value
  std::initializer_list<int64_t> group_sizes;
  const char* group_sizes_in_words;
};
constexpr FormatRules kRules[] = {
#include "weight_formats.inc"
};
constexpr int64_t kNumFormats = std::size(kRules);

constexpr int64_t format_of(std::string_view name) {
  int64_t format = 0;
  while (kRules[format].name != name) ++format;  // a name without rules does not compile
  return format;
}
constexpr int64_t kInt4 = format_of("int4"), kFp8 = format_of("fp8"), kMxfp4 = format_of("mxfp4");
constexpr int64_t kW8A8 = format_of("w8a8");

constexpr int64_t kChunkBytes = 16, kCodesOfWord = 4;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t num_groups(const PackedScheme& scheme, int64_t k) {
  return scheme.group_size == 0 ? 1 : ceil_div(k, scheme.group_size);
}

void check_scheme(const Checker& check, const PackedScheme& scheme) {
  check.between("weight_format", scheme.weight_format, 0, kNumFormats - 1);
  const FormatRules& rules = kRules[scheme.weight_format];
  const auto& sizes = rules.group_sizes;
  if (std::find(sizes.begin(), sizes.end(), scheme.group_size) == sizes.end())
    check.fail("group_size must be ", rules.group_sizes_in_words, " for ", rules.name, ", got ",
               scheme.group_size);
}

// Sums of weight rows are there for the zero point that a known range may have.
void check_input(const Checker& check, const std::string& name, const PackedWeight& packed,
                 int64_t k, const char* leader_name, const Tensor& leader) {
  const std::string input_name = name + "_input", codes_name = name + "_codes";
  if (packed.scheme.weight_format != kW8A8) {
    if (packed.input) check.fail(input_name, " must be None unless w8a8, got a tensor");
    return;
  }
  check.between((name + "'s depth").c_str(), k, 1, kMaxInt8Depth, "the most of w8a8");
  check_int8_range(check, input_name.c_str(), packed.input, leader_name, leader);
  if (packed.input && !packed.codes)
    check.fail(codes_name, " must be a tensor beside ", input_name, ", got None");
  if (!packed.input && packed.codes)
    check.fail(codes_name, " must be None without ", input_name, ", got a tensor");
}

int group_shift(int64_t group_size) {
  switch (group_size) {
    case 32:
      return 5;
    case 64:
      return 6;
    case 128:
      return 7;
    default:
      return 31;
  }
}

}  // namespace

WeightFormat packed_format(const PackedWeight& packed) {
  switch (packed.scheme.weight_format) {
    case kInt4:
      return WeightFormat::kInt4;
    case kFp8:
      return WeightFormat::kFp8;
    case kMxfp4:
      return WeightFormat::kMxfp4;
    case kW8A8:
      return WeightFormat::kInt8Rows;
    default:
      return packed.scheme.group_size == 0 && !packed.codes ? WeightFormat::kInt8
                                                            : WeightFormat::kInt8Group;
  }
}

void check_packed(const Checker& check, const std::string& name, const Tensor& values,
                  const PackedWeight& packed, int64_t k, const char* leader_name,
                  const Tensor& leader) {
  check_scheme(check, packed.scheme);
  const int64_t format = packed.scheme.weight_format;
  const std::string scale_name = name + "_scale", codes_name = name + "_codes";
  const int64_t row_bytes = ceil_div(k * kRules[format].bits, 8 * kChunkBytes) * kChunkBytes;
  check.dtype(name.c_str(), values, {ScalarType::Byte});
  check.shape(name.c_str(), values, {"E", "N", row_bytes});
  check.num_experts(name.c_str(), values.size(0));
  check.contiguous(name.c_str(), values);
  check.aligned(name.c_str(), values);
  check.same_device(name.c_str(), values, leader_name, leader);
  check.between((name + "'s rows of all experts").c_str(), values.size(0) * values.size(1), 1,
                std::numeric_limits<int32_t>::max());

  const bool is_mxfp4 = format == kMxfp4;
  const int64_t groups = num_groups(packed.scheme, k);
  check.dtype(scale_name.c_str(), packed.scale, {ScalarType::Float});
  const int64_t octets = ceil_div(values.size(1), kRowsSideBySide);
  check.shape(scale_name.c_str(), packed.scale,
              {values.size(0), octets, is_mxfp4 ? 1 : groups, kRowsSideBySide});
  check.contiguous(scale_name.c_str(), packed.scale);
  check.same_device(scale_name.c_str(), packed.scale, leader_name, leader);

  if (format == kFp8 && packed.codes) check.fail(codes_name, " must be None for fp8, got a tensor");
  check_input(check, name, packed, k, leader_name, leader);
  if (is_mxfp4 && !packed.codes) check.fail(codes_name, " must be a tensor for mxfp4, got None");
  if (!packed.codes) return;
  check.dtype(codes_name.c_str(), *packed.codes, {ScalarType::Byte});
  check.shape(
      codes_name.c_str(), *packed.codes,
      {values.size(0), octets, ceil_div(groups, kCodesOfWord), kRowsSideBySide, kCodesOfWord});
  check.contiguous(codes_name.c_str(), *packed.codes);
  check.aligned(codes_name.c_str(), *packed.codes);
  check.same_device(codes_name.c_str(), *packed.codes, leader_name, leader);
}

PackedArgs packed_args(const PackedWeight& packed, const ColumnRows& rows) {
  PackedArgs args{};
  args.format = packed_format(packed);
  args.groups = static_cast<int>(packed.scale.size(2));
  args.scale = static_cast<const float*>(packed.scale.data_ptr());
  if (packed.codes) {
    args.code_words = static_cast<int>(packed.codes->size(2));
    args.codes = static_cast<const uint32_t*>(packed.codes->data_ptr());
  }
  args.first_row = static_cast<int>(rows.first);
  args.row_step = static_cast<int>(rows.step);
  args.up_rows = static_cast<int>(rows.second);
  args.group_shift = group_shift(packed.scheme.group_size);
  return args;
}

void set_packed(gemm::GroupedGemmArgs& args, const PackedWeight& packed, const ColumnRows& rows,
                int64_t k) {
  args.packed = packed_args(packed, rows);
  // Int8 activations and their weights are counted in pairs.
  args.k = static_cast<int>(meets_int8(args.packed.format) ? int8_row_bytes(k) / 2 : k);
}

}  // namespace sm80moe::ops
