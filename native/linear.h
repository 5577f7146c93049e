// Products of a few rows with row-major weights: y[m, n] = sum over k of x[m, k] w[n, k].
//
// An output is one sum in sixteen lanes in the order of k, whatever the number of rows: a row has
// the same result, to the last bit, alone and among others.
#pragma once
#include "program.h"
#include "vec.h"

namespace skipopt {
namespace SKIPOPT_ISA {

SKIPOPT_INLINE Floats weights_at(const float* from) { return load(from); }
SKIPOPT_INLINE Floats weights_at(const uint16_t* from) { return from_bfloat16(from); }
SKIPOPT_INLINE Floats weights_at(const int8_t* from) { return from_int8(from); }

SKIPOPT_INLINE Floats weights_first(const float* from, int64_t count) { return load_first(from, count); }
SKIPOPT_INLINE Floats weights_first(const uint16_t* from, int64_t count) {
  uint16_t padded[kLanes] = {};
  std::memcpy(padded, from, size_t(count) * 2);
  return from_bfloat16(padded);
}
SKIPOPT_INLINE Floats weights_first(const int8_t* from, int64_t count) {
  int8_t padded[kLanes] = {};
  std::memcpy(padded, from, size_t(count));
  return from_int8(padded);
}

// R weight rows times M token rows.
template <typename T, int M, int R, bool Prefetch>
static inline void block(const T* w, const float* x, Floats (&sums)[R][M], int64_t k) {
  for (int r = 0; r < R; r++)
    for (int m = 0; m < M; m++) sums[r][m] = Floats{};
  int64_t j = 0;
  for (; j + 4 * kLanes <= k; j += 4 * kLanes) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) {
      int64_t at = j + u * kLanes;
      Floats weight[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        weight[r] = weights_at(w + r * k + at);
        if (Prefetch) __builtin_prefetch(w + (r + R) * k + at);
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        Floats value = load(x + m * k + at);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) sums[r][m] += weight[r] * value;
      }
    }
  }
  for (; j < k; j += kLanes) {
    int64_t count = k - j < kLanes ? k - j : kLanes;
    for (int r = 0; r < R; r++) {
      Floats weight = count == kLanes ? weights_at(w + r * k + j) : weights_first(w + r * k + j, count);
      for (int m = 0; m < M; m++) {
        Floats value = count == kLanes ? load(x + m * k + j) : load_first(x + m * k + j, count);
        sums[r][m] += weight * value;
      }
    }
  }
}

template <typename T, int M, int R, bool Prefetch>
static inline int64_t blocks(
    const Weight& w, const float* x, float* y, int64_t stride, int64_t begin, int64_t end) {
  const T* data = static_cast<const T*>(w.data);
  int64_t i = begin;
  for (; i + R <= end; i += R) {
    Floats sums[R][M];
    block<T, M, R, Prefetch>(data + i * w.k, x, sums, w.k);
    for (int r = 0; r < R; r++)
      for (int m = 0; m < M; m++) {
        float value = sum(sums[r][m]);
        if (w.scales) value *= w.scales[i + r];
        y[m * stride + i + r] = w.bias ? value + w.bias[i + r] : value;
      }
  }
  return i;
}

// One weight row at a time is fastest while all token rows fit the first cache with it; above that
// four, with their successors prefetched.
constexpr int64_t kShortRow = 768;

template <typename T, int M>
static void few_rows(
    const Weight& w, const float* x, float* y, int64_t stride, int64_t begin, int64_t end) {
  if (M > 1 && w.k <= kShortRow && M <= 6) {
    blocks<T, M, 1, false>(w, x, y, stride, begin, end);
    return;
  }
  constexpr int R = M <= 6 ? 4 : 3;
  int64_t i = blocks<T, M, R, true>(w, x, y, stride, begin, end);
  blocks<T, M, 1, false>(w, x, y, stride, i, end);
}

template <typename T>
static void float_rows(
    const Weight& w, const float* x, int64_t m, float* y, int64_t stride, int64_t begin, int64_t end) {
  switch (m) {
    case 1: return few_rows<T, 1>(w, x, y, stride, begin, end);
    case 2: return few_rows<T, 2>(w, x, y, stride, begin, end);
    case 3: return few_rows<T, 3>(w, x, y, stride, begin, end);
    case 4: return few_rows<T, 4>(w, x, y, stride, begin, end);
    case 5: return few_rows<T, 5>(w, x, y, stride, begin, end);
    case 6: return few_rows<T, 6>(w, x, y, stride, begin, end);
    case 7: return few_rows<T, 7>(w, x, y, stride, begin, end);
    default: return few_rows<T, 8>(w, x, y, stride, begin, end);
  }
}

