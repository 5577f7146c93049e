// Attention of a few rows over cached keys and values.
//
// Keys are taken in spans whose borders depend on nothing but the position behind the first block of
// keys that a row sees, and the parts of a softmax over the spans are joined in their order
// (FlashDecoding): a row has the same result, to the last bit, alone and among others, and wherever
// the keys of its text lie in the cache. Neighboring rows whose keys begin with the same block are a
// group. All queries of a group that see the same keys take a block of them together, while it is in
// the first cache.
#pragma once
#include "linear.h"
#include "math.h"
#include "operands.h"

namespace skipopt {
namespace SKIPOPT_ISA {

constexpr int64_t kBlock = 64;     // keys whose scores are held at a time
constexpr int64_t kShortSpans = 8; // so many spans of one block; the later ones have so many blocks
constexpr int kKeysTogether = 4;
constexpr int64_t kKeysAhead = 12; // keys and values are fetched while earlier keys are scored

SKIPOPT_INLINE int64_t span_begin(int64_t span) {
  return kBlock * (span <= kShortSpans ? span : kShortSpans * (span - kShortSpans + 1));
}

static inline int64_t spans_of(int64_t keys) {
  int64_t spans = 0;
  while (span_begin(spans) < keys) spans++;
  return spans;
}

static inline int64_t padded_width(int64_t width) { return (width + kLanes - 1) / kLanes * kLanes; }

// Queries that are taken together, `width` sixteens wide: as many as fit the registers.
constexpr int queries_together(int width) {
  if (kParts > 1) return 3;
  return kRegisters == 32 && width > 0 && width <= 8 ? (width <= 4 ? 3 : 2) : 1;
}

// One row of an operand's last dimension as floats, zeros up to a multiple of sixteen.
static void read_row(const char* at, const Operand& x, int64_t stride, int64_t width, float* row) {
  int64_t d = 0;
  if (x.type == kF32 && stride == 1) {
    std::memcpy(row, at, size_t(width) * 4);
    d = width;
  } else if (x.type == kBF16 && stride == 1) {
    for (; d + kLanes <= width; d += kLanes) store(row + d, from_bfloat16(reinterpret_cast<const uint16_t*>(at) + d));
  }
  for (; d < width; d++) row[d] = float(get(at + d * stride * element_size(x.type), x.type));
  for (; d < padded_width(width); d++) row[d] = 0.0f;
}

// Rows of floats, a fixed number of values apart.
struct FloatRows {
  const float* at;
  int64_t stride;
};

// `count` rows of the third dimension of x from `first` on: where they lie, or a copy as floats.
static FloatRows rows_of(const char* base, const Operand& x, int64_t first, int64_t count, std::vector<float>& copy) {
  int64_t width = x.size[3], padded = padded_width(width), size = element_size(x.type);
  const char* at = base + first * x.stride[2] * size;
  if (x.type == kF32 && x.stride[3] == 1 && width == padded)
    return {reinterpret_cast<const float*>(at), x.stride[2]};
  copy.resize(size_t(kBlock * padded));
  for (int64_t j = 0; j < count; j++) read_row(at + j * x.stride[2] * size, x, x.stride[3], width, &copy[size_t(j * padded)]);
  return {copy.data(), padded};
}

// Fetches `width` values of a row into the first cache.
SKIPOPT_INLINE void fetch(const float* row, int64_t width) {
  for (int64_t d = 0; d < width; d += kLanes) __builtin_prefetch(row + d);
}

// Products of G queries with four keys: sums[g * kKeysTogether + t]; W sixteens wide, or any width
// with W = 0.
template <int W, int G>
SKIPOPT_INLINE void add_products_with_keys(
    const float* const (&row)[kKeysTogether], const float* queries, int64_t width, Sum* sums) {
  if constexpr (kParts > 1) {
    Sum by_key[G * kKeysTogether] = {};
    add_narrow<float, G, kKeysTogether>(
        [&](int t) __attribute__((always_inline)) { return row[t]; }, queries, by_key, width, width, Ahead<float>{});
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
      for (int t = 0; t < kKeysTogether; t++) sums[g * kKeysTogether + t] = by_key[t * G + g];
  } else {
    int64_t lanes = W ? W : width / kLanes;
#pragma GCC unroll 16
    for (int64_t d = 0; d < lanes; d++)
#pragma GCC unroll 4
      for (int t = 0; t < kKeysTogether; t++) {
        Part key = part_at(row[t] + d * kLanes);
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) {
          Part& sum = sums[g * kKeysTogether + t].part[0];
          sum = multiply_add(part_at(queries + g * width + d * kLanes), key, sum);
        }
      }
  }
}

// Scores of `count` keys for G queries. `values`, which are read next, and the keys after these are
// fetched meanwhile, if given: for the first queries only.
template <int W, int G>
static void score(
    const float* queries, FloatRows keys, FloatRows values, int64_t width, int64_t count, float scale, float* scores) {
  for (int64_t j = 0; j < count; j += kKeysTogether) {
    Sum sums[G * kKeysTogether] = {};
    const float* row[kKeysTogether];
    for (int t = 0; t < kKeysTogether; t++) {
      row[t] = keys.at + std::min(j + t, count - 1) * keys.stride;
      if (values.at) {
        fetch(row[t] + kKeysAhead * keys.stride, width);
        fetch(values.at + (j + t) * values.stride, width);
      }
    }
    add_products_with_keys<W, G>(row, queries, width, sums);
    float totals[G * kKeysTogether];
    sums_of_all(sums, totals);
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
      for (int t = 0; t < kKeysTogether; t++) scores[g * kBlock + j + t] = totals[g * kKeysTogether + t] * scale;
  }
}

// Adds values, each times its weight, to G sums, in narrow registers, four at a time.
template <int G>
SKIPOPT_INLINE void add_narrow_values(const float* weights, FloatRows values, int64_t count, float* const* sums, int64_t columns) {
  constexpr int kFew = 4;
  for (int64_t d = 0; d < columns; d += kFew * kWidth) {
    Part all[G][kFew];
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
      for (int p = 0; p < kFew; p++) all[g][p] = part_at(sums[g] + d + p * kWidth);
#pragma GCC unroll 1
    for (int64_t j = 0; j < count; j++) {
      const float* row = values.at + j * values.stride + d;
      Part weight[G];
#pragma GCC unroll 4
      for (int g = 0; g < G; g++) weight[g] = kept(weights[g * kBlock + j] - Part{});
#pragma GCC unroll 4
      for (int p = 0; p < kFew; p++) {
        Part value = kept(part_at(row + p * kWidth));
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) all[g][p] = multiply_add(weight[g], value, all[g][p]);
      }
    }
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
      for (int p = 0; p < kFew; p++) std::memcpy(sums[g] + d + p * kWidth, &all[g][p], sizeof(Part));
  }
}

