// Products with int8 and int4 weights, most of them of rows that are rounded to 8 bits.
#pragma once
#include "linear.h"

namespace skipopt {
namespace SKIPOPT_ISA {

typedef int8_t BytePart __attribute__((vector_size(4 * kWidth)));
typedef int8_t BytePartU __attribute__((vector_size(4 * kWidth), aligned(1)));

// 64 bytes.
struct Bytes64 {
  BytePart part[kParts];
};

SKIPOPT_INLINE Bytes64 bytes_at(const int8_t* from) {
  Bytes64 result;
  for (int p = 0; p < kParts; p++) result.part[p] = *reinterpret_cast<const BytePartU*>(from + 4 * p * kWidth);
  return result;
}

// 64 values of four bits from 32 bytes: the lower halves first.
SKIPOPT_INLINE Bytes64 nibbles_at(const uint8_t* from) {
  Bytes64 result;
#if defined(__AVX512BW__)
  __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  __m512i shift = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
  result.part[0] = (BytePart)_mm512_and_si512(_mm512_srlv_epi16(both, shift), _mm512_set1_epi8(15));
#elif defined(__AVX2__)
  __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), low = _mm256_set1_epi8(15);
  result.part[0] = (BytePart)_mm256_and_si256(packed, low);
  result.part[1] = (BytePart)_mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
#else
  typedef uint8_t Sixteen __attribute__((vector_size(16)));
  typedef uint8_t SixteenU __attribute__((vector_size(16), aligned(1)));
  for (int p = 0; p < 2; p++) {
    Sixteen packed = *reinterpret_cast<const SixteenU*>(from + 16 * p);
    result.part[p] = (BytePart)(packed & 15);
    result.part[p + 2] = (BytePart)(packed >> 4);
  }
#endif
  return result;
}

// Adds products of bytes to lanes of four each. `Small`: w is from 0 to 15; else both are within
// ±127, and with kOffset x has 128 added.
#if defined(__AVX512VNNI__)
constexpr bool kOffset = true;  // the instruction multiplies unsigned by signed bytes
#else
constexpr bool kOffset = false;
#endif

template <bool Small>
SKIPOPT_INLINE IntPart add_products(IntPart sums, BytePart w, BytePart x) {
#if defined(__AVX512VNNI__)
  if (Small) return (IntPart)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)w, (__m512i)x);
  return (IntPart)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)x, (__m512i)w);
#elif defined(__AVX2__)
  // Two products fit 16 bits: 2 · 127² < 2¹⁵.
  __m256i size = Small ? (__m256i)w : _mm256_abs_epi8((__m256i)w);
  __m256i value = Small ? (__m256i)x : _mm256_sign_epi8((__m256i)x, (__m256i)w);
  __m256i fours = _mm256_madd_epi16(_mm256_maddubs_epi16(size, value), _mm256_set1_epi16(1));
  return sums + (IntPart)fours;
#elif defined(__SSE2__)
  __m128i a = (__m128i)w, b = (__m128i)x;
  __m128i low = _mm_madd_epi16(_mm_srai_epi16(_mm_unpacklo_epi8(a, a), 8), _mm_srai_epi16(_mm_unpacklo_epi8(b, b), 8));
  __m128i high = _mm_madd_epi16(_mm_srai_epi16(_mm_unpackhi_epi8(a, a), 8), _mm_srai_epi16(_mm_unpackhi_epi8(b, b), 8));
  return sums + (IntPart)_mm_add_epi32(low, high);
#elif defined(__ARM_FEATURE_DOTPROD)
  return (IntPart)vdotq_s32((int32x4_t)sums, (int8x16_t)w, (int8x16_t)x);
#elif defined(__aarch64__)
  int8x16_t a = (int8x16_t)w, b = (int8x16_t)x;
  int16x8_t pairs = vmull_s8(vget_low_s8(a), vget_low_s8(b));
  pairs = vmlal_s8(pairs, vget_high_s8(a), vget_high_s8(b));
  return (IntPart)vpadalq_s16((int32x4_t)sums, pairs);
