// Products with weights, and small products of computed tensors.
#pragma once
#include "integers.h"
#include "operands.h"

namespace skipopt {
namespace SKIPOPT_ISA {

// Reads a two-dimensional operand as contiguous float rows.
static const float* float_matrix(const Operand& x, char** bases, std::vector<float>& copy) {
  const char* base = address(x, bases);
  int64_t rows = x.size[0], width = x.size[1];
  if (x.type == kF32 && x.stride[1] == 1 && (x.stride[0] == width || rows == 1))
    return reinterpret_cast<const float*>(base);
  copy.resize(size_t(rows * width + kLanes));
  for (int64_t r = 0; r < rows; r++)
    for (int64_t j = 0; j < width; j++)
      copy[size_t(r * width + j)] = float(get(base + (r * x.stride[0] + j * x.stride[1]) * element_size(x.type), x.type));
  return copy.data();
}

constexpr size_t kMaxWeights = 8;         // in one instruction
constexpr int64_t kChunkBytes = 1 << 18;  // of weights in one chunk of work

static int64_t bits_of(int64_t format) {
  return format == kFloat32 ? 32 : format == kBFloat16 ? 16 : format == kInt8 || format == kInt8Rows ? 8 : 5;
}

// The first address in a vector, 64 bytes too long, that begins a cache line.
template <typename T>
static T* aligned(std::vector<T>& buffer) {
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(buffer.data()) + 63) & ~uintptr_t(63));
}

// Rows (m, k) times several weights with the same k.
static void multiply_all(
    Pool* pool, const float* x, int64_t m, const std::vector<Weight>& weights, const Outputs* out) {
  int64_t k = weights[0].k;
  thread_local std::vector<int8_t> bytes;
  thread_local std::vector<float> scales, group_sums;
  bool wants_bytes = false, wants_groups = false;
  for (const Weight& w : weights) {
    wants_bytes |= w.format == kInt8Rows || w.format == kInt4Rows;
    wants_groups |= w.format == kInt4Rows;
  }
  if (wants_bytes) {
    bytes.resize(size_t(m * k + 64));
    scales.resize(size_t(m));
    for (int64_t r = 0; r < m; r++) round_row(x + r * k, aligned(bytes) + r * k, &scales[size_t(r)], k);
  }
  if (wants_groups) {
    int64_t padded = padded_groups(k);
    group_sums.assign(size_t(m * padded + kLanes), 0.0f);
    for (int64_t r = 0; r < m; r++)
      for (int64_t g = 0; g < k / kGroup; g++) {
        const float* group = x + r * k + g * kGroup;
        aligned(group_sums)[r * padded + g] = sum(load(group) + load(group + kLanes));
      }
  }
  Rows rows{x, aligned(bytes), scales.data(), aligned(group_sums), m};
  int64_t total = 0, bits = 0;
  for (const Weight& w : weights) total += w.n, bits += w.n * bits_of(w.format);
  int64_t threads = pool->threads(), rounds = bits * k / 8 / kChunkBytes / threads;
  int64_t chunks = std::min(threads * std::max<int64_t>(rounds, 1), std::max<int64_t>(total / 16, 1));
  parallel(pool, chunks, [&](int64_t c) {
    int64_t begin = total * c / chunks / 4 * 4, end = c + 1 == chunks ? total : total * (c + 1) / chunks / 4 * 4;
    int64_t first = 0;
    for (size_t i = 0; i < weights.size(); first += weights[i].n, i++) {
      int64_t from = std::max<int64_t>(begin - first, 0), to = std::min(end - first, weights[i].n);
      if (from < to) multiply(weights[i], rows, out[i].values, out[i].stride, from, to);
    }
  });
}

// An int8 copy of a weight (n, k), with a scale for each output.
static void quantize(Pool* pool, const void* weight, int64_t type, int64_t n, int64_t k, int8_t* data, float* scales) {
  int64_t chunks = std::max<int64_t>(1, n * k * 4 / kChunkBytes);
  parallel(pool, chunks, [&](int64_t c) {
    quantize_rows(weight, type, k, data, scales, n * c / chunks, n * (c + 1) / chunks);
  });
}

// An int4 copy of a weight (n, k), k a multiple of 64; `groups` (2, n, k / 32): scales, then minima.
static void quantize_int4(
    Pool* pool, const void* weight, int64_t type, int64_t n, int64_t k, uint8_t* data, uint16_t* groups) {
  int64_t chunks = std::max<int64_t>(1, n * k * 4 / kChunkBytes);
  uint16_t* minima = groups + n * k / kGroup;
  parallel(pool, chunks, [&](int64_t c) {
    quantize_groups(weight, type, k, data, groups, minima, n * c / chunks, n * (c + 1) / chunks);
  });
}

