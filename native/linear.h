// Products of a few rows with row-major weights: y[m, n] = sum over k of x[m, k] w[n, k].
//
// An output is one sum in sixteen lanes in the order of k, whatever the number of rows: a row has
// the same result, to the last bit, alone and among others.
#pragma once
#include "lanes.h"
#include "program.h"

namespace skipopt {
namespace SKIPOPT_ISA {

// Registers for sums; the rest hold weights and values.
constexpr int kSums = (kRegisters == 32 ? 24 : 12) / kParts;
constexpr int kMaxRows = kSums < 8 ? kSums : 8;  // rows that share one pass over the weights

// How many weight rows are taken at once with M token rows.
constexpr int weight_rows(int m) { return kSums / m > 4 ? 4 : kSums / m; }

// Calls function.template call<M>() with M = m, from 1 to kMaxRows.
template <int M = kMaxRows, typename F>
SKIPOPT_INLINE void with_rows(int64_t m, const F& function) {
  if constexpr (M > 1) {
    if (m < M) return with_rows<M - 1>(m, function);
  }
  function(std::integral_constant<int, M>{});
}

// R weight rows times M token rows.
template <typename T, int M, int R>
SKIPOPT_INLINE void block(const T* w, const float* x, Lanes* result, int64_t k) {
  Lanes sums[R * M] = {};
  auto step = [&](int64_t at) __attribute__((always_inline)) {
    Lanes weight[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      weight[r] = weights_at(w + r * k + at);
      if (R > 1) __builtin_prefetch(w + (r + R) * k + at);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      Lanes value = lanes_at(x + m * k + at);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) sums[r * M + m] = multiply_add(weight[r], value, sums[r * M + m]);
    }
  };
  int64_t j = 0;
  for (; j + 4 * kLanes <= k; j += 4 * kLanes) {
    step(j);
    step(j + kLanes);
    step(j + 2 * kLanes);
    step(j + 3 * kLanes);
  }
  for (; j + kLanes <= k; j += kLanes) step(j);
  if (j < k) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      Lanes weight = weights_first(w + r * k + j, k - j);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++)
        sums[r * M + m] = multiply_add(weight, weights_first(x + m * k + j, k - j), sums[r * M + m]);
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < R * M; i++) result[i] = sums[i];
}

// `Together`: R weight rows side by side; else one after the other.
template <typename T, int M, int R, bool Together>
static inline int64_t blocks(
    const Weight& w, const float* x, float* y, int64_t stride, int64_t begin, int64_t end) {
  const T* data = static_cast<const T*>(w.data);
  int64_t i = begin;
  for (; i + R <= end; i += R) {
    Lanes sums[R * M];
    if (Together) {
      block<T, M, R>(data + i * w.k, x, sums, w.k);
    } else {
      for (int r = 0; r < R; r++) block<T, M, 1>(data + (i + r) * w.k, x, sums + r * M, w.k);
    }
    float totals[R * M + 3];
    sums_of_all(sums, totals);
    for (int r = 0; r < R; r++) {
      float scale = w.scales ? w.scales[i + r] : 1.0f, bias = w.bias ? w.bias[i + r] : 0.0f;
      for (int m = 0; m < M; m++) y[m * stride + i + r] = multiply_add(totals[r * M + m], scale, bias);
    }
  }
  return i;
}

// Short weight rows are read fastest one after the other, in one stream; long ones, and those of so
// many token rows that computing takes longer or that they leave the first cache, side by side.
template <typename T, int M>
static inline bool one_stream(int64_t k) {
  constexpr int most = sizeof(T) == 1 ? 3 : 6;
  return M <= most && k * int64_t(sizeof(T)) <= 3072 && k * M * 4 <= 16 << 10;
}

template <typename T>
static void float_rows(
    const Weight& w, const float* x, int64_t rows, float* y, int64_t stride, int64_t begin, int64_t end) {
  with_rows(rows, [&](auto count) {
    constexpr int M = count.value, R = weight_rows(M);
    int64_t i = one_stream<T, M>(w.k) ? blocks<T, M, R, false>(w, x, y, stride, begin, end)
                                      : blocks<T, M, R, true>(w, x, y, stride, begin, end);
    blocks<T, M, 1, false>(w, x, y, stride, i, end);
  });
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
