// Products of a few rows with row-major weights: y[m, n] = sum over k of x[m, k] w[n, k].
//
// An output is one sum in the lanes of a register, in the order of k, whatever the number of rows: a
// row has the same result, to the last bit, alone and among others.
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
constexpr int weight_rows(int m) { return least(kSumRegisters / m, kStreams); }
constexpr bool kWide = kParts == 1;
constexpr int kPassRows = 6;                    // token rows that share sums
constexpr int kFloatRows = kWide ? 18 : 12;     // token rows that share the weights in the caches

// The weights that come next are fetched into the second cache in the first two passes over these:
// else memory would rest while the core computes in all but the first. Fetched into the first cache they would
// wait for its few places for lines under way, and computing with them. With fewer token rows, what
// the processor fetches by itself is enough.
constexpr int kFetchRows = kWide ? 2 : 4;
constexpr int kSecondCache = 2;  // as __builtin_prefetch numbers it
constexpr int64_t kLineBytes = 64;

// Of one register: where registers are narrow, sums of sixteen lanes would take too many.
struct Sum {
  Part part[1];
};

// Calls function.template call<M>() with M = m, from 1 to Most.
template <int Most = kMaxRows, typename F>
SKIPOPT_INLINE void with_rows(int64_t m, const F& function) {
  if constexpr (Most > 1) {
    if (m < Most) return with_rows<Most - 1>(m, function);
  }
  function(std::integral_constant<int, Most>{});
}

// Weight rows that are fetched while others are used.
template <typename T>
struct Ahead {
  const T* const* rows = nullptr;  // null: none
  int64_t first = 0;               // bytes of a row that other passes fetch before
  int share = 0;                   // this pass fetches one of 2^share bytes

  // What belongs to `count` weights of R rows from j on that are used now.
  template <int R>
  __attribute__((always_inline)) inline void fetch(int64_t j, int64_t count) const {
    if (!rows) return;
    int64_t from = first + (j * int64_t(sizeof(T)) >> share), bytes = count * int64_t(sizeof(T)) >> share;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int64_t b = 0; b < bytes; b += kLineBytes)
        __builtin_prefetch(reinterpret_cast<const char*>(rows[r]) + from + b, 0, kSecondCache);
  }
};

// R weight rows, row(0) … row(R − 1), times M token rows, in registers of sixteen lanes.
template <typename T, int M, int R, typename RowAt>
SKIPOPT_INLINE void add_wide(
    const RowAt& row, const float* x, Sum* sums, int64_t whole, int64_t k, const Ahead<T>& ahead) {
  auto step = [&](int64_t at) __attribute__((always_inline)) {
    Part weight[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) weight[r] = part_at(row(r) + at);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      Part value = part_at(x + m * k + at);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) sums[r * M + m].part[0] = multiply_add(weight[r], value, sums[r * M + m].part[0]);
    }
  };
  constexpr int64_t kStep = 4 * kLanes;
  int64_t j = 0;
  for (; j + kStep <= whole; j += kStep) {
    ahead.template fetch<R>(j, kStep);
#pragma GCC unroll 4
    for (int64_t at = j; at < j + kStep; at += kLanes) step(at);
  }
  for (; j + kLanes <= whole; j += kLanes) step(j);
}

// The same in narrower registers: one after the other is added to the same sums.
template <typename T, int M, int R, typename RowAt>
SKIPOPT_INLINE void add_narrow(
    const RowAt& row, const float* x, Sum* sums, int64_t whole, int64_t k, const Ahead<T>& ahead) {
  auto step = [&](int64_t at) __attribute__((always_inline)) {
    // The fewer of both are held in registers.
    Part held[R < M ? R : M];
    if constexpr (R < M) {
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) held[r] = kept(part_at(row(r) + at));
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        Part value = kept(part_at(x + m * k + at));
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) sums[r * M + m].part[0] = multiply_add(held[r], value, sums[r * M + m].part[0]);
      }
    } else {
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) held[m] = kept(part_at(x + m * k + at));
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        Part weight = kept(part_at(row(r) + at));
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) sums[r * M + m].part[0] = multiply_add(weight, held[m], sums[r * M + m].part[0]);
      }
    }
  };
  constexpr int64_t kLine = kLineBytes / sizeof(T);
  int64_t j = 0;
  for (; j + kLine <= whole; j += kLine) {
    ahead.template fetch<R>(j, kLine);
    // Unrolled, the sums would no longer all be held in registers.
#pragma GCC unroll 1
    for (int64_t at = j; at < j + kLine; at += kWidth) step(at);
  }
  for (; j < whole; j += kWidth) step(j);
}

