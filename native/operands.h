// Reads and writes elements of operands, and shares work among threads.
#pragma once
#include <algorithm>
#include <cstdlib>

#include "program.h"

namespace skipopt {
namespace SKIPOPT_ISA {

constexpr int64_t kChunk = 256;           // elements that a pointwise function handles at a time
constexpr int64_t kParallel = 1 << 14;    // elements from which a pointwise function is shared

struct Context {
  Pool* pool;
  char** bases;
};

template <typename F>
static void parallel(Pool* pool, int64_t chunks, F&& body) {
  using Body = std::remove_reference_t<F>;
  auto call = [](void* context, int64_t chunk) { (*static_cast<Body*>(context))(chunk); };
  pool->run(call, const_cast<void*>(static_cast<const void*>(&body)), chunks);
}

SKIPOPT_INLINE char* address(const Operand& x, char** bases) { return bases[x.base] + x.offset; }

static inline int64_t element_size(int64_t type) {
  return type == kF32 || type == kI32 ? 4 : type == kI64 ? 8 : type == kBF16 ? 2 : 1;
}

static inline double get(const char* at, int64_t type) {
  switch (type) {
    case kF32: return *reinterpret_cast<const float*>(at);
    case kBF16: return bfloat16_to_float(*reinterpret_cast<const uint16_t*>(at));
    case kI64: return double(*reinterpret_cast<const int64_t*>(at));
    case kI32: return *reinterpret_cast<const int32_t*>(at);
    default: return *reinterpret_cast<const uint8_t*>(at);
  }
}

static inline void put(char* at, int64_t type, double value) {
  switch (type) {
    case kF32: *reinterpret_cast<float*>(at) = float(value); break;
    case kBF16: *reinterpret_cast<uint16_t*>(at) = float_to_bfloat16(float(value)); break;
    case kI64: *reinterpret_cast<int64_t*>(at) = int64_t(value); break;
    case kI32: *reinterpret_cast<int32_t*>(at) = int32_t(value); break;
    default: *reinterpret_cast<uint8_t*>(at) = value != 0;
  }
}

// The index at place i, into a dimension of `size`; negative ones count from its end.
static inline int64_t get_index(const Operand& x, char** bases, int64_t i, int64_t size) {
  const char* at = address(x, bases) + i * x.stride[0] * element_size(x.type);
  int64_t index = x.type == kI64 ? *reinterpret_cast<const int64_t*>(at) : *reinterpret_cast<const int32_t*>(at);
  return index < 0 ? index + size : index;
}

template <typename F>
static void for_each_index(const Operand& x, int64_t from, int64_t to, const F& body) {
  int64_t total = 1;
  for (int64_t d = from; d < to; d++) total *= x.size[d];
  for (int64_t i = 0; i < total; i++) {
    int64_t rest = i, place = 0;
    for (int64_t d = to - 1; d >= from; d--) {
      place += rest % x.size[d] * x.stride[d];
      rest /= x.size[d];
    }
    body(i, place);
  }
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