static void linear(const Instruction& step, Context& context) {
  std::vector<float> copy;
  const Operand& x = step.operands.back();
  const float* rows = float_matrix(x, context.bases, copy);
  int64_t m = x.size[0];
  size_t count = step.weights.size();
  Outputs out[kMaxWeights];
  std::vector<float> results[kMaxWeights];
  const std::vector<Weight>& weights = step.weights;
  for (size_t i = 0; i < count; i++) {
    const Weight& w = weights[i];
    const Operand& y = step.operands[i];
    if (y.type == kF32 && y.stride[1] == 1) {
      out[i] = {reinterpret_cast<float*>(address(y, context.bases)), y.stride[0]};
    } else {
      results[i].resize(size_t(m * w.n));
      out[i] = {results[i].data(), w.n};
    }
  }
  multiply_all(context.pool, rows, m, weights, out);
  for (size_t i = 0; i < count; i++) {
    if (results[i].empty()) continue;
    const Operand& y = step.operands[i];
    char* to = address(y, context.bases);
    for (int64_t r = 0; r < m; r++)
      for (int64_t j = 0; j < weights[i].n; j++)
        put(to + (r * y.stride[0] + j * y.stride[1]) * element_size(y.type), y.type, results[i][size_t(r * weights[i].n + j)]);
  }
}

constexpr int64_t kColumns = 256;  // of a product of two computed tensors, in one chunk of work

// Sums of rows of b, each times a number of a's row: for b with contiguous rows.
static void sum_rows(
    const Operand& b, const char* right, const float* left, int64_t m, int64_t k, int64_t first,
    int64_t columns, float* sums) {
  int64_t size = element_size(b.type);
  alignas(64) float converted[kColumns];
  std::fill(sums, sums + m * kColumns, 0.0f);
  for (int64_t j = 0; j < k; j++) {
    const char* at = right + (j * b.stride[1] + first * b.stride[2]) * size;
    const float* row = reinterpret_cast<const float*>(at);
    if (b.type != kF32 || b.stride[2] != 1) {
      for (int64_t c = 0; c < columns; c++) converted[c] = float(get(at + c * b.stride[2] * size, b.type));
      row = converted;
    }
    for (int64_t r = 0; r < m; r++) {
      float scale = left[r * k + j];
      float* to = sums + r * kColumns;
      for (int64_t c = 0; c < columns; c++) to[c] += scale * row[c];
    }
  }
}

// Products of a's rows with columns of b: for b with contiguous columns of floats.
static void dot_columns(
    const Operand& b, const char* right, const float* left, int64_t m, int64_t k, int64_t first,
    int64_t columns, float* sums) {
  for (int64_t c = 0; c < columns; c++) {
    const float* column = reinterpret_cast<const float*>(right) + (first + c) * b.stride[2];
    for (int64_t r = 0; r < m; r++) {
      const float* row = left + r * k;
      Floats total = {};
      int64_t j = 0;
      for (; j + kLanes <= k; j += kLanes) total += load(row + j) * load(column + j);
      if (j < k) total += load_first(row + j, k - j) * load_first(column + j, k - j);
      sums[r * kColumns + c] = sum(total);
    }
  }
}

// out (b, m, n) = a (b, m, k) times b (b, k, n), with any strides.
static void matmul(const Instruction& step, Context& context) {
  const Operand &out = step.operands[0], &a = step.operands[1], &b = step.operands[2];
  int64_t m = out.size[1], n = out.size[2], k = a.size[2];
  char *to = address(out, context.bases), *left = address(a, context.bases), *right = address(b, context.bases);
  int64_t so = element_size(out.type), sa = element_size(a.type), sb = element_size(b.type);
  int64_t parts = (n + kColumns - 1) / kColumns, items = out.size[0] * parts;
  auto item = [&](int64_t i) {
    int64_t batch = i / parts, first = i % parts * kColumns, columns = std::min(kColumns, n - first);
    thread_local std::vector<float> rows, sums;
    rows.resize(size_t(m * k)), sums.resize(size_t(m * kColumns));
    for (int64_t r = 0; r < m; r++)
      for (int64_t j = 0; j < k; j++)
        rows[size_t(r * k + j)] = float(get(left + (batch * a.stride[0] + r * a.stride[1] + j * a.stride[2]) * sa, a.type));
    const char* from = right + batch * b.stride[0] * sb;
    auto multiply = b.type == kF32 && b.stride[1] == 1 ? dot_columns : sum_rows;
    multiply(b, from, rows.data(), m, k, first, columns, sums.data());
    for (int64_t r = 0; r < m; r++)
      for (int64_t c = 0; c < columns; c++)
        put(to + (batch * out.stride[0] + r * out.stride[1] + (first + c) * out.stride[2]) * so, out.type,
            sums[size_t(r * kColumns + c)]);
  };
  if (out.size[0] * m * n * k < (1 << 16)) {
    for (int64_t i = 0; i < items; i++) item(i);
  } else {
    parallel(context.pool, items, item);
  }
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
