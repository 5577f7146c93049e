// Functions of single elements.
#pragma once
#include "math.h"
#include "operands.h"

namespace skipopt {
namespace SKIPOPT_ISA {

static double scalar_function(int64_t function, double a, double b, double c) {
  switch (function) {
    case kCopy: return a;
    case kNeg: return -a;
    case kRsqrt: return 1.0 / std::sqrt(a);
    case kSqrt: return std::sqrt(a);
    case kExp: return std::exp(a);
    case kLog: return std::log(a);
    case kSigmoid: return 1.0 / (1.0 + std::exp(-a));
    case kTanh: return std::tanh(a);
    case kSilu: return a / (1.0 + std::exp(-a));
    case kGelu: return 0.5 * a * (1.0 + std::erf(a * 0.70710678118654752));
    case kGeluTanh: return 0.5 * a * (1.0 + std::tanh(0.79788456080286536 * (a + 0.044715 * a * a * a)));
    case kRelu: return a > 0 || a != a ? a : 0;
    case kCos: return std::cos(a);
    case kSin: return std::sin(a);
    case kReciprocal: return 1.0 / a;
    case kAbs: return std::fabs(a);
    case kNot: return a == 0;
    case kAdd: return a + b;
    case kSub: return a - b;
    case kMul: return a * b;
    case kDiv: return a / b;
    case kPow: return std::pow(a, b);
    case kMaximum: return a != a || a > b ? a : b;
    case kMinimum: return a != a || a < b ? a : b;
    case kLe: return a <= b;
    case kLt: return a < b;
    case kGe: return a >= b;
    case kGt: return a > b;
    case kEq: return a == b;
    case kNe: return a != b;
    case kAnd: return a != 0 && b != 0;
    case kOr: return a != 0 || b != 0;
    case kFloorDiv: return std::floor(a / b);
    default: return a != 0 ? b : c;
  }
}

// Applies `function` to `n` floats, a multiple of 16; buffers are padded.
static void float_function(
    int64_t function, float* out, const float* a, const float* b, const float* c, int64_t n) {
#define EACH(expression)                            \
  for (int64_t i = 0; i < n; i += kWidth) {         \
    Part x = part_at(a + i);                        \
    put_part(out + i, (expression));                \
  }                                                 \
  return
#define PAIRS(expression)                           \
  for (int64_t i = 0; i < n; i += kWidth) {         \
    Part x = part_at(a + i), y = part_at(b + i);    \
    put_part(out + i, (expression));                \
  }                                                 \
  return
  switch (function) {
    case kCopy: EACH(x);
    case kNeg: EACH(-x);
    case kSigmoid: EACH(sigmoid(x));
    case kSilu: EACH(x * sigmoid(x));
    case kTanh: EACH(hyperbolic_tangent(x));
    case kGeluTanh:
      EACH(0.5f * x * (1.0f + hyperbolic_tangent(0.79788456080286536f * (x + 0.044715f * x * x * x))));
    case kExp: EACH(exponential(x));
    case kReciprocal: EACH(1.0f / x);
    case kRelu: EACH((x > 0.0f ? x : (x == x ? all(0.0f) : x)));
    case kAbs: EACH((x < 0.0f ? -x : x));
    case kAdd: PAIRS(x + y);
    case kSub: PAIRS(x - y);
    case kMul: PAIRS(x * y);
    case kDiv: PAIRS(x / y);
    case kMaximum: PAIRS((x != x ? x : (x > y ? x : y)));
    case kMinimum: PAIRS((x != x ? x : (x < y ? x : y)));
    case kRsqrt:
      for (int64_t i = 0; i < n; i++) out[i] = 1.0f / std::sqrt(a[i]);
      return;
    case kSqrt:
      for (int64_t i = 0; i < n; i++) out[i] = std::sqrt(a[i]);
      return;
    case kPow:
      if (b[0] == 2.0f && b[n - 1] == 2.0f) {
        EACH(x * x);
      }
      for (int64_t i = 0; i < n; i++) out[i] = std::pow(a[i], b[i]);
      return;
    default:
      for (int64_t i = 0; i < n; i++)
        out[i] = float(scalar_function(function, a[i], b ? b[i] : 0, c ? c[i] : 0));
  }
#undef EACH
#undef PAIRS
}

// `count` elements of x from `at` on as floats: in place where that is possible, else in `buffer`.
static const float* as_floats(const Operand& x, const char* at, int64_t stride, int64_t count, float* buffer) {
  if (x.base < 0 || stride == 0) {
    float value = x.base < 0 ? float(x.scalar) : float(get(at, x.type));
    std::fill(buffer, buffer + kChunk, value);
    return buffer;
  }
  if (x.type == kF32) {
    const float* from = reinterpret_cast<const float*>(at);
    if (stride == 1 && count % kLanes == 0) return from;
    for (int64_t i = 0; i < count; i++) buffer[i] = from[i * stride];
  } else {
    for (int64_t i = 0; i < count; i++) buffer[i] = float(get(at + i * stride * element_size(x.type), x.type));
  }
  std::fill(buffer + count, buffer + (count + kLanes - 1) / kLanes * kLanes, 0.0f);
  return buffer;
}

static bool all_float(const Instruction& step) {
  for (const Operand& x : step.operands)
    if (x.base >= 0 && x.type != kF32 && x.type != kBF16) return false;
  return true;
}

// One row of the innermost dimension, from element `begin` to `end`.
static void pointwise_row(
    const Instruction& step, char* const* at, const int64_t* stride, bool floats, int64_t begin, int64_t end) {
  const auto& x = step.operands;
  int64_t inputs = int64_t(x.size()) - 1;
  if (!floats) {
    for (int64_t i = begin; i < end; i++) {
      double value[3] = {};
      for (int64_t p = 0; p < inputs; p++) {
        const Operand& input = x[p + 1];
        value[p] = input.base < 0 ? input.scalar
                                  : get(at[p + 1] + i * stride[p + 1] * element_size(input.type), input.type);
      }
      put(at[0] + i * stride[0] * element_size(x[0].type), x[0].type,
          scalar_function(step.function, value[0], value[1], value[2]));
    }
    return;
  }
  alignas(64) float buffers[4][kChunk];
  for (int64_t i = begin; i < end; i += kChunk) {
    int64_t count = std::min(kChunk, end - i), padded = (count + kLanes - 1) / kLanes * kLanes;
    const float* values[3] = {};
    for (int64_t p = 0; p < inputs; p++) {
      const Operand& input = x[p + 1];
      const char* from = input.base < 0 ? nullptr : at[p + 1] + i * stride[p + 1] * element_size(input.type);
      values[p] = as_floats(input, from, stride[p + 1], count, buffers[p]);
    }
    bool direct = x[0].type == kF32 && stride[0] == 1 && padded == count;
    char* to = at[0] + i * stride[0] * element_size(x[0].type);
    float* out = direct ? reinterpret_cast<float*>(to) : buffers[3];
    float_function(step.function, out, values[0], values[1], values[2], padded);
    if (!direct)
      for (int64_t e = 0; e < count; e++) put(to + e * stride[0] * element_size(x[0].type), x[0].type, out[e]);
  }
}

static void pointwise(const Instruction& step, Context& context) {
  const Operand& out = step.operands[0];
  int64_t count = int64_t(step.operands.size()), dims = out.dims;
  int64_t length = dims ? out.size[dims - 1] : 1, outer = 1;
  for (int64_t d = 0; d + 1 < dims; d++) outer *= out.size[d];
  if (outer == 0 || length == 0) return;
  bool floats = all_float(step);
  char* base[4];
  int64_t stride[4] = {};
  for (int64_t p = 0; p < count; p++) {
    const Operand& x = step.operands[p];
    base[p] = x.base < 0 ? nullptr : address(x, context.bases);
    stride[p] = dims && x.base >= 0 ? x.stride[dims - 1] : 0;
  }
  auto rows = [&](int64_t first, int64_t last, int64_t begin, int64_t end) {
    for (int64_t o = first; o < last; o++) {
      char* at[4];
      std::copy(base, base + count, at);
      int64_t rest = o;
      for (int64_t d = dims - 2; d >= 0; d--) {
        int64_t index = rest % out.size[d];
        rest /= out.size[d];
        for (int64_t p = 0; p < count; p++)
          if (at[p]) at[p] += index * step.operands[p].stride[d] * element_size(step.operands[p].type);
      }
      pointwise_row(step, at, stride, floats, begin, end);
    }
  };
  int64_t threads = context.pool->threads();
  if (outer * length < kParallel || threads == 1) return rows(0, outer, 0, length);
  int64_t chunks = 2 * threads;
  if (outer >= chunks) {
    parallel(context.pool, chunks, [&](int64_t c) { rows(outer * c / chunks, outer * (c + 1) / chunks, 0, length); });
  } else {
    int64_t piece = (length / chunks + kChunk) / kChunk * kChunk;
    parallel(context.pool, chunks, [&](int64_t c) {
      rows(0, outer, std::min(length, piece * c), std::min(length, piece * (c + 1)));
    });
  }
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