#else
  for (int i = 0; i < 4 * kWidth; i++) sums[i / 4] += int32_t(w[i]) * int32_t(x[i]);
  return sums;
#endif
}

// Rows as signed bytes, by the largest magnitude of each.
static inline void round_row(const float* x, int8_t* bytes, float* scale, int64_t k) {
  int32_t bits, largest_bits = 0;
  for (int64_t j = 0; j < k; j++) {
    std::memcpy(&bits, x + j, 4);
    bits &= 0x7fffffff;  // magnitudes are in the order of their bits
    largest_bits = bits > largest_bits ? bits : largest_bits;
  }
  float largest;
  std::memcpy(&largest, &largest_bits, 4);
  bool tiny = largest < 1e-30f;  // 127 / largest might overflow
  *scale = tiny ? 0.0f : largest / 127.0f;
  float inverse = tiny ? 0.0f : 127.0f / largest;
#if defined(__AVX2__) || defined(__aarch64__)
  for (int64_t j = 0; j < k; j++) bytes[j] = int8_t(std::nearbyintf(x[j] * inverse));
#else
  for (int64_t j = 0; j < k; j++) {
    float shifted = x[j] * inverse + 0x1.8p23f;  // has the nearest integer in its last bits
    std::memcpy(&bits, &shifted, 4);
    bytes[j] = int8_t(bits);
  }
#endif
}

// Weight rows are read one after the other, so that memory is read in one stream, but the lanes of
// several are added up together.
constexpr int rows_added(int m) { return m == 1 ? 4 : m == 2 ? 2 : 1; }

// ---- int8 weights ----

// S weight rows side by side.
template <int M, int S>
SKIPOPT_INLINE void int8_sums(const int8_t* row, const int8_t* bytes, int64_t k, IntLanes* result) {
  const BytePart offset = BytePart{} ^ int8_t(-128);
  IntLanes sums[S * M] = {}, weight_sums[S] = {};
  for (int64_t j = 0; j + 64 <= k; j += 64) {
    Bytes64 weight[S];
#pragma GCC unroll 8
    for (int s = 0; s < S; s++) {
      weight[s] = bytes_at(row + s * k + j);
      if (S > 1) __builtin_prefetch(row + (s + S) * k + j);
      if (kOffset)
        for (int p = 0; p < kParts; p++)
          weight_sums[s].part[p] = add_products<false>(weight_sums[s].part[p], weight[s].part[p], offset);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      Bytes64 value = bytes_at(bytes + m * k + j);
      for (int p = 0; p < kParts; p++) {
        if (kOffset) value.part[p] ^= offset;
#pragma GCC unroll 8
        for (int s = 0; s < S; s++)
          sums[s * M + m].part[p] = add_products<false>(sums[s * M + m].part[p], weight[s].part[p], value.part[p]);
      }
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < S * M; i++)
    for (int p = 0; p < kParts; p++)
      result[i].part[p] = kOffset ? sums[i].part[p] - weight_sums[i / M].part[p] : sums[i].part[p];
}

// R weight rows at a time, S of them side by side.
template <int M, int R, int S>
static inline int64_t int8_blocks(
    const Weight& w, const Rows& x, int64_t first, float* y, int64_t stride, int64_t begin, int64_t end) {
  int64_t k = w.k, i = begin;
  const int8_t* bytes = x.bytes + first * k;
  for (; i + R <= end; i += R) {
    const int8_t* row = static_cast<const int8_t*>(w.data) + i * k;
    IntLanes sums[R * M];
    for (int r = 0; r < R; r += S) int8_sums<M, S>(row + r * k, bytes, k, sums + r * M);
    int32_t totals[R * M + 3];
    sums_of_all(sums, totals);
    for (int s = 0; s < R * M; s++) {
      int r = s / M, m = s % M;
      for (int64_t j = k / 64 * 64; j < k; j++) totals[s] += int32_t(row[r * k + j]) * int32_t(bytes[m * k + j]);
      float bias = w.bias ? w.bias[i + r] : 0.0f;
      y[m * stride + i + r] = multiply_add(float(totals[s]) * w.scales[i + r], x.scales[first + m], bias);
    }
  }
  return i;
}

// Where registers are few, R weight rows far apart are read at once for a few token rows, as rows of
// floats are: the sums of a row take one register.
struct IntSum {
  IntPart part[1];
};

constexpr int kFarRows = 3;
constexpr int byte_streams(int m) { return m == 1 ? 6 : m == 2 ? 4 : 3; }

template <int M, int R>
SKIPOPT_INLINE void int8_far_sums(const int8_t* row, int64_t apart, const int8_t* bytes, int64_t k, IntSum* result) {
  IntSum sums[R * M] = {};
  for (int64_t j = 0; j < k / 64 * 64; j += 4 * kWidth) {
    BytePart value[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) value[m] = *reinterpret_cast<const BytePartU*>(bytes + m * k + j);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      BytePart weight = *reinterpret_cast<const BytePartU*>(row + r * apart + j);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++)
        sums[r * M + m].part[0] = add_products<false>(sums[r * M + m].part[0], weight, value[m]);
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < R * M; i++) result[i] = sums[i];
}