// Adds W sixteens of the values, each times its weight, to G sums.
template <int W, int G>
static void add_values(const float* weights, FloatRows values, int64_t count, float* const* sums) {
  if constexpr (kParts > 1 && W * kLanes % (4 * kWidth) == 0) {
    add_narrow_values<G>(weights, values, count, sums, W * kLanes);
    return;
  }
  Lanes all[G][W];
  for (int g = 0; g < G; g++)
    for (int d = 0; d < W; d++) all[g][d] = lanes_at(sums[g] + d * kLanes);
  for (int64_t j = 0; j < count; j++) {
    const float* row = values.at + j * values.stride;
    Lanes weight[G];
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) weight[g] = all_lanes(weights[g * kBlock + j]);
#pragma GCC unroll 16
    for (int d = 0; d < W; d++) {
      Lanes value = lanes_at(row + d * kLanes);
#pragma GCC unroll 4
      for (int g = 0; g < G; g++) all[g][d] = multiply_add(weight[g], value, all[g][d]);
    }
  }
  for (int g = 0; g < G; g++)
    for (int d = 0; d < W; d++) std::memcpy(sums[g] + d * kLanes, &all[g][d], 64);
}

// Calls function(first query, their number as a constant) for all queries, G at a time.
template <int G, typename F>
SKIPOPT_INLINE void in_groups(int64_t queries, const F& function) {
  int64_t i = 0;
  for (; i + G <= queries; i += G) function(i, std::integral_constant<int, G>{});
  for (; i < queries; i++) function(i, std::integral_constant<int, 1>{});
}

