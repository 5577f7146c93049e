// Sums, means and extremes over the last dimensions; the largest of each row; softmax.
#pragma once
#include "math.h"
#include "operands.h"

namespace skipopt {
namespace SKIPOPT_ISA {

enum Reduction : int64_t { kSum, kMean, kAmax, kAmin, kLogSumExp };

constexpr int64_t kPart = 1 << 13;  // elements that are reduced by themselves, then together

// The largest of some floats; NaN if one of them is.
static float largest_of(const float* x, int64_t n) {
  int64_t i = n / kLanes * kLanes;
  float top = largest_of_lanes(x, i);
  for (; i < n; i++) top = top != top || x[i] <= top ? top : x[i];
  return top;
}

static float sum_of(const float* x, int64_t n) {
  Floats sums = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sums += load(x + i);
  if (i < n) sums += load_first(x + i, n - i);
  return sum(sums);
}

static float sum_of_exponentials(const float* x, int64_t n, float largest) {
  int64_t i = n / kLanes * kLanes;
  float total = sum_exponentials(x, i, largest, nullptr);
  for (; i < n; i++) total += exponential_of(x[i] - largest);
  return total;
}

// Parts have a fixed size, so the result does not depend on the number of threads.
template <typename F>
static std::vector<float> of_parts(Pool* pool, int64_t n, const F& body) {
  std::vector<float> found(size_t((n + kPart - 1) / kPart));
  auto part = [&](int64_t p) { found[size_t(p)] = body(p * kPart, std::min(kPart, n - p * kPart)); };
  if (n < kParallel) {
    for (int64_t p = 0; p < int64_t(found.size()); p++) part(p);
  } else {
    parallel(pool, int64_t(found.size()), part);
  }
  return found;
}

static double reduce_floats(Pool* pool, int64_t function, const float* x, int64_t n) {
  if (function == kSum || function == kMean) {
    auto sums = of_parts(pool, n, [&](int64_t at, int64_t count) { return sum_of(x + at, count); });
    double total = 0;
    for (float each : sums) total += each;
    return total;
  }
  if (function == kAmin) {
    float best = x[0];
    for (int64_t i = 1; i < n; i++) best = best != best || x[i] >= best ? best : x[i];
    return best;
  }
  auto tops = of_parts(pool, n, [&](int64_t at, int64_t count) { return largest_of(x + at, count); });
  float largest = largest_of(tops.data(), int64_t(tops.size()));
  if (function == kAmax || std::isinf(largest)) return largest;
  auto sums = of_parts(pool, n, [&](int64_t at, int64_t count) { return sum_of_exponentials(x + at, count, largest); });
  double total = 0;
  for (float each : sums) total += each;
  return double(largest) + std::log(total);
}

static void reduce(const Instruction& step, Context& context) {
  const Operand &out = step.operands[0], &x = step.operands[1];
  const char* base = address(x, context.bases);
  char* to = address(out, context.bases);
  int64_t split = x.dims - step.reduced, size = element_size(x.type), n = 1;
  for (int64_t d = split; d < x.dims; d++) n *= x.size[d];
  bool direct = step.reduced == 1 && x.type == kF32 && x.stride[x.dims - 1] == 1;
  std::vector<int64_t> places;
  for_each_index(out, 0, out.dims, [&](int64_t, int64_t place) { places.push_back(place); });
  for_each_index(x, 0, split, [&](int64_t i, int64_t place) {
    const char* row = base + place * size;
    double result;
    if (direct) {
      result = reduce_floats(context.pool, step.function, reinterpret_cast<const float*>(row), n);
    } else if (step.function == kLogSumExp) {
      std::vector<float> values(size_t(n) + kLanes);
      for_each_index(x, split, x.dims, [&](int64_t j, int64_t inner) {
        values[size_t(j)] = float(get(row + inner * size, x.type));
      });
      result = reduce_floats(context.pool, kLogSumExp, values.data(), n);
    } else {
      double total = 0;
      bool first = true;
      for_each_index(x, split, x.dims, [&](int64_t, int64_t inner) {
        double value = get(row + inner * size, x.type);
        if (step.function == kSum || step.function == kMean) total += value;
        else if (first || (step.function == kAmax ? value > total : value < total)) total = value;
        first = false;
      });
      result = total;
    }
    if (step.function == kMean) result /= double(n);
    put(to + places[size_t(i)] * element_size(out.type), out.type, result);
  });
}


// operands: result (m,) of int64, values (m, n).
static void argmax(const Instruction& step, Context& context) {
  const Operand &out = step.operands[0], &x = step.operands[1];
  char *to = address(out, context.bases), *from = address(x, context.bases);
  int64_t m = x.size[0], n = x.size[1];
  auto row = [&](int64_t r) {
    const char* at = from + r * x.stride[0] * element_size(x.type);
    int64_t best = 0;
    if (x.type == kF32 && x.stride[1] == 1) {
      const float* values = reinterpret_cast<const float*>(at);
      float top = largest_of(values, n);
      while (best < n - 1 && values[best] != top && (top == top || values[best] == values[best])) best++;
    } else {
      double top = -INFINITY;
      for (int64_t i = 0; i < n; i++) {
        double value = get(at + i * x.stride[1] * element_size(x.type), x.type);
        if (value > top) top = value, best = i;
      }
    }
    put(to + r * out.stride[0] * element_size(out.type), out.type, double(best));
  };
  if (m * n < kParallel) {
    for (int64_t r = 0; r < m; r++) row(r);
  } else {
    parallel(context.pool, m, row);
  }
}

// operands: result, values; softmax over the last dimension.
static void softmax(const Instruction& step, Context& context) {
  const Operand &out = step.operands[0], &x = step.operands[1];
  char *to = address(out, context.bases), *from = address(x, context.bases);
  int64_t n = x.size[x.dims - 1], rows = 1;
  for (int64_t d = 0; d + 1 < x.dims; d++) rows *= x.size[d];
  auto row = [&](int64_t i) {
    int64_t rest = i, in = 0, place = 0;
    for (int64_t d = x.dims - 2; d >= 0; d--) {
      in += rest % x.size[d] * x.stride[d];
      place += rest % x.size[d] * out.stride[d];
      rest /= x.size[d];
    }
    thread_local std::vector<float> values;
    values.resize(size_t(n + kLanes));
    float largest = -INFINITY;
    for (int64_t j = 0; j < n; j++) {
      values[size_t(j)] = float(get(from + (in + j * x.stride[x.dims - 1]) * element_size(x.type), x.type));
      largest = std::max(largest, values[size_t(j)]);
    }
    for (int64_t j = n; j < n + kLanes; j++) values[size_t(j)] = -INFINITY;
    float inverse = 1.0f / sum_exponentials(values.data(), (n + kLanes - 1) / kLanes * kLanes, largest, values.data());
    for (int64_t j = 0; j < n; j++)
      put(to + (place + j * out.stride[x.dims - 1]) * element_size(out.type), out.type, values[size_t(j)] * inverse);
  };
  if (rows * n < kParallel) {
    for (int64_t i = 0; i < rows; i++) row(i);
  } else {
    parallel(context.pool, rows, row);
  }
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
