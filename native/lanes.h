// Sums in sixteen lanes, held in registers of the instruction set's own width: compilers keep
// wider vectors in memory.
#pragma once
#include "vec.h"

namespace skipopt {
namespace SKIPOPT_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kWidth = 8, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kWidth = 4, kRegisters = 32;
#else
constexpr int kWidth = 4, kRegisters = 16;
#endif
constexpr int kParts = kLanes / kWidth;

typedef float Part __attribute__((vector_size(4 * kWidth)));
typedef float PartU __attribute__((vector_size(4 * kWidth), aligned(4)));
typedef int32_t IntPart __attribute__((vector_size(4 * kWidth)));
typedef float Four __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));
typedef uint32_t FourWords __attribute__((vector_size(16)));

struct Lanes {
  Part part[kParts];
};
struct IntLanes {
  IntPart part[kParts];
};

SKIPOPT_INLINE Lanes lanes_at(const float* from) {
  Lanes result;
  for (int p = 0; p < kParts; p++) result.part[p] = *reinterpret_cast<const PartU*>(from + p * kWidth);
  return result;
}

SKIPOPT_INLINE void put_part(float* to, Part value) { *reinterpret_cast<PartU*>(to) = value; }

SKIPOPT_INLINE Part all(float value) { return value - Part{}; }

SKIPOPT_INLINE Lanes all_lanes(float value) {
  Lanes result;
  for (int p = 0; p < kParts; p++) result.part[p] = all(value);
  return result;
}

// The value, in a register: loaded once instead of with each of its uses.
SKIPOPT_INLINE Part kept(Part value) {
#if defined(__SSE2__)
  asm("" : "+x"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
  return value;
}

// x · y + z, rounded once where the instruction set can. Explicit, so that the result does not
// depend on what the compiler makes of a formula in each of the places where it is used.
SKIPOPT_INLINE float multiply_add(float x, float y, float z) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(x, y, z);
#else
  return x * y + z;
#endif
}

SKIPOPT_INLINE Part multiply_add(Part x, Part y, Part z) {
#if defined(__AVX512F__)
  return (Part)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)z);
#elif defined(__AVX2__)
  return (Part)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)z);
#elif defined(__aarch64__)
  return (Part)vfmaq_f32((float32x4_t)z, (float32x4_t)x, (float32x4_t)y);
#else
  return x * y + z;
#endif
}

SKIPOPT_INLINE Lanes multiply_add(const Lanes& x, const Lanes& y, const Lanes& z) {
  Lanes result;
  for (int p = 0; p < kParts; p++) result.part[p] = multiply_add(x.part[p], y.part[p], z.part[p]);
  return result;
}

SKIPOPT_INLINE Lanes multiply(const Lanes& x, const Lanes& y) {
  Lanes result;
  for (int p = 0; p < kParts; p++) result.part[p] = x.part[p] * y.part[p];
  return result;
}

SKIPOPT_INLINE Lanes add(const Lanes& x, const Lanes& y) {
  Lanes result;
  for (int p = 0; p < kParts; p++) result.part[p] = x.part[p] + y.part[p];
  return result;
}

SKIPOPT_INLINE Lanes as_floats(const IntLanes& x) {
  Lanes result;
  for (int p = 0; p < kParts; p++) result.part[p] = __builtin_convertvector(x.part[p], Part);
  return result;
}

// ---- weights as floats ----

SKIPOPT_INLINE Lanes weights_at(const float* from) { return lanes_at(from); }

SKIPOPT_INLINE Lanes weights_at(const uint16_t* from) {
  Lanes result;
#if defined(__AVX2__)
  Floats wide = from_bfloat16(from);
  std::memcpy(&result, &wide, 64);
#elif defined(__SSE2__)
  for (int h = 0; h < 2; h++) {
    __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8 * h)), zero = _mm_setzero_si128();
    result.part[2 * h] = (Part)_mm_unpacklo_epi16(zero, halves);
    result.part[2 * h + 1] = (Part)_mm_unpackhi_epi16(zero, halves);
  }
