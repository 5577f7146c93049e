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
constexpr int kSumRegisters = kRegisters == 32 ? 24 : 12;
constexpr int kSums = kSumRegisters / kParts;
constexpr int kMaxRows = kSums < 8 ? kSums : 8;  // rows that share one pass over the weights

// How many weight rows are taken at once with M token rows. They are far apart, each in a part of
// the outputs of its own: a core that reads several streams of addresses waits less for memory
// than one that reads a single stream.
constexpr int kStreams = 6;
constexpr int least(int a, int b) { return a < b ? a : b; }

// Where registers are narrow, sums are taken for one part of the lanes after the other: there is
// room for more weight rows then, and each product needs fewer loads and conversions. One or two
// rows of floats need none of that: they are read as fast as memory is.
template <typename T>
constexpr bool in_parts(int m) {
  return kParts > 1 && (m > 2 || !std::is_same<T, float>::value);
}
template <typename T>
constexpr int weight_rows(int m) {
  return m > 2 && kParts > 1 ? least(kSumRegisters / m, 3)
                             : least((in_parts<T>(m) ? kSumRegisters : kSums) / m, kStreams);
}
constexpr int kPassRows = kParts == 1 ? kMaxRows : least(kSumRegisters / 2, 8);  // token rows that share sums
constexpr int kFloatRows = 8;  // token rows that share the weights in the first cache
constexpr int64_t kColumnBlock = 512;  // of the weight rows, so that these stay in the first cache

// With several token rows, lines are fetched so many bytes ahead into the second cache: memory is read
// while the core computes. Fetched into the first cache they would wait for its few places for lines
// under way, and computing with them.
constexpr int64_t kAhead = 2048;
constexpr int kSecondCache = 2;  // as __builtin_prefetch numbers it
constexpr bool fetches_ahead(int m) { return m >= 2; }

// Calls function.template call<M>() with M = m, from 1 to Most.
template <int Most = kMaxRows, typename F>
SKIPOPT_INLINE void with_rows(int64_t m, const F& function) {
  if constexpr (Most > 1) {
    if (m < Most) return with_rows<Most - 1>(m, function);
  }
  function(std::integral_constant<int, Most>{});
}

// R weight rows, row(0) … row(R − 1), times M token rows, all lanes of whole steps of sixteen.
template <typename T, int M, int R, typename RowAt>
SKIPOPT_INLINE void add_lanes(const RowAt& row, const float* x, Lanes* sums, int64_t k) {
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
}

// The same for one part of the lanes, from column `begin` to `end`.
template <typename T, int M, int R, typename RowAt>
SKIPOPT_INLINE void add_part(
    const RowAt& row, const float* x, Lanes* sums, int64_t k, int part, int64_t begin, int64_t end) {
  Part local[R * M];
#pragma GCC unroll 32
  for (int i = 0; i < R * M; i++) local[i] = sums[i].part[part];
  int64_t offset = part * kWidth;
  for (int64_t j = begin + offset; j < end; j += kLanes) {
    // The fewer of both are held in registers.
    Part held[R < M ? R : M];
    auto weight = [&](int r) __attribute__((always_inline)) {
      if (part == 0) __builtin_prefetch(row(r) + j + kAhead / int64_t(sizeof(T)), 0, kSecondCache);
      return kept(part_at(row(r) + j));
    };
    auto value = [&](int m) __attribute__((always_inline)) { return kept(part_at(x + m * k + j)); };
    if constexpr (R < M) {
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) held[r] = weight(r);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        Part each = value(m);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) local[r * M + m] = multiply_add(held[r], each, local[r * M + m]);
      }
    } else {
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) held[m] = value(m);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        Part each = weight(r);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) local[r * M + m] = multiply_add(each, held[m], local[r * M + m]);
      }
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < R * M; i++) sums[i].part[part] = local[i];
}

