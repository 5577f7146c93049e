// Attention of a few rows over cached keys and values.
#pragma once
#include "math.h"
#include "operands.h"

namespace skipopt {
namespace SKIPOPT_ISA {

constexpr int64_t kMaxHead = 512;

// Rows read contiguous keys and values of float32; other types are converted first.
static void attend(
    const float* query, const char* keys, const char* values, const Operand& k, const Operand& v,
    int64_t count, int64_t width, int64_t value_width, double scale, const float* bias, float* result) {
  thread_local std::vector<float> scores;
  scores.resize(size_t(count + kLanes));
  int64_t key_stride = k.stride[2] * element_size(k.type), value_stride = v.stride[2] * element_size(v.type);
  float largest = -INFINITY;
  for (int64_t j = 0; j < count; j++) {
    const char* key = keys + j * key_stride;
    Floats total = {};
    int64_t d = 0;
    if (k.type == kF32) {
      const float* row = reinterpret_cast<const float*>(key);
      for (; d + kLanes <= width; d += kLanes) total += load(query + d) * load(row + d);
      if (d < width) total += load_first(query + d, width - d) * load_first(row + d, width - d);
    } else {
      const uint16_t* row = reinterpret_cast<const uint16_t*>(key);
      for (; d + kLanes <= width; d += kLanes) total += load(query + d) * from_bfloat16(row + d);
      for (; d < width; d++) total[0] += query[d] * bfloat16_to_float(row[d]);
    }
    float score = sum(total) * float(scale) + (bias ? bias[j] : 0.0f);
    scores[size_t(j)] = score;
    largest = std::max(largest, score);
  }
  for (int64_t j = count; j < count + kLanes; j++) scores[size_t(j)] = -INFINITY;
  Floats sums = {};
  for (int64_t j = 0; j < count; j += kLanes) {
    Floats weight = exponential(load(&scores[size_t(j)]) - largest);
    store(&scores[size_t(j)], weight);
    sums += weight;
  }
  float inverse = 1.0f / sum(sums);
  int64_t padded = (value_width + kLanes - 1) / kLanes * kLanes;
  alignas(64) float out[kMaxHead];
  std::fill(out, out + padded, 0.0f);
  for (int64_t j = 0; j < count; j++) {
    float weight = scores[size_t(j)];
    if (weight == 0.0f) continue;
    const char* value = values + j * value_stride;
    if (v.type == kF32) {
      const float* row = reinterpret_cast<const float*>(value);
      int64_t d = 0;
      for (; d + kLanes <= value_width; d += kLanes) store(out + d, load(out + d) + weight * load(row + d));
      for (; d < value_width; d++) out[d] += weight * row[d];
    } else {
      const uint16_t* row = reinterpret_cast<const uint16_t*>(value);
      for (int64_t d = 0; d < value_width; d++) out[d] += weight * bfloat16_to_float(row[d]);
    }
  }
  for (int64_t d = 0; d < value_width; d++) result[d] = out[d] * inverse;
}

// out (heads, m, dv), q (heads, m, d), k (groups, per group, n, d) as four dimensions
// (key heads, repeats with stride 0, n, d), v alike, bias (m, n).
static void attention(const Instruction& step, Context& context) {
  const Operand &out = step.operands[0], &q = step.operands[1], &k = step.operands[2], &v = step.operands[3];
  const Operand* bias = step.operands.size() > 4 ? &step.operands[4] : nullptr;
  int64_t heads = q.size[0], m = q.size[1], width = q.size[2], n = k.size[2], value_width = v.size[3];
  int64_t repeats = k.size[1];
  char *to = address(out, context.bases), *queries = address(q, context.bases);
  char *keys = address(k, context.bases), *values = address(v, context.bases);
  // What each row sees ends at its last key that is not masked.
  thread_local std::vector<float> masks;
  thread_local std::vector<int64_t> counts;
  counts.assign(size_t(m), n);
  masks.resize(size_t(m * n));
  if (bias) {
    const char* from = address(*bias, context.bases);
    for (int64_t r = 0; r < m; r++) {
      float* row = &masks[size_t(r * n)];
      const char* at = from + r * bias->stride[0] * element_size(bias->type);
      if (bias->type == kF32 && bias->stride[1] == 1) {
        std::memcpy(row, at, size_t(n) * 4);
      } else if (bias->type == kBool) {
        for (int64_t j = 0; j < n; j++) row[j] = at[j * bias->stride[1]] ? 0.0f : -INFINITY;
      } else {
        for (int64_t j = 0; j < n; j++) row[j] = float(get(at + j * bias->stride[1] * element_size(bias->type), bias->type));
      }
      int64_t count = n;
      while (count > 1 && row[count - 1] < -1e30f) count--;
      counts[size_t(r)] = count;
    }
  }
  const float* mask_rows = masks.data();
  const int64_t* row_counts = counts.data();
  auto item = [&](int64_t i) {
    int64_t h = i / m, r = i % m;
    alignas(64) float query[kMaxHead], result[kMaxHead];
    const char* at = queries + (h * q.stride[0] + r * q.stride[1]) * element_size(q.type);
    for (int64_t d = 0; d < width; d++) query[d] = float(get(at + d * q.stride[2] * element_size(q.type), q.type));
    int64_t group = h / repeats, repeat = h % repeats;
    const char* key = keys + (group * k.stride[0] + repeat * k.stride[1]) * element_size(k.type);
    const char* value = values + (group * v.stride[0] + repeat * v.stride[1]) * element_size(v.type);
    attend(query, key, value, k, v, row_counts[r], width, value_width, step.scale,
           bias ? mask_rows + r * n : nullptr, result);
    char* place = to + (h * out.stride[0] + r * out.stride[1]) * element_size(out.type);
    for (int64_t d = 0; d < value_width; d++)
      put(place + d * out.stride[2] * element_size(out.type), out.type, result[d]);
  };
  int64_t items = heads * m, chunks = std::min(items, 4 * int64_t(context.pool->threads()));
  if (items * n * width < (1 << 15)) {
    for (int64_t i = 0; i < items; i++) item(i);
  } else {
    parallel(context.pool, chunks, [&](int64_t c) {
      for (int64_t i = items * c / chunks; i < items * (c + 1) / chunks; i++) item(i);
    });
  }
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
