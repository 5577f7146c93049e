// Sixteen floats at a time, in whatever registers the instruction set has.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace skipopt {
namespace SKIPOPT_ISA {

constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef float FloatsU __attribute__((vector_size(64), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2)));
typedef int8_t Bytes __attribute__((vector_size(16), aligned(1)));

#define SKIPOPT_INLINE static inline __attribute__((always_inline))

SKIPOPT_INLINE Floats load(const float* from) { return *reinterpret_cast<const FloatsU*>(from); }
SKIPOPT_INLINE void store(float* to, Floats value) { *reinterpret_cast<FloatsU*>(to) = value; }

SKIPOPT_INLINE Floats from_bfloat16(const uint16_t* from) {
#if defined(__AVX512F__)
  __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
#elif defined(__AVX2__)
  __m256i eights[2];
  for (int h = 0; h < 2; h++) {
    __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8 * h));
    eights[h] = _mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
  }
  Floats result;
  std::memcpy(&result, eights, 64);
  return result;
#else
  Words words = __builtin_convertvector(*reinterpret_cast<const Halves*>(from), Words) << 16;
  return reinterpret_cast<Floats>(words);
#endif
}

SKIPOPT_INLINE Floats from_int8(const int8_t* from) {
#if defined(__AVX512F__)
  __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
#elif defined(__AVX2__)
  __m256 eights[2];
  for (int h = 0; h < 2; h++) {
    __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + 8 * h));
    eights[h] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
  }
  Floats result;
  std::memcpy(&result, eights, 64);
  return result;
#else
  return __builtin_convertvector(
      __builtin_convertvector(*reinterpret_cast<const Bytes*>(from), Ints), Floats);
#endif
}

SKIPOPT_INLINE float bfloat16_to_float(uint16_t value) {
  uint32_t bits = uint32_t(value) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// To nearest, ties to even, as torch rounds.
SKIPOPT_INLINE uint16_t float_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

// The lanes are added pairwise, so the order does not depend on the instruction set.
SKIPOPT_INLINE float sum(Floats value) {
  typedef float Eight __attribute__((vector_size(32)));
  typedef float Four __attribute__((vector_size(16)));
  Eight halves[2];
  std::memcpy(halves, &value, 64);
  Eight eight = halves[0] + halves[1];
  Four quarters[2];
  std::memcpy(quarters, &eight, 32);
  Four four = quarters[0] + quarters[1];
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// The first `count` (below 16) floats, zeros after them.
SKIPOPT_INLINE Floats load_first(const float* from, int64_t count) {
  float padded[kLanes] = {};
  std::memcpy(padded, from, size_t(count) * 4);
  return load(padded);
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