// Outputs begin … end, in R parts of which one weight row each is taken at a time. Returns where the
// parts end.
template <int M, int R>
static inline int64_t int8_far_blocks(
    const Weight& w, const Rows& x, int64_t first, float* y, int64_t stride, int64_t begin, int64_t end) {
  int64_t k = w.k, part = (end - begin) / R;
  const int8_t* bytes = x.bytes + first * k;
  for (int64_t i = begin; i < begin + part; i++) {
    const int8_t* row = static_cast<const int8_t*>(w.data) + i * k;
    IntSum sums[R * M];
    int8_far_sums<M, R>(row, part * k, bytes, k, sums);
    int32_t totals[R * M + 3];
    sums_of_all(sums, totals);
    for (int s = 0; s < R * M; s++) {
      int64_t r = s / M, m = s % M, n = i + r * part;
      for (int64_t j = k / 64 * 64; j < k; j++) totals[s] += int32_t(row[r * part * k + j]) * int32_t(bytes[m * k + j]);
      y[m * stride + n] = multiply_add(float(totals[s]) * w.scales[n], x.scales[first + m], w.bias ? w.bias[n] : 0.0f);
    }
  }
  return begin + part * R;
}

template <int M>
static void int8_rows(
    const Weight& w, const Rows& x, int64_t first, float* y, int64_t stride, int64_t begin, int64_t end) {
  if constexpr (kRegisters == 16 && M <= kFarRows) {
    int64_t i = int8_far_blocks<M, byte_streams(M)>(w, x, first, y, stride, begin, end);
    int8_far_blocks<M, 1>(w, x, first, y, stride, i, end);
  } else {
    constexpr int S = 2 * M > kSums ? 1 : 2;
    int64_t i = M > 3 && w.k * M > 16 << 10 ? int8_blocks<M, S, S>(w, x, first, y, stride, begin, end)
                                            : int8_blocks<M, rows_added(M), 1>(w, x, first, y, stride, begin, end);
    int8_blocks<M, 1, 1>(w, x, first, y, stride, i, end);
  }
}

// Row i of a weight (·, k) of floats or bfloat16, which is converted into `copy`.
static inline const float* float_row(const void* weight, int64_t type, int64_t k, int64_t i, float* copy) {
  if (type != kBFloat16) return static_cast<const float*>(weight) + i * k;
  const uint16_t* halves = static_cast<const uint16_t*>(weight) + i * k;
  for (int64_t j = 0; j < k; j++) copy[j] = bfloat16_to_float(halves[j]);
  return copy;
}