static void score_all(
    const float* queries, int64_t count_of_queries, FloatRows keys, FloatRows values, int64_t width, int64_t count,
    float scale, float* scores) {
  auto all = [&](auto lanes) {
    constexpr int W = lanes.value;
    in_groups<queries_together(W)>(count_of_queries, [&](int64_t i, auto g) {
      score<W, g.value>(queries + i * width, keys, i == 0 ? values : FloatRows{}, width, count, scale, scores + i * kBlock);
    });
  };
  switch (width / kLanes) {
    case 2: return all(std::integral_constant<int, 2>{});
    case 4: return all(std::integral_constant<int, 4>{});
    case 8: return all(std::integral_constant<int, 8>{});
    default: return all(std::integral_constant<int, 0>{});
  }
}

static void add_all_values(
    const float* weights, int64_t count_of_queries, FloatRows values, int64_t width, int64_t count, float* const* sums) {
  int64_t d = 0;
  auto columns = [&](auto lanes) {
    constexpr int W = lanes.value;
    in_groups<queries_together(W)>(count_of_queries, [&](int64_t i, auto g) {
      float* to[g.value];
      for (int q = 0; q < g.value; q++) to[q] = sums[i + q] + d;
      add_values<W, g.value>(weights + i * kBlock, {values.at + d, values.stride}, count, to);
    });
    d += W * kLanes;
  };
  while (width - d >= 8 * kLanes) columns(std::integral_constant<int, 8>{});
  while (width - d >= 4 * kLanes) columns(std::integral_constant<int, 4>{});
  while (width - d >= kLanes) columns(std::integral_constant<int, 1>{});
}

// The part of a softmax over some keys: the sum of exp(score − largest), and of the values with
// these weights.
struct SoftmaxPart {
  float largest, total;
  float* values;
};

// Adds `count` scores, which become weights. The rest of the block gets weight 0.
static void add_scores(float* scores, const float* bias, int64_t count, int64_t width, SoftmaxPart& part) {
  if (bias)
    for (int64_t j = 0; j < count; j++) scores[j] += bias[j];
  for (int64_t j = std::max<int64_t>(count, 0); j < kBlock; j++) scores[j] = -INFINITY;
  float top = largest_of_lanes(scores, kBlock);
  float largest = top > part.largest || top != top ? top : part.largest;
  if (largest == -INFINITY) {
    std::fill(scores, scores + kBlock, 0.0f);
    return;
  }
  float sum = sum_exponentials(scores, kBlock, largest, scores);
  float before = part.total == 0.0f ? 0.0f : exponential_of(part.largest - largest);
  if (before != 1.0f)
    for (int64_t d = 0; d < width; d += kLanes) store(part.values + d, load(part.values + d) * before);
  part.total = part.total * before + sum;
  part.largest = largest;
}

// What one group of rows reads and writes, with its queries as floats. Keys and masks begin with the
// first block that the group sees.
struct Attention {
  const Operand &out, &k, &v;
  char *to, *keys, *values;
  int64_t heads, rows, sharing;  // sharing: neighboring heads that see the same keys
  int64_t width, value_width, spans;
  float scale;
  const float* masks;     // of each row, `mask_stride` apart; or null
  int64_t mask_stride;
  const uint8_t* seen;    // of each block of keys, whether any row sees one of them; or null
  const int64_t* counts;  // of the keys that each row sees
  float* queries;         // (heads, rows, width)
  SoftmaxPart* parts;     // (heads / sharing, spans, sharing, rows)

  const char* shared(const char* base, const Operand& x, int64_t head) const {
    int64_t repeats = x.size[1];
    return base + (head / repeats * x.stride[0] + head % repeats * x.stride[1]) * element_size(x.type);
  }

  // Fills the parts of one span for the heads that share the keys of number `unit`.
  void take_span(int64_t unit, int64_t span) const {
    thread_local std::vector<float> scores, key_copy, value_copy;
    thread_local std::vector<float*> sums;
    int64_t count_of_queries = sharing * rows, head = unit * sharing;
    SoftmaxPart* part = parts + (unit * spans + span) * count_of_queries;
    scores.resize(size_t(count_of_queries * kBlock));
    sums.resize(size_t(count_of_queries));
    int64_t last = 0;
    for (int64_t r = 0; r < rows; r++) last = std::max(last, counts[r]);
    for (int64_t i = 0; i < count_of_queries; i++) {
      part[i].largest = -INFINITY, part[i].total = 0.0f, sums[size_t(i)] = part[i].values;
      std::fill(sums[size_t(i)], sums[size_t(i)] + value_width, 0.0f);
    }
    const char *key = shared(keys, k, head), *value = shared(values, v, head);
    last = std::min(last, span_begin(span + 1));
    for (int64_t first = span_begin(span); first < last; first += kBlock) {
      if (seen && !seen[first / kBlock]) continue;
      int64_t count = std::min(kBlock, last - first);
      FloatRows block_keys = rows_of(key, k, first, count, key_copy), block_values = rows_of(value, v, first, count, value_copy);
      score_all(queries + head * rows * width, count_of_queries, block_keys, block_values, width, count, scale, scores.data());
      for (int64_t i = 0; i < count_of_queries; i++) {
        int64_t r = i % rows;
        const float* bias = masks ? masks + r * mask_stride + first : nullptr;
        add_scores(&scores[size_t(i * kBlock)], bias, std::min(count, counts[r] - first), value_width, part[i]);
      }
      add_all_values(scores.data(), count_of_queries, block_values, value_width, count, sums.data());
    }
  }

