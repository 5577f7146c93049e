// Elementary functions of vectors of floats, within two units in the last place.
//
// Vectors are as wide as a register: compilers compare and convert wider ones element by element.
#pragma once
#include "lanes.h"

namespace skipopt {
namespace SKIPOPT_ISA {

// exp(x) = 2^n · exp(r), |r| <= ln(2) / 2; the polynomial is that of Cephes' expf.
SKIPOPT_INLINE Part exponential(Part x) {
  const Part high = all(88.7228f), low = all(-104.0f);
  Part limited = x > high ? high : x;
  limited = limited < low ? low : limited;
  Part scaled = limited * 1.44269504088896341f;
  IntPart n = __builtin_convertvector(scaled + (scaled > 0.0f ? all(0.5f) : all(-0.5f)), IntPart);
  Part whole = __builtin_convertvector(n, Part);
  Part r = limited - whole * 0.693359375f;
  r = r - whole * -2.12194440e-4f;
  Part p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // In two factors, so that results below the smallest normal number are not lost.
  IntPart half = n >> 1;
  Part first = reinterpret_cast<Part>((half + 127) << 23);
  Part second = reinterpret_cast<Part>((n - half + 127) << 23);
  Part result = p * first * second;
  result = x > 88.7228f ? all(INFINITY) : result;
  result = x < -104.0f ? all(0.0f) : result;
  return x == x ? result : x;
}

SKIPOPT_INLINE float exponential_of(float x) { return exponential(all(x))[0]; }

SKIPOPT_INLINE Part sigmoid(Part x) { return 1.0f / (1.0f + exponential(-x)); }

SKIPOPT_INLINE Part hyperbolic_tangent(Part x) {
  Part size = x < 0.0f ? -x : x;
  Part large = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
  Part s = x * x;
  Part p = all(-5.70498872745e-3f);
  p = p * s + 2.06390887954e-2f;
  p = p * s - 5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s - 3.33332819422e-1f;
  Part small = p * s * x + x;
  return size > 0.625f ? (x < 0.0f ? -large : large) : small;
}

// The largest of some floats, a multiple of sixteen; NaN if one of them is.
SKIPOPT_INLINE float largest_of_lanes(const float* x, int64_t n) {
  Lanes best = all_lanes(-INFINITY);
  for (int64_t i = 0; i < n; i += kLanes)
    for (int p = 0; p < kParts; p++) {
      Part value = part_at(x + i + p * kWidth);
      best.part[p] = best.part[p] != best.part[p] || value <= best.part[p] ? best.part[p] : value;
    }
  float top = -INFINITY;
  for (int l = 0; l < kLanes; l++) {
    float each = best.part[l / kWidth][l % kWidth];
    top = top != top || each <= top ? top : each;
  }
  return top;
}

// Puts exp(x − largest) in the place of floats, a multiple of sixteen, where `to` is given. Returns
// their sum.
SKIPOPT_INLINE float sum_exponentials(const float* x, int64_t n, float largest, float* to) {
  Lanes sums = {};
  for (int64_t i = 0; i < n; i += kLanes)
    for (int p = 0; p < kParts; p++) {
      Part each = exponential(part_at(x + i + p * kWidth) - largest);
      if (to) put_part(to + i + p * kWidth, each);
      sums.part[p] += each;
    }
  Floats total;
  std::memcpy(&total, &sums, 64);
  return sum(total);
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
