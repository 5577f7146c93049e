// The kernels for one instruction set, named by SKIPOPT_ISA; compiled once for each.
#include "run.h"

#define SKIPOPT_TEXT(name) #name
#define SKIPOPT_NAME(name) SKIPOPT_TEXT(name)
#define SKIPOPT_JOIN(a, b) a##b
#define SKIPOPT_TABLE(isa) SKIPOPT_JOIN(kernels_, isa)

namespace skipopt {
extern const Kernels SKIPOPT_TABLE(SKIPOPT_ISA);
const Kernels SKIPOPT_TABLE(SKIPOPT_ISA) = {
    SKIPOPT_NAME(SKIPOPT_ISA), &SKIPOPT_ISA::run, &SKIPOPT_ISA::multiply_all, &SKIPOPT_ISA::quantize,
    &SKIPOPT_ISA::quantize_int4, &SKIPOPT_ISA::top};
}  // namespace skipopt
