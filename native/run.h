// Runs the instructions of a program.
#pragma once
#include "attention.h"
#include "indexing.h"
#include "pointwise.h"
#include "products.h"
#include "reduce.h"

namespace skipopt {
namespace SKIPOPT_ISA {

static void run_instruction(const Instruction& step, Context& context) {
  switch (step.code) {
    case kPointwise: pointwise(step, context); break;
    case kReduce: reduce(step, context); break;
    case kLinear: linear(step, context); break;
    case kMatmul: matmul(step, context); break;
    case kAttention: attention(step, context); break;
    case kIndexCopy: index_copy(step, context); break;
    case kIndexSelect: index_select(step, context); break;
    case kLargest: largest(step, context); break;
    default: softmax(step, context);
  }
}

// `seconds`, if given, gets the time of each instruction.
static void run(const Program& program, Pool* pool, char** bases, double* seconds) {
  Context context{pool, bases};
  if (!seconds) {
    for (const Instruction& step : program.instructions) run_instruction(step, context);
    return;
  }
  auto last = std::chrono::steady_clock::now();
  for (const Instruction& step : program.instructions) {
    run_instruction(step, context);
    auto now = std::chrono::steady_clock::now();
    *seconds++ = std::chrono::duration<double>(now - last).count();
    last = now;
  }
}

}  // namespace SKIPOPT_ISA
}  // namespace skipopt
