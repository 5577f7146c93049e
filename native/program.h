// Runs a recorded decoding step: a list of instructions over tensors at fixed places.
#pragma once
#include <cstdint>
#include <vector>

#include "pool.h"

namespace skipopt {

enum Format : int64_t { kFloat32 = 0, kBFloat16 = 1, kInt8 = 2, kInt8Rows = 3, kInt4 = 4, kInt4Rows = 5 };

constexpr int64_t kGroup = 32;  // inputs that share a scale in int4

// One weight matrix (n, k).
struct Weight {
  int64_t format = kFloat32;
  const void* data = nullptr;        // row-major; int4: see kernels of int4
  const float* scales = nullptr;     // int8: (n,)
  const uint16_t* groups = nullptr;  // int4: float16 scales and minima, (n, k / 32) each
  const int64_t* rows = nullptr;     // float: the rows of `data` and `bias` that are read; null: all
  const float* bias = nullptr;       // (n,) or null
  int64_t n = 0, k = 0;              // n: outputs
};

// Rows as the kernels take them.
struct Rows {
  const float* values;   // (m, k), contiguous
  const int8_t* bytes;   // 8-bit rows: (m, k)
  const float* scales;   // 8-bit rows: (m,)
  const float* group_sums;  // int4 with 8-bit rows: of groups of inputs before rounding, (m, padded_groups(k))
  int64_t m;
};

enum Type : int64_t { kF32 = 0, kBF16 = 1, kI64 = 2, kI32 = 3, kBool = 4 };

enum Code : int64_t {
  kPointwise = 1, kReduce = 2, kLinear = 3, kMatmul = 4, kAttention = 5, kIndexCopy = 6,
  kIndexSelect = 7, kLargest = 8, kSoftmax = 9
};

enum Function : int64_t {
  kCopy, kNeg, kRsqrt, kSqrt, kExp, kLog, kSigmoid, kTanh, kSilu, kGelu, kGeluTanh, kRelu, kCos,
  kSin, kReciprocal, kAbs, kNot,
  kAdd = 32, kSub, kMul, kDiv, kPow, kMaximum, kMinimum, kLe, kLt, kGe, kGt, kEq, kNe, kAnd, kOr,
  kFloorDiv,
  kWhere = 64
};

constexpr int kMaxDims = 6;

// A strided view of one of the program's base addresses; a scalar has base -1.
struct Operand {
  int64_t base = -1, offset = 0, type = kF32, dims = 0;
  int64_t size[kMaxDims] = {}, stride[kMaxDims] = {};
  double scalar = 0;
};

struct Instruction {
  int64_t code = 0, function = 0, reduced = 0, dim = 0;
  std::vector<Operand> operands;  // the result first
  std::vector<Weight> weights;    // kLinear
  double scale = 0;
};

struct Program {
  std::vector<Instruction> instructions;
};

struct Outputs {
  float* values;
  int64_t stride;
};

// What is compiled once for each instruction set.
struct Kernels {
  const char* name;
  void (*run)(const Program& program, Pool* pool, char** bases, double* seconds);
  void (*multiply)(Pool* pool, const float* x, int64_t m, const std::vector<Weight>& weights, const Outputs* out);
  void (*quantize)(Pool* pool, const void* weight, int64_t type, int64_t n, int64_t k, int8_t* data, float* scales);
  void (*quantize_int4)(
      Pool* pool, const void* weight, int64_t type, int64_t n, int64_t k, uint8_t* data, uint16_t* groups);
  void (*top)(const float* rows, int64_t m, int64_t stride, int64_t n, int64_t count, int64_t* found);
};

}  // namespace skipopt