// The largest of the absolute values. As integers, whose order is the same, compilers find it several
// at a time.
static inline float largest_size(const float* row, int64_t k) {
  int32_t largest = 0;
  for (int64_t j = 0; j < k; j++) {
    int32_t bits;
    std::memcpy(&bits, row + j, 4);
    largest = std::max(largest, bits & 0x7fffffff);
  }
  float result;
  std::memcpy(&result, &largest, 4);
  return result;
}

// Rows begin … end of a weight (n, k) of floats or bfloat16 as int8 with a scale for each: as torch
// would round them.
static void quantize_rows(
    const void* weight, int64_t type, int64_t k, int8_t* data, float* scales, int64_t begin, int64_t end) {
  std::vector<float> copy(size_t(type == kBFloat16 ? k : 0));
  for (int64_t i = begin; i < end; i++) {
    const float* row = float_row(weight, type, k, i, copy.data());
    float scale = std::max(largest_size(row, k) / 127.0f, 1e-12f);
    scales[i] = scale;
    for (int64_t j = 0; j < k; j++) data[i * k + j] = int8_t(std::nearbyintf(row[j] / scale));
  }
}

// ---- int4: value = scale · q + minimum for each group of 32 inputs, q from 0 to 15 ----
//
// 64 inputs lie in 32 bytes: byte b has input b in its lower half and input b + 32 in its upper.

// Rounds to the nearest float16, of two equally near ones to the even, as torch does.
static inline uint16_t half_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits >= 0x47800000) return uint16_t(sign | (bits > 0x7f800000 ? 0x7e00 : 0x7c00));
  if (bits < 0x38800000) {  // below the normal ones, whose unit is the last bit of 0.5
    float size;
    std::memcpy(&size, &bits, 4);
    size += 0.5f;
    std::memcpy(&bits, &size, 4);
    return uint16_t(sign | (bits - 0x3f000000));
  }
  bits += 0xfff + (bits >> 13 & 1) - (112u << 23);
  return uint16_t(sign | bits >> 13);
}

static inline float half_to_float(uint16_t half) {
  uint32_t bits = uint32_t(half & 0x7fff) << 13;
  float size;
  std::memcpy(&size, &bits, 4);
  size *= 0x1p112f;
  return half & 0x8000 ? -size : size;
}

// One group: 32 values as q from 0 to 15, with the scale and the minimum in float16.
static inline void quantize_group(const float* from, uint8_t* q, uint16_t* scale, uint16_t* minimum) {
  float least = from[0], largest = from[0];
  for (int j = 1; j < kGroup; j++) least = std::min(least, from[j]), largest = std::max(largest, from[j]);
  *minimum = half_of(least);
  float low = half_to_float(*minimum);
  *scale = half_of(std::max((largest - low) / 15.0f, 1e-7f));
  float unit = half_to_float(*scale);
  for (int j = 0; j < kGroup; j++) {
    float nearest = std::nearbyintf((from[j] - low) / unit);
    q[j] = uint8_t(std::min(std::max(nearest, 0.0f), 15.0f));
  }
}

// Rows begin … end of a weight (n, k) of floats or bfloat16; scales and minima (n, k / 32).
static void quantize_groups(
    const void* weight, int64_t type, int64_t k, uint8_t* data, uint16_t* scales, uint16_t* minima,
    int64_t begin, int64_t end) {
  std::vector<float> copy(size_t(type == kBFloat16 ? k : 0));
  uint8_t low[kGroup], high[kGroup];
  for (int64_t i = begin; i < end; i++) {
    const float* row = float_row(weight, type, k, i, copy.data());
    int64_t group = i * k / kGroup;
    for (int64_t j = 0; j < k; j += 2 * kGroup, group += 2) {
      quantize_group(row + j, low, scales + group, minima + group);
      quantize_group(row + j + kGroup, high, scales + group + 1, minima + group + 1);
      uint8_t* pairs = data + (i * k + j) / 2;
      for (int b = 0; b < kGroup; b++) pairs[b] = uint8_t(low[b] | high[b] << 4);
    }
  }
}

