// Copies to and from the places that an index names.
#pragma once
#include "operands.h"

namespace skipopt {
namespace SKIPOPT_ISA {

// Calls body(source place, destination place) for all elements of x but in dimension `dim`.
static void copy_slices(
    const Operand& to, char* out, int64_t to_dim_offset, const Operand& from, const char* in,
    int64_t from_dim_offset, int64_t dim) {
  int64_t so = element_size(to.type), si = element_size(from.type);
  int64_t total = 1;
  for (int64_t d = 0; d < from.dims; d++)
    if (d != dim) total *= from.size[d];
  int64_t last = from.dims - 1;
  int64_t run = last != dim && from.stride[last] == 1 && to.stride[last] == 1 && to.type == from.type ? from.size[last] : 1;
  for (int64_t i = 0; i < total; i += run) {
    int64_t rest = i, place_in = from_dim_offset, place_out = to_dim_offset;
    for (int64_t d = last; d >= 0; d--) {
      if (d == dim) continue;
      int64_t index = rest % from.size[d];
      rest /= from.size[d];
      place_in += index * from.stride[d];
      place_out += index * to.stride[d];
    }
    if (to.type == from.type) std::memcpy(out + place_out * so, in + place_in * si, size_t(run * so));
    else put(out + place_out * so, to.type, get(in + place_in * si, from.type));
  }
}

// As `index_copy`, where `dim` is the last of two and both tensors hold floats.
static void index_copy_columns(const Instruction& step, Context& context) {
  const Operand &to = step.operands[0], &index = step.operands[1], &from = step.operands[2];
  float* out = reinterpret_cast<float*>(address(to, context.bases));
  const float* in = reinterpret_cast<const float*>(address(from, context.bases));
  for (int64_t i = 0; i < from.size[1]; i++) {
    int64_t column = get_index(index, context.bases, i, to.size[1]) * to.stride[1];
    for (int64_t r = 0; r < from.size[0]; r++)
      out[r * to.stride[0] + column] = in[r * from.stride[0] + i * from.stride[1]];
  }
}

// operands: destination, index, source; destination[index[i]] = source[i] along `dim`.
static void index_copy(const Instruction& step, Context& context) {
  const Operand &to = step.operands[0], &index = step.operands[1], &from = step.operands[2];
  if (to.dims == 2 && step.dim == 1 && to.type == kF32 && from.type == kF32) return index_copy_columns(step, context);
  char *out = address(to, context.bases), *in = address(from, context.bases);
  for (int64_t i = 0; i < from.size[step.dim]; i++)
    copy_slices(to, out, get_index(index, context.bases, i, to.size[step.dim]) * to.stride[step.dim], from, in,
                i * from.stride[step.dim], step.dim);
}

// operands: result, source, index; result[i] = source[index[i]] along `dim`.
static void index_select(const Instruction& step, Context& context) {
  const Operand &to = step.operands[0], &from = step.operands[1], &index = step.operands[2];
  char *out = address(to, context.bases), *in = address(from, context.bases);
  Operand slice = from;
  for (int64_t i = 0; i < to.size[step.dim]; i++)
    copy_slices(to, out, i * to.stride[step.dim], slice, in,
                get_index(index, context.bases, i, from.size[step.dim]) * from.stride[step.dim], step.dim);
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
