#include "runtime/ptx.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/bank_conflicts.h"
#include "runtime/copied_sectors.h"
#include "runtime/machine.h"
#include "runtime/memory.h"

namespace simt {
namespace {

uint64_t value_of(const PtxOperand& operand) {
  uint64_t value = operand.value;
  if (operand.address) memcpy(&value, operand.address, operand.bytes);
  return value;
}
float float_of(const PtxOperand& operand) {
  const auto bits = static_cast<uint32_t>(value_of(operand));
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

struct Call;

// One parsed statement: `@p opcode.with.dots a, [b], {c, d}`.
struct Instruction {
  // An operand of the asm statement, a register that the text declares, or an immediate.
  struct Term {
    enum Kind { kOperand, kPredicate, kImmediate } kind;
    int64_t number;
  };
  const char* text;
  std::vector<std::string> opcode;
  std::vector<std::vector<Term>> arguments;
  void (*run)(const Call&);

  bool has(const char* part) const {
    return std::find(opcode.begin(), opcode.end(), part) != opcode.end();
  }
};

struct Program {
  std::vector<std::string> predicates;  // declared by .reg .pred
  std::vector<Instruction> instructions;
};

// An instruction with the operands of one thread.
struct Call {
  const Instruction& instruction;
  const PtxOperand* operands;
  bool* predicates;
  Site site;

  size_t num_arguments() const { return instruction.arguments.size(); }
  const std::vector<Instruction::Term>& terms(int argument) const {
    return instruction.arguments[argument];
  }
  uint64_t value(int argument) const {
    const Instruction::Term& term = terms(argument)[0];
    if (term.kind == Instruction::Term::kImmediate) return term.number;
    if (term.kind == Instruction::Term::kPredicate) return predicates[term.number];
    return value_of(operands[term.number]);
  }
  // Element `i` of a braced list of operands.
  const PtxOperand& element(int argument, int i) const {
    return operands[terms(argument)[i].number];
  }
};

template <class T>
void set(const PtxOperand& output, T value) {
  memcpy(output.address, &value, sizeof(value));
}

// setp.eq.{u32,s32,b32} p, a, b
void run_set_if_equal(const Call& call) {
  const auto a = static_cast<uint32_t>(call.value(1)), b = static_cast<uint32_t>(call.value(2));
  call.predicates[call.terms(0)[0].number] = (a == b) == call.instruction.has("eq");
}

// lop3.b32 d, a, b, c, table
void run_lop3(const Call& call) {
  uint32_t result = 0;
  for (int bit = 0; bit < 32; ++bit) {
    const unsigned row = (call.value(1) >> bit & 1) << 2 | (call.value(2) >> bit & 1) << 1 |
                         (call.value(3) >> bit & 1);
    result |= static_cast<uint32_t>(call.value(4) >> row & 1) << bit;
  }
  set(call.element(0, 0), result);
}

// rcp.approx.ftz.f32 d, a
void run_reciprocal(const Call& call) {
  const float x = float_of(call.element(1, 0));
  set(call.element(0, 0), 1 / (std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x));
}

// cp.async.{ca,cg}.shared.global [dst], [src], bytes{, bytes read or ignore-src}{, cache policy}
void run_copy(const Call& call) {
  const bool has_policy = call.instruction.has("L2::cache_hint");
  const int bytes = static_cast<int>(call.value(2));
  int src_bytes = bytes;
  if (call.num_arguments() > (has_policy ? 4u : 3u)) {
    const bool is_ignore_src = call.terms(3)[0].kind == Instruction::Term::kPredicate;
    src_bytes = is_ignore_src ? (call.value(3) ? 0 : bytes) : static_cast<int>(call.value(3));
  }
  const auto dst = static_cast<uint32_t>(call.value(0));
  bank_conflicts().add(SharedOp::kAsyncCopy, dst, bytes, call.site);
  const auto* src = reinterpret_cast<const void*>(call.value(1));
  copied_sectors().add(src_bytes > 0 ? src : nullptr, bytes, call.site);
  current_thread()->copies.issue(dst, src, bytes, src_bytes, call.site);
}

// ld.{shared,global}{.v2,.v4}.{b32,f32} d or {d, d}, [address]
void run_load(const Call& call) {
  const bool is_shared = call.instruction.has("shared");
  const uint64_t address = call.value(1);
  const int words = static_cast<int>(call.terms(0).size());
  check_alignment(address, 4 * words, call.site);
  const auto* source =
      static_cast<const char*>(is_shared ? shared_pointer(static_cast<uint32_t>(address))
                                         : reinterpret_cast<const void*>(address));
  check_access(source, 4 * words, Access::kRead, call.site);
  if (is_shared)
    bank_conflicts().add(SharedOp::kLoad, static_cast<uint32_t>(address), 4 * words, call.site);
  for (int i = 0; i < words; ++i) {
    uint32_t word;
    memcpy(&word, source + 4 * i, sizeof(word));
    set(call.element(0, i), word);
  }
}

void run_commit(const Call&) { current_thread()->copies.commit(); }
void run_wait_group(const Call& call) {
  current_thread()->copies.wait_for_all_but(static_cast<int>(call.value(0)));
}
void run_wait_all(const Call&) { current_thread()->copies.wait_for_all(); }

// A warp instruction: what all lanes brought.
struct WarpCall {
  const Call* lane[kWarpSize];
};

void with_warp(const Call& call, void (*together)(const WarpCall&)) {
  Call mine = call;
  warp_collective(call.instruction.text, {"", 0}, kFullWarp, &mine, [together](LaneData lanes) {
    WarpCall warp;
    for (int lane = 0; lane < kWarpSize; ++lane) warp.lane[lane] = static_cast<Call*>(lanes[lane]);
    together(warp);
  });
}

// ldmatrix.sync.aligned.m8n8.x{1,2,4}{.trans}.shared.b16 {d...}, [row address]
void load_matrices(const WarpCall& warp) {
  const size_t num_matrices = warp.lane[0]->terms(0).size();
  const bool transposed = warp.lane[0]->instruction.has("trans");
  for (size_t matrix = 0; matrix < num_matrices; ++matrix) {
    uint16_t elements[8][8];
    uint32_t addresses[8];
    for (int row = 0; row < 8; ++row) {
      addresses[row] = static_cast<uint32_t>(warp.lane[matrix * 8 + row]->value(1));
      memcpy(elements[row], shared_pointer(addresses[row]), sizeof(elements[row]));
    }
    bank_conflicts().add_matrix(addresses);
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int row = lane / 4, col = lane % 4 * 2;
      const uint32_t low = transposed ? elements[col][row] : elements[row][col];
      const uint32_t high = transposed ? elements[col + 1][row] : elements[row][col + 1];
      set(warp.lane[lane]->element(0, matrix), low | high << 16);
    }
  }
}

void run_ldmatrix(const Call& call) {
  // Each lane's address counts as that lane's read, so a report names who gave it.
  const auto row = static_cast<uint32_t>(call.value(1));
  if (static_cast<size_t>(current_thread()->lane) < call.terms(0).size() * 8) {
    check_alignment(row, 16, call.site);
    check_access(shared_pointer(row), 16, Access::kRead, call.site);
  }
  with_warp(call, load_matrices);
}

float element(uint64_t pair, int half, bool bfloat) {
  const auto bits = static_cast<uint16_t>(pair >> (16 * half));
  return bfloat ? __bfloat162float({bits}) : __half2float({bits});
}

// mma.sync.aligned.m16n8k16.row.col.f32.{bf16.bf16,f16.f16}.f32 {d}, {a}, {b}, {c}
void multiply_matrices(const WarpCall& warp) {
  const bool bfloat = warp.lane[0]->instruction.has("bf16");
  float a[16][16], b[16][8];  // in the manual's layout of fragments
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Call& call = *warp.lane[lane];
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 4; ++i)
      for (int half = 0; half < 2; ++half)
        a[group + i % 2 * 8][pair + i / 2 * 8 + half] =
            element(value_of(call.element(1, i)), half, bfloat);
    for (int i = 0; i < 2; ++i)
      for (int half = 0; half < 2; ++half)
        b[pair + i * 8 + half][group] = element(value_of(call.element(2, i)), half, bfloat);
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Call& call = *warp.lane[lane];
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
      float sum = float_of(call.element(3, i));
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][col];
      set(call.element(0, i), sum);
    }
  }
}