constexpr int64_t kSpan = kLanes * kGroup;  // inputs whose scales are read at once

// Numbers g and g + 1 of sixteen, each in half of the lanes.
SKIPOPT_INLINE Lanes two_groups(const Lanes& groups, int64_t g) {
  const float* all = reinterpret_cast<const float*>(&groups);
  Lanes result;
#if defined(__AVX512F__)
  __m512 upper = _mm512_set1_ps(all[g + 1]);
  result.part[0] = (Part)_mm512_mask_broadcastss_ps(upper, 0xff, _mm_load_ss(all + g));
#else
  for (int p = 0; p < kParts; p++) result.part[p] = all[g + 2 * p / kParts] - Part{};
#endif
  return result;
}

// Sixteen of the scales or minima that end at `end`. Those that belong to the next rows are not used,
// or are multiplied by 0.
SKIPOPT_INLINE Lanes groups_at(const uint16_t* from, const uint16_t* end) {
  return end - from >= kLanes ? halves_at(from) : halves_first(from, end - from);
}

// Groups of a row in whole lanes.
static inline int64_t padded_groups(int64_t k) { return (k / kGroup + kLanes - 1) / kLanes * kLanes; }

// Where the parts of a weight row lie.
struct Int4Row {
  const uint8_t* data;
  const uint16_t *scales, *minima, *end;
};

SKIPOPT_INLINE Int4Row int4_row(const Weight& w, int64_t i) {
  int64_t all = w.n * (w.k / kGroup);
  const uint16_t* scales = w.groups + i * (w.k / kGroup);
  return {static_cast<const uint8_t*>(w.data) + i * w.k / 2, scales, scales + all, w.groups + 2 * all};
}

// Rows of 8 bits; the minima are multiplied by the rows before rounding.
template <int M>
SKIPOPT_INLINE void int4_byte_sums(const Int4Row& row, const Rows& x, int64_t first, int64_t k, Lanes* result) {
  int64_t groups = k / kGroup, padded = padded_groups(k);
  const int8_t* bytes = x.bytes + first * k;
  Lanes sums[M] = {};
  for (int64_t from = 0; from < k; from += kSpan) {
    int64_t g = from / kGroup, to = k - from < kSpan ? k : from + kSpan;
    Lanes scale = groups_at(row.scales + g, row.end);
    for (int64_t j = from; j < to; j += 64) {
      Bytes64 q = nibbles_at(row.data + j / 2);
      Lanes factor = two_groups(scale, (j - from) / kGroup);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        Bytes64 value = bytes_at(bytes + m * k + j);
        IntLanes dots;
        for (int p = 0; p < kParts; p++) dots.part[p] = add_products<true>(IntPart{}, q.part[p], value.part[p]);
        sums[m] = multiply_add(as_floats(dots), factor, sums[m]);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) sums[m] = multiply(sums[m], all_lanes(x.scales[first + m]));
  for (int64_t g = 0; g < groups; g += kLanes) {
    Lanes minimum = groups_at(row.minima + g, row.end);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
      sums[m] = multiply_add(minimum, lanes_at(x.group_sums + (first + m) * padded + g), sums[m]);
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) result[m] = sums[m];
}

// 64 weights of two groups as floats.
SKIPOPT_INLINE void int4_weights(const uint8_t* from, const Lanes& scales, const Lanes& minima, int64_t g, Lanes (&result)[4]) {
  const float *scale = reinterpret_cast<const float*>(&scales), *minimum = reinterpret_cast<const float*>(&minima);
#if defined(__AVX512F__)
  // The sixteen values of a group, looked up by the lowest four bits of each lane.
  __m512 steps = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512 table[2];
  for (int h = 0; h < 2; h++)
    table[h] = _mm512_fmadd_ps(steps, _mm512_set1_ps(scale[g + h]), _mm512_set1_ps(minimum[g + h]));
  for (int u = 0; u < 2; u++) {
    __m512i packed = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 16 * u)));
    result[u].part[0] = (Part)_mm512_permutexvar_ps(packed, table[0]);
    result[u + 2].part[0] = (Part)_mm512_permutexvar_ps(_mm512_srli_epi32(packed, 4), table[1]);
  }
