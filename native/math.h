// Elementary functions of sixteen floats, within two units in the last place.
#pragma once
#include "vec.h"

namespace skipopt {
namespace SKIPOPT_ISA {

// exp(x) = 2^n · exp(r), |r| <= ln(2) / 2; the polynomial is that of Cephes' expf.
SKIPOPT_INLINE Floats exponential(Floats x) {
  const Floats high = broadcast(88.7228f), low = broadcast(-104.0f);
  Floats limited = x > high ? high : x;
  limited = limited < low ? low : limited;
  Floats scaled = limited * 1.44269504088896341f;
  Ints n = __builtin_convertvector(scaled + (scaled > 0.0f ? broadcast(0.5f) : broadcast(-0.5f)), Ints);
  Floats whole = __builtin_convertvector(n, Floats);
  Floats r = limited - whole * 0.693359375f;
  r = r - whole * -2.12194440e-4f;
  Floats p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // In two factors, so that results below the smallest normal number are not lost.
  Ints half = n >> 1;
  Floats first = reinterpret_cast<Floats>((half + 127) << 23);
  Floats second = reinterpret_cast<Floats>((n - half + 127) << 23);
  Floats result = p * first * second;
  result = x > 88.7228f ? broadcast(INFINITY) : result;
  result = x < -104.0f ? broadcast(0.0f) : result;
  return x == x ? result : x;
}

SKIPOPT_INLINE Floats sigmoid(Floats x) { return 1.0f / (1.0f + exponential(-x)); }

SKIPOPT_INLINE Floats hyperbolic_tangent(Floats x) {
  Floats size = x < 0.0f ? -x : x;
  Floats large = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
  Floats s = x * x;
  Floats p = broadcast(-5.70498872745e-3f);
  p = p * s + 2.06390887954e-2f;
  p = p * s - 5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s - 3.33332819422e-1f;
  Floats small = p * s * x + x;
  return size > 0.625f ? (x < 0.0f ? -large : large) : small;
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