void run_mma(const Call& call) { with_warp(call, multiply_matrices); }

// mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {d}, {a}, {b}, {c}: four elements a register.
void multiply_byte_matrices(const WarpCall& warp) {
  int8_t a[16][32], b[32][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Call& call = *warp.lane[lane];
    const int group = lane / 4, four = lane % 4 * 4;
    for (int byte = 0; byte < 4; ++byte) {
      for (int i = 0; i < 4; ++i)
        a[group + i % 2 * 8][four + i / 2 * 16 + byte] =
            static_cast<int8_t>(value_of(call.element(1, i)) >> (8 * byte));
      for (int i = 0; i < 2; ++i)
        b[four + i * 16 + byte][group] =
            static_cast<int8_t>(value_of(call.element(2, i)) >> (8 * byte));
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Call& call = *warp.lane[lane];
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
      auto sum = static_cast<uint32_t>(value_of(call.element(3, i)));
      for (int k = 0; k < 32; ++k) sum += static_cast<uint32_t>(a[row][k] * b[k][col]);
      set(call.element(0, i), sum);
    }
  }
}

void run_byte_mma(const Call& call) { with_warp(call, multiply_byte_matrices); }

// The instructions that kernels/ uses, by the beginning of their names. A new one needs a line
// here and a function above.
const struct {
  const char* prefix;
  void (*run)(const Call&);
} kInstructions[] = {
    {"setp.eq.", run_set_if_equal},
    {"setp.ne.", run_set_if_equal},
    {"lop3.b32", run_lop3},
    {"rcp.approx.ftz.f32", run_reciprocal},
    {"ld.shared.", run_load},
    {"ld.global.", run_load},
    {"cp.async.cg.shared.global", run_copy},
    {"cp.async.ca.shared.global", run_copy},
    {"cp.async.commit_group", run_commit},
    {"cp.async.wait_group", run_wait_group},
    {"cp.async.wait_all", run_wait_all},
    {"ldmatrix.sync.aligned.m8n8", run_ldmatrix},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", run_mma},
    {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", run_mma},
    {"mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", run_byte_mma},
};

// The parts of `text` between separators that no bracket encloses, without blanks.
std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  int depth = 0;
  for (const char c : text) {
    depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    if (c == separator && depth == 0)
      parts.emplace_back();
    else if (c != ' ' && c != '\n' && c != '\t')
      parts.back() += c;
  }
  return parts;
}