#else
  Bytes64 q = nibbles_at(from);
  for (int u = 0; u < 4; u++)
    result[u] = multiply_add(weights_at(reinterpret_cast<const int8_t*>(&q) + 16 * u), all_lanes(scale[g + u / 2]),
                             all_lanes(minimum[g + u / 2]));
#endif
}

template <int M>
SKIPOPT_INLINE void int4_float_sums(const Int4Row& row, const Rows& x, int64_t first, int64_t k, Lanes* result) {
  const float* values = x.values + first * k;
  Lanes sums[M] = {};
  for (int64_t from = 0; from < k; from += kSpan) {
    int64_t g = from / kGroup, to = k - from < kSpan ? k : from + kSpan;
    Lanes scale = groups_at(row.scales + g, row.end), minimum = groups_at(row.minima + g, row.end);
    for (int64_t j = from; j < to; j += 64) {
      Lanes weight[4];
      int4_weights(row.data + j / 2, scale, minimum, (j - from) / kGroup, weight);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        const float* at = values + m * k + j;
        Lanes part = multiply(weight[0], lanes_at(at));
        for (int u = 1; u < 4; u++) part = multiply_add(weight[u], lanes_at(at + u * kLanes), part);
        sums[m] = add(sums[m], part);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) result[m] = sums[m];
}

template <int M, int R>
static inline int64_t int4_rows(
    const Weight& w, const Rows& x, int64_t first, float* y, int64_t stride, int64_t begin, int64_t end) {
  int64_t i = begin;
  for (; i + R <= end; i += R) {
    Lanes sums[R * M];
    for (int r = 0; r < R; r++) {
      Int4Row row = int4_row(w, i + r);
      if (w.format == kInt4) int4_float_sums<M>(row, x, first, w.k, sums + r * M);
      else int4_byte_sums<M>(row, x, first, w.k, sums + r * M);
    }
    float totals[R * M + 3];
    sums_of_all(sums, totals);
    for (int r = 0; r < R; r++)
      for (int m = 0; m < M; m++) y[m * stride + i + r] = totals[r * M + m] + (w.bias ? w.bias[i + r] : 0.0f);
  }
  return i;
}

// Outputs begin … end of one weight for all rows.
static void multiply(
    const Weight& w, const Rows& x, float* y, int64_t stride, int64_t begin, int64_t end) {
  bool floats = w.format == kFloat32 || w.format == kBFloat16 || w.format == kInt8;
  int64_t most = floats ? kFloatRows : kMaxRows, passes = (x.m + most - 1) / most;
  for (int64_t pass = 0; pass < passes; pass++) {
    int64_t first = x.m * pass / passes, m = x.m * (pass + 1) / passes - first;
    const float* rows = x.values + first * w.k;
    float* out = y + first * stride;
    switch (w.format) {
      case kFloat32:
        if (w.rows) float_rows<float, true>(w, rows, m, out, stride, begin, end);
        else float_rows<float>(w, rows, m, out, stride, begin, end);
        break;
      case kBFloat16:
        if (w.rows) float_rows<uint16_t, true>(w, rows, m, out, stride, begin, end);
        else float_rows<uint16_t>(w, rows, m, out, stride, begin, end);
        break;
      case kInt8: float_rows<int8_t>(w, rows, m, out, stride, begin, end); break;
      case kInt8Rows:
        with_rows(m, [&](auto count) { int8_rows<count.value>(w, x, first, out, stride, begin, end); });
        break;
      default:
        with_rows(m, [&](auto count) {
          int64_t i = int4_rows<count.value, rows_added(count.value)>(w, x, first, out, stride, begin, end);
          int4_rows<count.value, 1>(w, x, first, out, stride, i, end);
        });
    }
  }
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
