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

// How many weight rows are taken at once with M token rows. They are far apart, each in a part of
// the outputs of its own: a core that reads several streams of addresses waits less for memory
// than one that reads a single stream.
constexpr int kStreams = 6;
constexpr int weight_rows(int m) { return kSums / m > kStreams ? kStreams : kSums / m; }

// With several token rows, lines are fetched so many bytes ahead into the second cache: memory is read
// while the core computes. Fetched into the first cache they would wait for its few places for lines
// under way, and computing with them.
constexpr int64_t kAhead = 2048;
constexpr int kSecondCache = 2;  // as __builtin_prefetch numbers it
constexpr bool fetches_ahead(int m) { return m >= 2; }

// Calls function.template call<M>() with M = m, from 1 to kMaxRows.
template <int M = kMaxRows, typename F>
SKIPOPT_INLINE void with_rows(int64_t m, const F& function) {
  if constexpr (M > 1) {
    if (m < M) return with_rows<M - 1>(m, function);
  }
  function(std::integral_constant<int, M>{});
}

// R weight rows, row(0) … row(R − 1), times M token rows.
template <typename T, int M, int R, typename RowAt>
SKIPOPT_INLINE void block(const RowAt& row, const float* x, Lanes* result, int64_t k) {
  Lanes sums[R * M] = {};
  auto step = [&](int64_t at) __attribute__((always_inline)) {
    Lanes weight[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      weight[r] = weights_at(row(r) + at);
      if (fetches_ahead(M)) __builtin_prefetch(row(r) + at + kAhead / int64_t(sizeof(T)), 0, kSecondCache);
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
      Lanes weight = weights_first(row(r) + j, k - j);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++)
        sums[r * M + m] = multiply_add(weight, weights_first(x + m * k + j, k - j), sums[r * M + m]);
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < R * M; i++) result[i] = sums[i];
}

// Outputs begin … end, in R parts of which one weight row each is taken at a time. Returns where the
// parts end. `Listed`: the rows of the weight that w.rows names.
template <typename T, int M, int R, bool Listed>
static inline int64_t blocks(
    const Weight& w, const float* x, float* y, int64_t stride, int64_t begin, int64_t end) {
  const T* data = static_cast<const T*>(w.data);
  int64_t part = (end - begin) / R, apart = part * w.k;
  for (int64_t i = begin; i < begin + part; i++) {
    const T* at[R];
    if constexpr (Listed) {
      for (int r = 0; r < R; r++) at[r] = data + w.rows[i + r * part] * w.k;
    } else {
      at[0] = data + i * w.k;
    }
    auto row = [&](int r) __attribute__((always_inline)) { return Listed ? at[r] : at[0] + r * apart; };
    Lanes sums[R * M];
    block<T, M, R>(row, x, sums, w.k);
    float totals[R * M + 3];
    sums_of_all(sums, totals);
    for (int r = 0; r < R; r++) {
      int64_t n = i + r * part, source = Listed ? w.rows[n] : n;
      float scale = w.scales ? w.scales[source] : 1.0f, bias = w.bias ? w.bias[source] : 0.0f;
      for (int m = 0; m < M; m++) y[m * stride + n] = multiply_add(totals[r * M + m], scale, bias);
    }
  }
  return begin + part * R;
}

template <typename T, bool Listed = false>
static void float_rows(
    const Weight& w, const float* x, int64_t rows, float* y, int64_t stride, int64_t begin, int64_t end) {
  with_rows(rows, [&](auto count) {
    constexpr int M = count.value;
    int64_t i = blocks<T, M, weight_rows(M), Listed>(w, x, y, stride, begin, end);
    blocks<T, M, 1, Listed>(w, x, y, stride, i, end);
  });
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
