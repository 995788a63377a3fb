/// Tells which instruction sets this processor (and its operating system) can run, best first.  This module itself runs
/// on any processor.  It uses Python's own interface: with pybind11 this one function would be 160 KB.
#include <Python.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace {

#if defined(__x86_64__)
/// Whether this processor has the instructions of x86-64-v3 that not every compiler's __builtin_cpu_supports knows:
/// MOVBE, F16C and LZCNT.
bool has_rest_of_v3() {
  unsigned a, b, c, d;
  constexpr unsigned movbe = 1u << 22, f16c = 1u << 29, lzcnt = 1u << 5;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & movbe) == 0 || (c & f16c) == 0) return false;
  return __get_cpuid(0x80000001, &a, &b, &c, &d) != 0 && (c & lzcnt) != 0;
}
#endif

PyObject* instruction_sets(PyObject*, PyObject*) {
  struct Set {
    const char* name;
    bool runs;
  };
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2") && has_rest_of_v3();
  const bool sse4 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  const Set sets[] = {{"x86-64-v4", avx512 && avx2}, {"x86-64-v3", avx2}, {"x86-64-v2", sse4}};
#else
  const Set sets[] = {{"native", true}};
#endif
  PyObject* const found = PyList_New(0);
  for (const Set& set : sets) {
    if (found == nullptr || !set.runs) continue;
    PyObject* const name = PyUnicode_FromString(set.name);
    const bool failed = name == nullptr || PyList_Append(found, name) != 0;
    Py_XDECREF(name);
    if (!failed) continue;
    Py_DECREF(found);
    return nullptr;
  }
  return found;
}

PyMethodDef functions[] = {{"instruction_sets", instruction_sets, METH_NOARGS,
                            "The instruction sets that this processor can run, best first."},
                           {nullptr, nullptr, 0, nullptr}};

/// fastopt's bindings live in one interpreter, as NumPy does; in another one they would wait for ever for its lock.
int expect_main_interpreter(PyObject*) {
  if (PyInterpreterState_Get() == PyInterpreterState_Main()) return 0;
  PyErr_SetString(PyExc_ImportError,
                  "fastopt cannot be imported in a sub-interpreter, as NumPy cannot; use a process instead");
  return -1;
}

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(expect_main_interpreter)},
#if defined(Py_GIL_DISABLED)
                            {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
                            {0, nullptr}};

PyModuleDef module{PyModuleDef_HEAD_INIT,
                   "_cpu",
                   "Which instruction sets this processor can run.",
                   0,
                   functions,
                   slots,
                   nullptr,
                   nullptr,
                   nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__cpu() { return PyModuleDef_Init(&module); }