// ---- 8-bit rows: integers times integers, exact in 32 bits ----

// Sum over 64 pairs of signed bytes, into sixteen lanes of four each.
SKIPOPT_INLINE Ints dot_bytes(Ints sums, const int8_t* w, const int8_t* x) {
#if defined(__AVX512VNNI__)
  // The instruction takes unsigned by signed: |w| times x with the sign of w.
  __m512i weight = _mm512_loadu_si512(w), value = _mm512_loadu_si512(x);
  __mmask64 negative = _mm512_movepi8_mask(weight);
  value = _mm512_mask_sub_epi8(value, negative, _mm512_setzero_si512(), value);
  return (Ints)_mm512_dpbusd_epi32((__m512i)sums, _mm512_abs_epi8(weight), value);
#elif defined(__AVX2__)
  __m256i halves[2];
  std::memcpy(halves, &sums, 64);
  for (int h = 0; h < 2; h++) {
    __m256i weight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32 * h));
    __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 32 * h));
    // Both are within ±127, so two products fit 16 bits: 2 · 127² < 2¹⁵.
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(value, weight));
    halves[h] = _mm256_add_epi32(halves[h], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  std::memcpy(&sums, halves, 64);
  return sums;
#elif defined(__ARM_FEATURE_DOTPROD)
  int32x4_t quarters[4];
  std::memcpy(quarters, &sums, 64);
  for (int q = 0; q < 4; q++) quarters[q] = vdotq_s32(quarters[q], vld1q_s8(w + 16 * q), vld1q_s8(x + 16 * q));
  std::memcpy(&sums, quarters, 64);
  return sums;
#else
  int32_t lanes[kLanes];
  std::memcpy(lanes, &sums, 64);
  for (int i = 0; i < kLanes; i++)
    for (int b = 0; b < 4; b++) lanes[i] += int32_t(w[4 * i + b]) * int32_t(x[4 * i + b]);
  std::memcpy(&sums, lanes, 64);
  return sums;
#endif
}

SKIPOPT_INLINE int32_t sum_ints(Ints value) {
  int32_t total = 0;
  for (int i = 0; i < kLanes; i++) total += value[i];
  return total;
}

template <int M>
static void int8_rows(
    const Weight& w, const Rows& x, int64_t first, float* y, int64_t stride, int64_t begin, int64_t end) {
  const int8_t* data = static_cast<const int8_t*>(w.data);
  int64_t k = w.k, whole = k / 64 * 64;
  const int8_t* bytes = x.bytes + first * k;
  for (int64_t i = begin; i < end; i++) {
    const int8_t* row = data + i * k;
    Ints sums[M] = {};
    for (int64_t j = 0; j < whole; j += 64)
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) sums[m] = dot_bytes(sums[m], row + j, bytes + m * k + j);
    for (int m = 0; m < M; m++) {
      int32_t total = sum_ints(sums[m]);
      for (int64_t j = whole; j < k; j++) total += int32_t(row[j]) * int32_t(bytes[m * k + j]);
      float value = float(total) * w.scales[i] * x.scales[first + m];
      y[m * stride + i] = w.bias ? value + w.bias[i] : value;
    }
  }
}

// Rows as signed bytes, by the largest magnitude of each.
static inline void quantize_row(const float* x, int8_t* bytes, float* scale, int32_t* sums, int64_t k) {
  float largest = 0;
  for (int64_t j = 0; j < k; j++) largest = std::fmax(largest, std::fabs(x[j]));
  *scale = largest / 127.0f;
  float inverse = largest > 0 ? 127.0f / largest : 0.0f;
  for (int64_t j = 0; j < k; j++) bytes[j] = int8_t(std::nearbyintf(x[j] * inverse));
  if (sums)
    for (int64_t g = 0; g < k / kGroup; g++) {
      int32_t total = 0;
      for (int64_t j = 0; j < kGroup; j++) total += bytes[g * kGroup + j];
      sums[g] = total;
    }
}

// ---- int4: value = scale · q + minimum for each group of 32 inputs, q from 0 to 15 ----
//
// 64 inputs lie in 32 bytes: byte b has input b in its lower half and input b + 32 in its upper.

SKIPOPT_INLINE float half_to_float(uint16_t half) {
#if defined(__F16C__)
  return _cvtsh_ss(half);
#elif defined(__aarch64__)
  __fp16 value;
  std::memcpy(&value, &half, 2);
  return float(value);
#else
  uint32_t sign = uint32_t(half & 0x8000u) << 16, magnitude = half & 0x7fffu;
  float value;
  uint32_t bits = magnitude << 13;
  std::memcpy(&value, &bits, 4);
  value *= 0x1p112f;  // exact for subnormal halves too
  std::memcpy(&bits, &value, 4);
  bits |= sign;
  std::memcpy(&value, &bits, 4);
  return value;
#endif
}

