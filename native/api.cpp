// What Python calls: plain C, so that one library serves every version of Python and torch.
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>

#include "program.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#endif

namespace skipopt {

#if defined(__x86_64__)
extern const Kernels kernels_avx512, kernels_avx2, kernels_x86_64;
#elif defined(__aarch64__)
extern const Kernels kernels_dotprod, kernels_neon;
#else
extern const Kernels kernels_generic;
#endif

static std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni"))
    found.push_back(&kernels_avx512);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kernels_avx2);
  found.push_back(&kernels_x86_64);
#elif defined(__aarch64__)
#if defined(__APPLE__)
  found.push_back(&kernels_dotprod);
#elif defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) found.push_back(&kernels_dotprod);
#endif
  found.push_back(&kernels_neon);
#else
  found.push_back(&kernels_generic);
#endif
  return found;
}

struct State {
  std::vector<const Kernels*> supported = supported_kernels();
  const Kernels* kernels = supported[0];
  Pool* pool = nullptr;
  std::mutex mutex;
};

static State& state() {
  static State* only = new State;  // never destroyed: threads may outlive static objects
  return *only;
}

// Reads words of a program's code.
struct Reader {
  const int64_t* at;
  int64_t rows;

  int64_t next() { return *at++; }

  double number() {
    double value;
    std::memcpy(&value, at++, 8);
    return value;
  }

  Operand operand() {
    Operand x;
    x.base = next();
    if (x.base < 0) {
      x.scalar = number();
      return x;
    }
    x.offset = next();
    x.type = next();
    x.dims = next();
    for (int64_t d = 0; d < x.dims; d++) {
      int64_t size = next();
      x.size[d] = size == -1 ? rows : size;
      x.stride[d] = next();
    }
    return x;
  }

  Weight weight() {
    Weight w;
    w.format = next();
    w.data = reinterpret_cast<const void*>(next());
    w.scales = reinterpret_cast<const float*>(next());
    int64_t groups_or_rows = next();
    if (w.format == kFloat32 || w.format == kBFloat16) w.rows = reinterpret_cast<const int64_t*>(groups_or_rows);
    else w.groups = reinterpret_cast<const uint16_t*>(groups_or_rows);
    w.bias = reinterpret_cast<const float*>(next());
    w.n = next();
    w.k = next();
    return w;
  }
};

// Joins neighboring dimensions that all operands step through alike, and drops those of size 1.
static void collapse(std::vector<Operand>& operands) {
  int64_t dims = operands[0].dims, kept = 0;
  int64_t size[kMaxDims] = {}, stride[kMaxDims][4] = {};
  for (int64_t d = 0; d < dims; d++) {
    int64_t length = operands[0].size[d];
    if (length == 1) continue;
    bool joins = kept > 0;
    for (size_t p = 0; joins && p < operands.size(); p++)
      if (operands[p].base >= 0) joins = stride[kept - 1][p] == operands[p].stride[d] * length;
    if (!joins) kept++, size[kept - 1] = 1;
    size[kept - 1] *= length;
    for (size_t p = 0; p < operands.size(); p++) stride[kept - 1][p] = operands[p].stride[d];
  }
  for (size_t p = 0; p < operands.size(); p++) {
    operands[p].dims = kept;
    for (int64_t d = 0; d < kept; d++) operands[p].size[d] = size[d], operands[p].stride[d] = stride[d][p];
  }
}

static Instruction read_instruction(Reader& reader) {
  Instruction step;
  step.code = reader.next();
  step.function = reader.next();
  step.reduced = reader.next();
  step.dim = reader.next();
  step.scale = reader.number();
  int64_t operands = reader.next(), weights = reader.next();
  for (int64_t i = 0; i < operands; i++) step.operands.push_back(reader.operand());
  for (int64_t i = 0; i < weights; i++) step.weights.push_back(reader.weight());
  if (step.code == kPointwise) collapse(step.operands);
  return step;
}

}  // namespace skipopt

using namespace skipopt;

extern "C" {

// Changes with the functions below and with what a program's code means.
int64_t skipopt_interface() { return 6; }

// The instruction sets that this machine supports, best first, separated by spaces.
void skipopt_supported(char* names, int64_t size) {
  std::string all;
  for (const Kernels* each : state().supported) all += (all.empty() ? "" : " ") + std::string(each->name);
  std::snprintf(names, size_t(size), "%s", all.c_str());
}

// Uses the instruction set with this number from now on.
void skipopt_use(int64_t number) { state().kernels = state().supported[size_t(number)]; }

// Runs everything on this many threads from now on. `forked`: the threads there were belong to the
// process that this one was forked from.
void skipopt_threads(int64_t threads, int64_t forked) {
  State& all = state();
  if (forked) {
    new (&all.mutex) std::mutex;
    all.pool = nullptr;
  }
  std::lock_guard<std::mutex> hold(all.mutex);
  if (all.pool && all.pool->threads() == threads) return;
  delete all.pool;
  all.pool = new Pool(int(threads));
}

// A program from its code, with sizes of -1 replaced by `rows`.
void* skipopt_program(const int64_t* code, int64_t words, int64_t rows) {
  Reader reader{code, rows};
  Program* program = new Program;
  while (reader.at < code + words) program->instructions.push_back(read_instruction(reader));
  return program;
}

void skipopt_free(void* program) { delete static_cast<Program*>(program); }

// `seconds`, if not null, gets the time of each instruction.
void skipopt_run(const void* program, void** bases, double* seconds) {
  State& all = state();
  std::lock_guard<std::mutex> hold(all.mutex);
  all.kernels->run(*static_cast<const Program*>(program), all.pool, reinterpret_cast<char**>(bases), seconds);
}

// y (m, n) = x (m, k) times one weight, described as in a program's code.
void skipopt_multiply(const float* x, int64_t m, const int64_t* weight, float* y) {
  State& all = state();
  Reader reader{weight, m};
  std::vector<Weight> weights{reader.weight()};
  Outputs out{y, weights[0].n};
  std::lock_guard<std::mutex> hold(all.mutex);
  all.kernels->multiply(all.pool, x, m, weights, &out);
}

// An int8 copy of a weight (n, k) of this format, with a scale for each output.
void skipopt_quantize(const void* weight, int64_t format, int64_t n, int64_t k, int8_t* data, float* scales) {
  State& all = state();
  std::lock_guard<std::mutex> hold(all.mutex);
  all.kernels->quantize(all.pool, weight, format, n, k, data, scales);
}

// An int4 copy; `groups` are float16: scales and minima of groups of 32 inputs.  // (2, n, k / 32)
void skipopt_quantize_int4(
    const void* weight, int64_t format, int64_t n, int64_t k, uint8_t* data, uint16_t* groups) {
  State& all = state();
  std::lock_guard<std::mutex> hold(all.mutex);
  all.kernels->quantize_int4(all.pool, weight, format, n, k, data, groups);
}

// The places of the `count` largest of each row (m, n), the largest first; count <= n.
void skipopt_top(const float* rows, int64_t m, int64_t stride, int64_t n, int64_t count, int64_t* places) {
  state().kernels->top(rows, m, stride, n, count, places);
}
}