[[noreturn]] void unknown(const std::string& what) {
  fail("unknown-instruction",
       format("  tests/host/runtime/ptx.cpp does not know: %s\n", what.c_str()));
}

Instruction::Term parse_term(const std::string& text, const Program& program) {
  using Term = Instruction::Term;
  if (text[0] == '%') return {Term::kOperand, std::stoll(text.substr(1))};
  const auto& names = program.predicates;
  const auto name = std::find(names.begin(), names.end(), text);
  if (name != names.end()) return {Term::kPredicate, name - names.begin()};
  if (text.find_first_not_of("-0123456789") != std::string::npos) unknown(text);
  return {Term::kImmediate, std::stoll(text)};
}

std::vector<Instruction::Term> parse_argument(std::string text, const Program& program) {
  if (text[0] == '[' || text[0] == '{') text = text.substr(1, text.size() - 2);
  std::vector<Instruction::Term> terms;
  for (const std::string& term : split(text, ',')) terms.push_back(parse_term(term, program));
  return terms;
}

// The text that names a program is kept by the caller: it is a literal of the kernel.
void parse_statement(const std::string& statement, const char* text, Program& program) {
  const size_t space = std::min(statement.find(' '), statement.size());
  const std::string name = statement.substr(0, space);
  const std::string rest = statement.substr(std::min(space + 1, statement.size()));
  if (name == ".reg") {
    if (rest.rfind(".pred ", 0) != 0) unknown(statement);
    for (const std::string& predicate : split(rest.substr(6), ','))
      program.predicates.push_back(predicate);
    return;
  }
  Instruction instruction{text, split(name, '.'), {}, nullptr};
  if (!rest.empty())
    for (const std::string& argument : split(rest, ','))
      instruction.arguments.push_back(parse_argument(argument, program));
  for (const auto& known : kInstructions)
    if (name.rfind(known.prefix, 0) == 0) instruction.run = known.run;
  if (!instruction.run) unknown(statement);
  program.instructions.push_back(instruction);
}

// Statements end in `;`, and a block of them may stand in braces.
Program parse(const char* text) {
  constexpr const char* kBlanks = " \n\t";
  Program program;
  std::string statement;
  for (const char* at = text; *at; ++at) {
    const bool empty = statement.find_first_not_of(kBlanks) == std::string::npos;
    if (empty && (*at == '{' || *at == '}')) continue;
    if (*at != ';') {
      statement += *at;
      continue;
    }
    parse_statement(statement.substr(statement.find_first_not_of(kBlanks)), text, program);
    statement.clear();
  }
  return program;
}

}  // namespace

__attribute__((noinline)) void run_ptx(const char* text,
                                       std::initializer_list<PtxOperand> operands) {
  static std::unordered_map<const char*, Program> parsed;
  auto found = parsed.find(text);
  if (found == parsed.end()) found = parsed.emplace(text, parse(text)).first;
  constexpr int kMaxPredicates = 8;
  bool predicates[kMaxPredicates] = {};
  for (const Instruction& instruction : found->second.instructions)
    instruction.run({instruction, operands.begin(), predicates, __builtin_return_address(0)});
}

}  // namespace simt