// R weight rows, row(0) … row(R − 1), times M token rows.
template <typename T, int M, int R, typename RowAt>
SKIPOPT_INLINE void block(const RowAt& row, const float* x, Sum* result, int64_t k, const Ahead<T>& ahead) {
  Sum sums[R * M] = {};
  int64_t whole = k / kLanes * kLanes;
  if constexpr (kWide) add_wide<T, M, R>(row, x, sums, whole, k, ahead);
  else add_narrow<T, M, R>(row, x, sums, whole, k, ahead);
  if (whole < k) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      Lanes weight = weights_first(row(r) + whole, k - whole);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        Lanes value = weights_first(x + m * k + whole, k - whole);
        for (int p = 0; p < kParts; p++)
          sums[r * M + m].part[0] = multiply_add(weight.part[p], value.part[p], sums[r * M + m].part[0]);
      }
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
SKIPOPT_INLINE void outputs(
    const Target& t, const RowAt& row, int64_t first, int64_t i, int64_t part, const Ahead<T>& ahead) {
  Sum sums[R * M];
  block<T, M, R>(row, t.x + first * t.w.k, sums, t.w.k, ahead);
  float totals[R * M + 3];
  sums_of_all(sums, totals);
  float* to = t.y + first * t.stride + i;
  if (t.w.scales || t.w.bias) {
    for (int r = 0; r < R; r++) {
      int64_t source = Listed ? t.w.rows[i + r * part] : i + r * part;
      float scale = t.w.scales ? t.w.scales[source] : 1.0f, bias = t.w.bias ? t.w.bias[source] : 0.0f;
      for (int m = 0; m < M; m++) totals[r * M + m] = multiply_add(totals[r * M + m], scale, bias);
    }
  }
  for (int r = 0; r < R; r++)
    for (int m = 0; m < M; m++) to[m * t.stride + r * part] = totals[r * M + m];
}

// Outputs begin … end, in R parts of which one weight row each is taken at a time. Returns where the
// parts end. `Listed`: the rows of the weight that w.rows names. The token rows are taken in passes
// of M, some of M − 1.
template <typename T, int M, int R, bool Listed>
static inline int64_t blocks(const Target& t, int64_t rows, int64_t begin, int64_t end) {
  const Weight& w = t.w;
  const T* data = static_cast<const T*>(w.data);
  int64_t part = (end - begin) / R, apart = part * w.k, passes = (rows + M - 1) / M;
  int64_t bytes = w.k * int64_t(sizeof(T)), starts[kFloatRows + 1];
  for (int64_t pass = 0; pass <= passes; pass++) starts[pass] = rows * pass / passes;
  for (int64_t i = begin; i < begin + part; i++) {
    const T *at[R], *next[R];
    if constexpr (Listed) {
      for (int r = 0; r < R; r++) at[r] = data + w.rows[i + r * part] * w.k;
    } else {
      at[0] = data + i * w.k;
    }
    auto row = [&](int r) __attribute__((always_inline)) { return Listed ? at[r] : at[0] + r * apart; };
    bool fetches = rows >= kFetchRows && i + 1 < begin + part;
    if (fetches)
      for (int r = 0; r < R; r++) next[r] = Listed ? data + w.rows[i + 1 + r * part] * w.k : row(r) + w.k;
    for (int64_t pass = 0; pass < passes; pass++) {
      int64_t first = starts[pass], count = starts[pass + 1] - first;
      Ahead<T> ahead{fetches && pass < 2 ? next : nullptr, pass * (bytes / 2), passes > 1};
      if (count == M) outputs<T, M, R, Listed>(t, row, first, i, part, ahead);
      else if constexpr (M > 1) outputs<T, M - 1, R, Listed>(t, row, first, i, part, ahead);
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
    int64_t i = blocks<T, M, weight_rows(M), Listed>(t, rows, begin, end);
    blocks<T, M, 1, Listed>(t, rows, i, end);
  });
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