// R weight rows, row(0) … row(R − 1), times M token rows.
template <typename T, int M, int R, typename RowAt>
SKIPOPT_INLINE void block(const RowAt& row, const float* x, Lanes* result, int64_t k) {
  Lanes sums[R * M] = {};
  int64_t whole = k / kLanes * kLanes;
  if constexpr (in_parts<T>(M)) {
    for (int64_t begin = 0; begin < whole; begin += kColumnBlock)
#pragma GCC unroll 4
      for (int p = 0; p < kParts; p++)
        add_part<T, M, R>(row, x, sums, k, p, begin, whole < begin + kColumnBlock ? whole : begin + kColumnBlock);
  } else {
    add_lanes<T, M, R>(row, x, sums, k);
  }
  if (whole < k) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      Lanes weight = weights_first(row(r) + whole, k - whole);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++)
        sums[r * M + m] = multiply_add(weight, weights_first(x + m * k + whole, k - whole), sums[r * M + m]);
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < R * M; i++) result[i] = sums[i];
}

// Where the outputs of one weight go.
struct Target {
  const Weight& w;
  const float* x;
  float* y;
  int64_t stride;
};

// Outputs i, i + part … of R weight rows for M token rows from `first` on.
template <typename T, int M, int R, bool Listed, typename RowAt>
SKIPOPT_INLINE void outputs(const Target& t, const RowAt& row, int64_t first, int64_t i, int64_t part) {
  Lanes sums[R * M];
  block<T, M, R>(row, t.x + first * t.w.k, sums, t.w.k);
  float totals[R * M + 3];
  sums_of_all(sums, totals);
  for (int r = 0; r < R; r++) {
    int64_t n = i + r * part, source = Listed ? t.w.rows[n] : n;
    float scale = t.w.scales ? t.w.scales[source] : 1.0f, bias = t.w.bias ? t.w.bias[source] : 0.0f;
    for (int m = 0; m < M; m++) t.y[(first + m) * t.stride + n] = multiply_add(totals[r * M + m], scale, bias);
  }
}

// Outputs begin … end, in R parts of which one weight row each is taken at a time. Returns where the
// parts end. `Listed`: the rows of the weight that w.rows names. The token rows are taken in passes
// of M, some of M − 1.
template <typename T, int M, int R, bool Listed>
static inline int64_t blocks(const Target& t, int64_t rows, int64_t begin, int64_t end) {
  const Weight& w = t.w;
  const T* data = static_cast<const T*>(w.data);
  int64_t part = (end - begin) / R, apart = part * w.k, passes = (rows + M - 1) / M;
  for (int64_t i = begin; i < begin + part; i++) {
    const T* at[R];
    if constexpr (Listed) {
      for (int r = 0; r < R; r++) at[r] = data + w.rows[i + r * part] * w.k;
    } else {
      at[0] = data + i * w.k;
    }
    auto row = [&](int r) __attribute__((always_inline)) { return Listed ? at[r] : at[0] + r * apart; };
    for (int64_t pass = 0; pass < passes; pass++) {
      int64_t first = rows * pass / passes, count = rows * (pass + 1) / passes - first;
      if (count == M) outputs<T, M, R, Listed>(t, row, first, i, part);
      else if constexpr (M > 1) outputs<T, M - 1, R, Listed>(t, row, first, i, part);
    }
  }
  return begin + part * R;
}

template <typename T, bool Listed = false>
static void float_rows(
    const Weight& w, const float* x, int64_t rows, float* y, int64_t stride, int64_t begin, int64_t end) {
  Target t{w, x, y, stride};
  int64_t passes = (rows + kPassRows - 1) / kPassRows;
  with_rows<kPassRows>((rows + passes - 1) / passes, [&](auto count) {
    constexpr int M = count.value;
    int64_t i = blocks<T, M, weight_rows<T>(M), Listed>(t, rows, begin, end);
    blocks<T, M, 1, Listed>(t, rows, i, end);
  });
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