  // Joins the spans of one head and row.
  void join(int64_t head, int64_t r) const {
    const SoftmaxPart* part = parts + head / sharing * spans * sharing * rows + head % sharing * rows + r;
    int64_t step = sharing * rows;
    float largest = -INFINITY, total = 0.0f;
    for (int64_t s = 0; s < spans; s++) largest = part[s * step].largest > largest || part[s * step].largest != part[s * step].largest ? part[s * step].largest : largest;
    float* result = part->values;
    for (int64_t s = 0; s < spans; s++) {
      const SoftmaxPart& each = part[s * step];
      float scale = each.total == 0.0f ? 0.0f : exponential_of(each.largest - largest);
      total = multiply_add(each.total, scale, total);
      for (int64_t d = 0; d < value_width; d += kLanes) {
        Floats sum = load(each.values + d) * scale;
        store(result + d, s == 0 ? sum : load(result + d) + sum);
      }
    }
    float inverse = 1.0f / total;
    char* place = to + (head * out.stride[0] + r * out.stride[1]) * element_size(out.type);
    for (int64_t d = 0; d < out.size[2]; d++)
      put(place + d * out.stride[2] * element_size(out.type), out.type, result[d] * inverse);
  }
};

constexpr float kMasked = -1e30f;  // a key with a bias below it is not seen

static bool any_seen(const float* mask, int64_t count) {
  int seen = 0;
  for (int64_t j = 0; j < count; j++) seen |= mask[j] > kMasked;
  return seen != 0;
}

// The masks of all rows as floats: where they lie, or a copy.
static FloatRows masks_of(const Operand& bias, const char* from, int64_t rows, int64_t n, std::vector<float>& copy) {
  if (bias.type == kF32 && bias.stride[1] == 1)
    return {reinterpret_cast<const float*>(from), bias.stride[0]};
  copy.resize(size_t(rows * n));
  int64_t size = element_size(bias.type);
  for (int64_t r = 0; r < rows; r++) {
    float* row = &copy[size_t(r * n)];
    const char* at = from + r * bias.stride[0] * size;
    if (bias.type == kBool) {
      for (int64_t j = 0; j < n; j++) row[j] = at[j * bias.stride[1]] ? 0.0f : -INFINITY;
    } else {
      for (int64_t j = 0; j < n; j++) row[j] = float(get(at + j * bias.stride[1] * size, bias.type));
    }
  }
  return {copy.data(), n};
}

// The keys that a row sees lie among `count` from `first` on, which is the border of a block.
struct Range {
  int64_t first, count;
};

static Range range_of(const float* mask, int64_t n) {
  int64_t first = 0, end = n;
  while (first + kBlock < n && !any_seen(mask + first, kBlock)) first += kBlock;
  while (end - kBlock > first && !any_seen(mask + end - kBlock, kBlock)) end -= kBlock;
  while (end - first > 1 && mask[end - 1] < kMasked) end--;
  return {first, end - first};
}

// Notes which blocks of a group's keys any row sees. The others add nothing to a softmax, to the
// last bit.
static void find_seen(const Attention& group, uint8_t* seen) {
  for (int64_t r = 0; r < group.rows; r++)
    for (int64_t j = 0; j < group.counts[r]; j += kBlock) {
      uint8_t& block = seen[j / kBlock];
      const float* mask = group.masks + r * group.mask_stride + j;
      if (!block) block = any_seen(mask, std::min(kBlock, group.counts[r] - j));
    }
}

