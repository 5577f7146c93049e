// Runs the instructions of a program.
#pragma once
#include "attention.h"
#include "indexing.h"
#include "pointwise.h"
#include "products.h"
#include "reduce.h"

namespace skipopt {
namespace SKIPOPT_ISA {

static void run(const Program& program, Pool* pool, char** bases) {
  Context context{pool, bases};
  for (const Instruction& step : program.instructions) {
    switch (step.code) {
      case kPointwise: pointwise(step, context); break;
      case kReduce: reduce(step, context); break;
      case kLinear: linear(step, context); break;
      case kMatmul: matmul(step, context); break;
      case kAttention: attention(step, context); break;
      case kIndexCopy: index_copy(step, context); break;
      case kIndexSelect: index_select(step, context); break;
      case kArgmax: argmax(step, context); break;
      default: softmax(step, context);
    }
  }
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