#elif defined(__aarch64__)
  for (int p = 0; p < 4; p++) result.part[p] = (Part)vshll_n_u16(vld1_u16(from + 4 * p), 16);
#else
  for (int i = 0; i < kLanes; i++) {
    uint32_t bits = uint32_t(from[i]) << 16;
    std::memcpy(reinterpret_cast<char*>(&result) + 4 * i, &bits, 4);
  }
#endif
  return result;
}

SKIPOPT_INLINE Lanes weights_at(const int8_t* from) {
  Lanes result;
#if defined(__AVX2__)
  Floats wide = from_int8(from);
  std::memcpy(&result, &wide, 64);
#elif defined(__SSE2__)
  __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  __m128i pairs[2] = {_mm_unpacklo_epi8(bytes, bytes), _mm_unpackhi_epi8(bytes, bytes)};
  for (int h = 0; h < 2; h++) {
    result.part[2 * h] = (Part)_mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(pairs[h], pairs[h]), 24));
    result.part[2 * h + 1] = (Part)_mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpackhi_epi16(pairs[h], pairs[h]), 24));
  }
#elif defined(__aarch64__)
  int8x16_t bytes = vld1q_s8(from);
  int16x8_t halves[2] = {vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes))};
  for (int h = 0; h < 2; h++) {
    result.part[2 * h] = (Part)vcvtq_f32_s32(vmovl_s16(vget_low_s16(halves[h])));
    result.part[2 * h + 1] = (Part)vcvtq_f32_s32(vmovl_s16(vget_high_s16(halves[h])));
  }
#else
  for (int i = 0; i < kLanes; i++) result.part[i / kWidth][i % kWidth] = float(from[i]);
#endif
  return result;
}

// One part of sixteen weights.
SKIPOPT_INLINE Part part_at(const float* from) { return *reinterpret_cast<const PartU*>(from); }

SKIPOPT_INLINE Part part_at(const uint16_t* from) {
#if defined(__AVX512F__)
  return weights_at(from).part[0];
#elif defined(__AVX2__)
  return (Part)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))), 16);
#elif defined(__SSE2__)
  return (Part)_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#elif defined(__aarch64__)
  return (Part)vshll_n_u16(vld1_u16(from), 16);
#else
  Part result;
  for (int i = 0; i < kWidth; i++) result[i] = bfloat16_to_float(from[i]);
  return result;
#endif
}

SKIPOPT_INLINE Part part_at(const int8_t* from) {
#if defined(__AVX512F__)
  return weights_at(from).part[0];
#elif defined(__AVX2__)
  return (Part)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
  int32_t bytes;
  std::memcpy(&bytes, from, 4);
  IntPart wide = {int8_t(bytes), int8_t(bytes >> 8), int8_t(bytes >> 16), int8_t(bytes >> 24)};
  return __builtin_convertvector(wide, Part);
#endif
}

// Sixteen float16.
SKIPOPT_INLINE Lanes halves_at(const uint16_t* from) {
  Lanes result;
#if defined(__AVX512F__)
  result.part[0] = (Part)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__) && defined(__F16C__)
  for (int p = 0; p < 2; p++)
    result.part[p] = (Part)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8 * p)));
#elif defined(__aarch64__)
  for (int p = 0; p < 4; p++) result.part[p] = (Part)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + 4 * p)));
#else
  for (int p = 0; p < kParts; p++) {
    const uint16_t* at = from + 4 * p;
    FourWords half = {at[0], at[1], at[2], at[3]};
    Four size = (Four)((half & 0x7fff) << 13) * 0x1p112f;  // exact for subnormal halves too
    result.part[p] = (Part)((FourWords)size | ((half & 0x8000) << 16));
  }
#endif
  return result;
}

// The first `count` (below 16), zeros after them.
template <typename T>
SKIPOPT_INLINE Lanes weights_first(const T* from, int64_t count) {
  T padded[kLanes] = {};
  std::memcpy(padded, from, size_t(count) * sizeof(T));
  return weights_at(padded);
}

SKIPOPT_INLINE Lanes halves_first(const uint16_t* from, int64_t count) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  Lanes result;
  result.part[0] = (Part)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), from));
  return result;