// out (heads, m, dv), q (heads, m, d), k (groups, per group, n, d) as four dimensions
// (key heads, repeats with stride 0, n, d), v alike, bias (m, n).
static void attention(const Instruction& step, Context& context) {
  thread_local std::vector<float> copies, queries, sums;
  thread_local std::vector<int64_t> counts, items;
  thread_local std::vector<uint8_t> seen;
  thread_local std::vector<SoftmaxPart> parts;
  thread_local std::vector<Attention> groups;
  thread_local std::vector<Range> ranges;
  const Operand &out = step.operands[0], &q = step.operands[1], &k = step.operands[2], &v = step.operands[3];
  const Operand* bias = step.operands.size() > 4 ? &step.operands[4] : nullptr;
  int64_t heads = q.size[0], rows = q.size[1], n = k.size[2], blocks = (n + kBlock - 1) / kBlock;
  int64_t width = padded_width(q.size[2]), value_width = padded_width(v.size[3]);
  bool shares = k.stride[1] == 0 && v.stride[1] == 0;
  int64_t sharing = shares ? k.size[1] : 1;
  FloatRows masks{nullptr, 0};
  if (bias) masks = masks_of(*bias, address(*bias, context.bases), rows, n, copies);
  ranges.assign(size_t(rows), Range{0, n});
  counts.resize(size_t(rows));
  for (int64_t r = 0; r < rows; r++) {
    if (bias) ranges[size_t(r)] = range_of(masks.at + r * masks.stride, n);
    counts[size_t(r)] = ranges[size_t(r)].count;
  }
  queries.resize(size_t(heads * rows * width));
  seen.assign(size_t(bias ? rows * blocks : 0), 0);
  groups.clear();
  items.clear();
  char *to = address(out, context.bases), *keys = address(k, context.bases), *values = address(v, context.bases);
  const char* from = address(q, context.bases);
  int64_t count_of_parts = 0, count_of_items = 0, work = 0;
  for (int64_t begin = 0, end; begin < rows; begin = end) {
    int64_t first = ranges[size_t(begin)].first, most = 0;
    for (end = begin; end < rows && ranges[size_t(end)].first == first; end++) most = std::max(most, counts[size_t(end)]);
    Attention group{out, k, v,
                    to + begin * out.stride[1] * element_size(out.type),
                    keys + first * k.stride[2] * element_size(k.type),
                    values + first * v.stride[2] * element_size(v.type),
                    heads, end - begin, sharing, width, value_width, spans_of(most), float(step.scale),
                    bias ? masks.at + begin * masks.stride + first : nullptr, masks.stride,
                    bias ? &seen[size_t(begin * blocks)] : nullptr, &counts[size_t(begin)],
                    &queries[size_t(heads * begin * width)], nullptr};
    for (int64_t i = 0; i < heads * group.rows; i++)
      read_row(from + (i / group.rows * q.stride[0] + (begin + i % group.rows) * q.stride[1]) * element_size(q.type),
               q, q.stride[2], q.size[2], group.queries + i * width);
    if (bias) find_seen(group, &seen[size_t(begin * blocks)]);
    items.push_back(count_of_items);
    count_of_items += heads / sharing * group.spans;
    count_of_parts += heads * group.rows * group.spans;
    work += heads * group.rows * most * width;
    groups.push_back(group);
  }
  sums.resize(size_t(count_of_parts * value_width));
  parts.resize(size_t(count_of_parts));
  for (int64_t i = 0; i < count_of_parts; i++) parts[size_t(i)].values = &sums[size_t(i * value_width)];
  count_of_parts = 0;
  for (Attention& group : groups) {
    group.parts = &parts[size_t(count_of_parts)];
    count_of_parts += heads * group.rows * group.spans;
  }
  // The vectors belong to this thread: the others are given where they lie.
  const Attention* all = groups.data();
  const int64_t *first_items = items.data(), count_of_groups = int64_t(groups.size());
  auto take = [=](int64_t i) {
    int64_t g = count_of_groups - 1;
    while (first_items[g] > i) g--;
    all[g].take_span((i - first_items[g]) / all[g].spans, (i - first_items[g]) % all[g].spans);
  };
  if (work < (1 << 15)) {
    for (int64_t i = 0; i < count_of_items; i++) take(i);
  } else {
    parallel(context.pool, count_of_items, take);
  }
  for (const Attention& group : groups)
    for (int64_t i = 0; i < heads * group.rows; i++) group.join(i / group.rows, i % group.rows);
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
