#include "ops/checks.h"

#include <cstdint>
#include <limits>

#include "gemm/problem.h"

namespace sm80moe::ops {

std::ostream& operator<<(std::ostream& out, const Dimension& dimension) {
  if (dimension.name != nullptr) return out << dimension.name;
  return out << dimension.size;
}

namespace {

const char* dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Float8_e4m3fn:
      return "float8_e4m3fn";
    case ScalarType::Float8_e5m2:
      return "float8_e5m2";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Bool:
      return "bool";
    default:
      return torch::headeronly::toString(type);
  }
}

template <class List>
std::string bracketed(const List& list) {
  std::ostringstream text;
  const char* separator = "[";
  for (const auto& item : list) {
    text << separator << item;
    separator = ", ";
  }
  text << (list.size() == 0 ? "[]" : "]");
  return text.str();
}

std::string device_name(const Tensor& t) {
  if (!t.is_cuda()) return "cpu";
  return "cuda:" + std::to_string(t.get_device_index());
}

}  // namespace

void Checker::dtype(const char* name, const Tensor& t,
                    std::initializer_list<ScalarType> allowed) const {
  std::string names;
  for (const ScalarType type : allowed) {
    if (t.scalar_type() == type) return;
    names += (names.empty() ? "" : " or ") + std::string(dtype_name(type));
  }
  fail(name, " must be ", names, ", got ", dtype_name(t.scalar_type()));
}

void Checker::shape(const char* name, const Tensor& t,
                    std::initializer_list<Dimension> wanted) const {
  bool matches = t.dim() == static_cast<int64_t>(wanted.size());
  int64_t dim = 0;
  for (const Dimension& dimension : wanted) {
    if (!matches) break;
    matches = dimension.size == kAnySize || dimension.size == t.size(dim);
    ++dim;
  }
  if (!matches) fail(name, " must have shape ", bracketed(wanted), ", got ", bracketed(t.sizes()));
}

void Checker::num_experts(const char* name, int64_t num_experts) const {
  if (num_experts < 1 || num_experts > kMaxExperts)
    fail(name, " must have 1 to ", kMaxExperts, " experts, got ", num_experts);
}

void Checker::multiple(const char* name, int64_t dim, int64_t size, int64_t multiple) const {
  if (size >= multiple && size % multiple == 0) return;
  const std::string where = dim == -1 ? "last dimension" : "dimension " + std::to_string(dim);
  fail(name, " must have a ", where, " that is a positive multiple of ", multiple, ", got ", size);
}

void Checker::at_least_one_column(const char* name, const Tensor& t) const {
  if (t.size(1) < 1) fail(name, " must have at least one column, got ", bracketed(t.sizes()));
}

void Checker::num_rows(const char* name, int64_t num_rows) const {
  constexpr int64_t kMaxRows = std::numeric_limits<int32_t>::max();
  if (num_rows > kMaxRows) fail(name, " must make at most ", kMaxRows, " rows, got ", num_rows);
}

void Checker::between(const char* name, int64_t value, int64_t low, int64_t high,
                      const char* high_meaning) const {
  if (value >= low && value <= high) return;
  const std::string meaning = *high_meaning == '\0' ? "" : " (" + std::string(high_meaning) + ")";
  fail(name, " must be between ", low, " and ", high, meaning, ", got ", value);
}

void Checker::expert_map(const std::optional<Tensor>& map, const Tensor& topk_ids) const {
  if (!map.has_value()) return;
  dtype("expert_map", *map, {ScalarType::Int});
  shape("expert_map", *map, {"G"});
  between("the length of expert_map", map->numel(), 1, std::numeric_limits<int32_t>::max());
  contiguous("expert_map", *map);
  same_device("expert_map", *map, "topk_ids", topk_ids);
}

void Checker::rows(const char* name, const Tensor& t) const {
  contiguous_last_dimension(name, t);
  const auto strides = t.strides();
  int64_t span = t.size(-1);
  for (int64_t dim = 0; dim < t.dim() - 1; ++dim) {
    // The stride of a dimension with one element leads nowhere.
    if (t.size(dim) <= 1) continue;
    if (strides[dim] % kRowMultiple != 0)
      fail(name, " must have strides that are multiples of ", kRowMultiple,
           " elements, got strides ", bracketed(strides));
    // Kernels hold a row's length and its distance from the start of the matrix in 32 bits.
    if (dim < t.dim() - 2) continue;
    span += (t.size(dim) - 1) * strides[dim];
    if (strides[dim] * static_cast<int64_t>(t.element_size()) >= gemm::kMaxRowBytes)
      fail(name, " must have rows less than ", gemm::kMaxRowBytes, " bytes apart, got strides ",
           bracketed(strides));
  }
  if (span / kRowMultiple >= gemm::kMaxMatrixChunks)
    fail(name, " must span less than ", gemm::kMaxMatrixChunks * kRowMultiple,
         " elements a matrix, got ", span);
  aligned(name, t);
}

void Checker::aligned(const char* name, const Tensor& t) const {
  if (reinterpret_cast<uintptr_t>(t.data_ptr()) % kAlignment != 0)
    fail(name, " must be aligned to ", kAlignment, " bytes, got address ", t.data_ptr());
}

void Checker::optional_rows(const char* name, const std::optional<Tensor>& t,
                            std::initializer_list<Dimension> wanted, const char* leader_name,
                            const Tensor& leader) const {
  if (!t.has_value()) return;
  dtype(name, *t, {leader.scalar_type()});
  shape(name, *t, wanted);
  rows(name, *t);
  same_device(name, *t, leader_name, leader);
}

void Checker::distinct_rows(const char* name, const Tensor& t) const {
  if (t.stride(0) < t.size(1) && t.size(0) > 1)
    fail(name, " must have rows that do not overlap, got strides ", bracketed(t.strides()));
}

void Checker::contiguous(const char* name, const Tensor& t) const {
  if (!t.is_contiguous()) fail(name, " must be contiguous, got strides ", bracketed(t.strides()));
}

void Checker::contiguous_last_dimension(const char* name, const Tensor& t) const {
  if (t.stride(-1) != 1 && t.size(-1) > 1)
    fail(name, " must have a contiguous last dimension, got strides ", bracketed(t.strides()));
}

void Checker::same_device(const char* name, const Tensor& t, const char* leader_name,
                          const Tensor& leader) const {
  const bool same =
      t.is_cuda() == leader.is_cuda() && t.get_device_index() == leader.get_device_index();
  if (!same)
    fail(name, " must be on ", device_name(leader), " like ", leader_name, ", got ",
         device_name(t));
}

ExpertIds expert_ids(const Tensor& topk_ids, const std::optional<Tensor>& expert_map,
                     int64_t num_experts) {
  ExpertIds ids{};
  ids.ids = topk_ids.data_ptr();
  ids.row_stride = topk_ids.stride(0);
  ids.are_int64 = topk_ids.scalar_type() == ScalarType::Long;
  ids.num_ids = static_cast<int>(expert_map.has_value() ? expert_map->numel() : num_experts);
  if (expert_map.has_value()) ids.expert_map = static_cast<const int32_t*>(expert_map->data_ptr());
  return ids;
}

ElementType element_type(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::BFloat16:
      return ElementType::kBFloat16;
    case ScalarType::Half:
      return ElementType::kFloat16;
    default:
      return ElementType::kFloat32;
  }
}

}  // namespace sm80moe::ops