#else
  uint16_t padded[kLanes] = {};
  for (int64_t i = 0; i < count; i++) padded[i] = from[i];
  return halves_at(padded);
#endif
}

// ---- sums over the lanes ----

// x0 + x2, y0 + y2, x1 + x3, y1 + y3 of each four lanes.
template <typename V>
SKIPOPT_INLINE V add_pairs(V x, V y) {
#if defined(__AVX512F__)
  return (V)_mm512_unpacklo_ps((__m512)x, (__m512)y) + (V)_mm512_unpackhi_ps((__m512)x, (__m512)y);
#elif defined(__AVX2__)
  return (V)_mm256_unpacklo_ps((__m256)x, (__m256)y) + (V)_mm256_unpackhi_ps((__m256)x, (__m256)y);
#elif defined(__SSE2__)
  return (V)_mm_unpacklo_ps((__m128)x, (__m128)y) + (V)_mm_unpackhi_ps((__m128)x, (__m128)y);
#else
  return V{x[0], y[0], x[1], y[1]} + V{x[2], y[2], x[3], y[3]};
#endif
}

// For add_pairs(a, b) and add_pairs(c, d): a, b, c, d of each four lanes.
template <typename V>
SKIPOPT_INLINE V add_quarters(V x, V y) {
#if defined(__AVX512F__)
  return (V)_mm512_unpacklo_pd((__m512d)x, (__m512d)y) + (V)_mm512_unpackhi_pd((__m512d)x, (__m512d)y);
#elif defined(__AVX2__)
  return (V)_mm256_unpacklo_pd((__m256d)x, (__m256d)y) + (V)_mm256_unpackhi_pd((__m256d)x, (__m256d)y);
#elif defined(__SSE2__)
  return (V)_mm_unpacklo_pd((__m128d)x, (__m128d)y) + (V)_mm_unpackhi_pd((__m128d)x, (__m128d)y);
#else
  return V{x[0], x[1], y[0], y[1]} + V{x[2], x[3], y[2], y[3]};
#endif
}

template <typename V4, typename V>
SKIPOPT_INLINE V4 add_fours(V x) {
#if defined(__AVX512F__)
  typedef __typeof__(x[0]) Element;
  typedef Element Eight __attribute__((vector_size(32)));
  Eight eight = (Eight)_mm512_castps512_ps256((__m512)x) + (Eight)_mm512_extractf32x8_ps((__m512)x, 1);
  return (V4)_mm256_castps256_ps128((__m256)eight) + (V4)_mm256_extractf128_ps((__m256)eight, 1);
#elif defined(__AVX2__)
  return (V4)_mm256_castps256_ps128((__m256)x) + (V4)_mm256_extractf128_ps((__m256)x, 1);
#else
  return (V4)x;
#endif
}

template <typename L>
SKIPOPT_INLINE auto add_parts(const L& x) {
  constexpr int kCount = sizeof(x.part) / sizeof(x.part[0]);
  auto result = x.part[0];
  for (int p = 1; p < kCount; p++) result += x.part[p];
  return result;
}

// The sums of four times sixteen lanes, each in the same order.
template <typename V4, typename L>
SKIPOPT_INLINE V4 sums_of(const L& a, const L& b, const L& c, const L& d) {
  auto first = add_pairs(add_parts(a), add_parts(b)), second = add_pairs(add_parts(c), add_parts(d));
  return add_fours<V4>(add_quarters(first, second));
}

// The sums of `count` times sixteen lanes.
template <int N, typename T, typename L>
SKIPOPT_INLINE void sums_of_all(const L (&all)[N], T* result) {
  typedef T V4 __attribute__((vector_size(16)));
#pragma GCC unroll 32
  for (int i = 0; i < N; i += 4) {
    const L none = {};
    V4 four = sums_of<V4>(all[i], i + 1 < N ? all[i + 1] : none, i + 2 < N ? all[i + 2] : none,
                          i + 3 < N ? all[i + 3] : none);
    std::memcpy(result + i, &four, 16);
  }
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