SKIPOPT_INLINE float minima_times(const uint16_t* minima, const float* group_sums, int64_t groups) {
  float total = 0;
  int64_t g = 0;
#if defined(__F16C__) && defined(__AVX2__)
  __m256 lanes = _mm256_setzero_ps();
  for (; g + 8 <= groups; g += 8) {
    __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(minima + g));
    lanes = _mm256_fmadd_ps(_mm256_cvtph_ps(halves), _mm256_loadu_ps(group_sums + g), lanes);
  }
  float each[8];
  _mm256_storeu_ps(each, lanes);
  total = ((each[0] + each[4]) + (each[2] + each[6])) + ((each[1] + each[5]) + (each[3] + each[7]));
#endif
  for (; g < groups; g++) total += half_to_float(minima[g]) * group_sums[g];
  return total;
}

template <int M>
static void int4_rows(
    const Weight& w, const Rows& x, const float* group_sums, int64_t first, float* y,
    int64_t stride, int64_t begin, int64_t end) {
  int64_t k = w.k, groups = k / kGroup;
  const uint8_t* data = static_cast<const uint8_t*>(w.data);
  const uint16_t *scales = w.groups, *minima = w.groups + w.n * groups;
  for (int64_t i = begin; i < end; i++) {
    Floats sums[M] = {};
    for (int64_t j = 0; j < k; j += 64) {
      alignas(64) int8_t q[64];
      unpack_nibbles(data + (i * k + j) / 2, q);
      float lower = half_to_float(scales[i * groups + j / kGroup]);
      float upper = half_to_float(scales[i * groups + j / kGroup + 1]);
      if (w.format == kInt4Rows) {
        Floats scale = two_values(lower, upper);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
          Ints dots = dot_bytes(Ints{}, q, x.bytes + (first + m) * k + j);
          sums[m] += __builtin_convertvector(dots, Floats) * scale;
        }
      } else {
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
          const float* value = x.values + (first + m) * k + j;
          Floats a = from_int8(q) * load(value) + from_int8(q + 16) * load(value + 16);
          Floats b = from_int8(q + 32) * load(value + 32) + from_int8(q + 48) * load(value + 48);
          sums[m] += a * lower + b * upper;
        }
      }
    }
    for (int m = 0; m < M; m++) {
      float value = sum(sums[m]);
      if (w.format == kInt4Rows) value *= x.scales[first + m];
      value += minima_times(minima + i * groups, group_sums + (first + m) * groups, groups);
      y[m * stride + i] = w.bias ? value + w.bias[i] : value;
    }
  }
}

template <int M>
static void some_rows(
    const Weight& w, const Rows& x, const float* group_sums, int64_t first, float* y,
    int64_t stride, int64_t begin, int64_t end) {
  if (w.format == kInt8Rows) return int8_rows<M>(w, x, first, y, stride, begin, end);
  return int4_rows<M>(w, x, group_sums, first, y, stride, begin, end);
}

// Outputs begin … end of one weight for all rows.
static void multiply(
    const Weight& w, const Rows& x, const float* group_sums, float* y, int64_t stride,
    int64_t begin, int64_t end) {
  for (int64_t first = 0; first < x.m; first += kMaxRows) {
    int64_t m = x.m - first < kMaxRows ? x.m - first : kMaxRows;
    const float* rows = x.values + first * w.k;
    float* out = y + first * stride;
    switch (w.format) {
      case kFloat32: float_rows<float>(w, rows, m, out, stride, begin, end); break;
      case kBFloat16: float_rows<uint16_t>(w, rows, m, out, stride, begin, end); break;
      case kInt8: float_rows<int8_t>(w, rows, m, out, stride, begin, end); break;
      default:
        switch (m) {
          case 1: some_rows<1>(w, x, group_sums, first, out, stride, begin, end); break;
          case 2: some_rows<2>(w, x, group_sums, first, out, stride, begin, end); break;
          case 3: some_rows<3>(w, x, group_sums, first, out, stride, begin, end); break;
          case 4: some_rows<4>(w, x, group_sums, first, out, stride, begin, end); break;
          case 5: some_rows<5>(w, x, group_sums, first, out, stride, begin, end); break;
          case 6: some_rows<6>(w, x, group_sums, first, out, stride, begin, end); break;
          case 7: some_rows<7>(w, x, group_sums, first, out, stride, begin, end); break;
          default: some_rows<8>(w, x, group_sums, first, out, stride, begin, end);
        }
    }
  }
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
