// Sums, means and extremes over the last dimensions; the largest of each row, or the two, or a few;
// softmax.
#pragma once
#include "math.h"
#include "operands.h"

namespace skipopt {
namespace SKIPOPT_ISA {

enum Reduction : int64_t { kSum, kMean, kAmax, kAmin, kLogSumExp };

constexpr int64_t kPart = 1 << 13;  // elements that are reduced by themselves, then together
constexpr int64_t kTopBlock = 256;   // elements that are passed over by their largest

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

// The first place of a value in a row that has it; of NaN, the first NaN.
static int64_t place_of(const float* x, int64_t n, float value) {
  int64_t i = 0;
  while (i < n - 1 && x[i] != value && (value == value || x[i] == x[i])) i++;
  return i;
}

struct TopTwo {
  double values[2] = {-INFINITY, -INFINITY};
  int64_t places[2] = {0, 0};
};

static TopTwo top_two_of(Pool* pool, const float* x, int64_t n) {
  auto tops = of_parts(pool, n, [&](int64_t at, int64_t count) { return largest_of(x + at, count); });
  auto top_part = [&] { return place_of(tops.data(), int64_t(tops.size()), largest_of(tops.data(), int64_t(tops.size()))); };
  auto place_in = [&](int64_t part) {
    return part * kPart + place_of(x + part * kPart, std::min(kPart, n - part * kPart), tops[size_t(part)]);
  };
  TopTwo found;
  int64_t part = top_part(), first = place_in(part), start = part * kPart;
  found.values[0] = tops[size_t(part)], found.places[0] = first;
  int64_t before = first - start, behind = std::min(start + kPart, n) - first - 1;
  float left = before ? largest_of(x + start, before) : -INFINITY;
  float right = behind ? largest_of(x + first + 1, behind) : -INFINITY;
  tops[size_t(part)] = std::max(left, right);
  int64_t next = top_part();
  found.values[1] = tops[size_t(next)];
  if (next != part) found.places[1] = place_in(next);
  else if (before && left >= right) found.places[1] = start + place_of(x + start, before, left);
  else found.places[1] = std::min(n - 1, first + 1 + place_of(x + first + 1, behind, right));
  return found;
}

template <typename F>
static TopTwo top_two_of(int64_t n, const F& value) {
  TopTwo found;
  for (int64_t i = 0; i < n; i++) {
    double each = value(i);
    bool first = !i || each > found.values[0];
    if (first) found.values[1] = found.values[0], found.places[1] = found.places[0];
    if (first || i == 1 || each > found.values[1]) {
      found.values[!first] = each, found.places[!first] = i;
    }
  }
  return found;
}

// operands: result (m,) of int64, values (m, n). Or, for the two largest of each row: their values
// (m, 2), their places (m, 2), values (m, n).
static void largest(const Instruction& step, Context& context) {
  bool two = step.operands.size() == 3;
  const Operand &x = step.operands.back(), &places = step.operands[two ? 1 : 0];
  char* from = address(x, context.bases);
  int64_t m = x.size[0], n = x.size[1];
  auto store = [&](const Operand& out, int64_t r, int64_t k, double value) {
    char* at = address(out, context.bases);
    int64_t place = r * out.stride[0] + (k ? k * out.stride[1] : 0);
    put(at + place * element_size(out.type), out.type, value);
  };
  for (int64_t r = 0; r < m; r++) {
    const char* at = from + r * x.stride[0] * element_size(x.type);
    auto value = [&](int64_t i) { return get(at + i * x.stride[1] * element_size(x.type), x.type); };
    bool direct = x.type == kF32 && x.stride[1] == 1;
    TopTwo found = direct ? top_two_of(context.pool, reinterpret_cast<const float*>(at), n) : top_two_of(n, value);
    for (int64_t k = 0; k <= two; k++) {
      store(places, r, k, double(found.places[k]));
      if (two) store(step.operands[0], r, k, found.values[k]);
    }
  }
}

// The places of the `count` largest of each row (m, n), the largest first; of equal ones the first.
// count <= n.  // (m, count)
static void top(const float* rows, int64_t m, int64_t stride, int64_t n, int64_t count, int64_t* found) {
  std::vector<float> values(size_t(count), -INFINITY);
  for (int64_t r = 0; r < m; r++) {
    const float* x = rows + r * stride;
    int64_t *places = found + r * count, kept = 0;
    for (int64_t start = 0; start < n; start += kTopBlock) {
      int64_t end = std::min(start + kTopBlock, n);
      if (kept == count && largest_of(x + start, end - start) <= values[size_t(count - 1)]) continue;
      for (int64_t i = start; i < end; i++) {
        if (kept == count && !(x[i] > values[size_t(count - 1)])) continue;
        int64_t at = kept < count ? kept++ : count - 1;
        for (; at > 0 && x[i] > values[size_t(at - 1)]; at--)
          values[size_t(at)] = values[size_t(at - 1)], places[at] = places[at - 1];
        values[size_t(at)] = x[i], places[at] = i;
      }
    }
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
