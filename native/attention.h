// Attention of a few rows over cached keys and values.
#pragma once
#include "math.h"
#include "operands.h"

namespace skipopt {
namespace SKIPOPT_ISA {

constexpr int64_t kMaxHead = 512;

// The sums of four vectors, each in the same order.
SKIPOPT_INLINE void four_sums(const Floats (&all)[4], float* result) {
#if defined(__AVX2__)
  __m256 folded[4];
  for (int i = 0; i < 4; i++) {
    __m256 halves[2];
    std::memcpy(halves, &all[i], 64);
    folded[i] = _mm256_add_ps(halves[0], halves[1]);
  }
  __m256 pairs = _mm256_hadd_ps(
      _mm256_hadd_ps(folded[0], folded[1]), _mm256_hadd_ps(folded[2], folded[3]));
  _mm_storeu_ps(result, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
#else
  for (int i = 0; i < 4; i++) result[i] = sum(all[i]);
#endif
}

// Scores of `count` keys of float32, D times sixteen wide. A key's score does not depend on which
// others are taken with it.
template <int D>
static void score_wide(
    const float* query, const float* keys, int64_t stride, int64_t count, float scale, float* scores) {
  constexpr int kTogether = 4;
  Floats q[D];
  for (int d = 0; d < D; d++) q[d] = load(query + d * kLanes);
  for (int64_t j = 0; j < count; j += kTogether) {
    Floats totals[kTogether] = {};
    for (int t = 0; t < kTogether; t++) {
      const float* row = keys + std::min(j + t, count - 1) * stride;
#pragma GCC unroll 16
      for (int d = 0; d < D; d++) totals[t] += q[d] * load(row + d * kLanes);
    }
    float sums[kTogether];
    four_sums(totals, sums);
    for (int t = 0; t < kTogether && j + t < count; t++) scores[j + t] = sums[t] * scale;
  }
}

// The same for any width and type.
static void score_any(
    const float* query, const char* keys, const Operand& k, int64_t count, int64_t width, float scale,
    float* scores) {
  for (int64_t j = 0; j < count; j++) {
    const char* key = keys + j * k.stride[2] * element_size(k.type);
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
    scores[j] = sum(total) * scale;
  }
}

static void score(
    const float* query, const char* keys, const Operand& k, int64_t count, int64_t width, float scale,
    float* scores) {
  const float* floats = reinterpret_cast<const float*>(keys);
  int64_t stride = k.stride[2];
  switch (k.type == kF32 && width % kLanes == 0 ? width / kLanes : 0) {
    case 2: return score_wide<2>(query, floats, stride, count, scale, scores);
    case 4: return score_wide<4>(query, floats, stride, count, scale, scores);
    case 6: return score_wide<6>(query, floats, stride, count, scale, scores);
    case 8: return score_wide<8>(query, floats, stride, count, scale, scores);
    case 16: return score_wide<16>(query, floats, stride, count, scale, scores);
    default: return score_any(query, keys, k, count, width, scale, scores);
  }
}

// Sums of values of float32, D times sixteen wide, each times its weight.
template <int D>
static void sum_wide(const float* weights, const float* values, int64_t stride, int64_t count, float* out) {
  Floats sums[D] = {};
  for (int64_t j = 0; j < count; j++) {
    const float* row = values + j * stride;
    Floats weight = broadcast(weights[j]);
#pragma GCC unroll 16
    for (int d = 0; d < D; d++) sums[d] += weight * load(row + d * kLanes);
  }
  for (int d = 0; d < D; d++) store(out + d * kLanes, sums[d]);
}

// The same for any width and type.
static void sum_any(
    const float* weights, const char* values, const Operand& v, int64_t count, int64_t width, float* out) {
  std::fill(out, out + kMaxHead, 0.0f);
  for (int64_t j = 0; j < count; j++) {
    float weight = weights[j];
    const char* value = values + j * v.stride[2] * element_size(v.type);
    int64_t d = 0;
    if (v.type == kF32) {
      const float* row = reinterpret_cast<const float*>(value);
      for (; d + kLanes <= width; d += kLanes) store(out + d, load(out + d) + weight * load(row + d));
      for (; d < width; d++) out[d] += weight * row[d];
    } else {
      const uint16_t* row = reinterpret_cast<const uint16_t*>(value);
      for (; d < width; d++) out[d] += weight * bfloat16_to_float(row[d]);
    }
  }
}

static void sum_values(
    const float* weights, const char* values, const Operand& v, int64_t count, int64_t width, float* out) {
  const float* floats = reinterpret_cast<const float*>(values);
  int64_t stride = v.stride[2];
  switch (v.type == kF32 && width % kLanes == 0 ? width / kLanes : 0) {
    case 2: return sum_wide<2>(weights, floats, stride, count, out);
    case 4: return sum_wide<4>(weights, floats, stride, count, out);
    case 6: return sum_wide<6>(weights, floats, stride, count, out);
    case 8: return sum_wide<8>(weights, floats, stride, count, out);
    case 16: return sum_wide<16>(weights, floats, stride, count, out);
    default: return sum_any(weights, values, v, count, width, out);
  }
}

// Softmax of the scores and a bias, and the sum of the values with these weights.
static void attend(
    const float* query, const char* keys, const char* values, const Operand& k, const Operand& v,
    int64_t count, int64_t width, int64_t value_width, double scale, const float* bias, float* result) {
  thread_local std::vector<float> scores;
  scores.resize(size_t(count + kLanes));
  score(query, keys, k, count, width, float(scale), scores.data());
  if (bias)
    for (int64_t j = 0; j < count; j++) scores[size_t(j)] += bias[j];
  for (int64_t j = count; j < count + kLanes; j++) scores[size_t(j)] = -INFINITY;
  Floats tops = broadcast(-INFINITY);
  for (int64_t j = 0; j < count; j += kLanes) {
    Floats each = load(&scores[size_t(j)]);
    tops = each > tops ? each : tops;
  }
  float largest = tops[0];
  for (int l = 1; l < kLanes; l++) largest = std::max(largest, tops[l]);
  Floats sums = {};
  for (int64_t j = 0; j < count; j += kLanes) {
    Floats weight = exponential(load(&scores[size_t(j)]) - largest);
    store(&scores[size_t(j)], weight);
    sums += weight;
  }
  sum_values(scores.data(), values, v, count, value_width, result);
  float inverse = 1.0f / sum(sums);
  for (int64_t d = 0; d < value_width; d++) result[d] *= inverse;
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
    if (q.type == kF32 && q.stride[2] == 1) {
      std::memcpy(query, at, size_t(width) * 4);
    } else {
      for (int64_t d = 0; d < width; d++) query[d] = float(get(at + d * q.stride[2] * element_size(q.type), q.type));
    }
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
