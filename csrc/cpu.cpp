/// Tells which instruction sets this processor (and its operating system) can run, best first.  This module itself runs
/// on any processor.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

namespace {

std::vector<std::string> instruction_sets() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const auto avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  const auto avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
  if (avx512 && avx2) found.emplace_back("x86-64-v4");
  if (avx2) found.emplace_back("x86-64-v3");
  if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt")) found.emplace_back("x86-64-v2");
#else
  found.emplace_back("native");
#endif
  return found;
}

}  // namespace

PYBIND11_MODULE(_cpu, m, pybind11::mod_gil_not_used()) {
  m.doc() = "Which instruction sets this processor can run.";
  m.def("instruction_sets", &instruction_sets, "The instruction sets that this processor can run, best first.");
}
