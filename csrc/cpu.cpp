/// Tells which instruction sets this processor (and its operating system) can run, best first.  This module itself runs
/// on any processor.  It uses Python's own interface: with pybind11 this one function would be 160 KB.
#include <Python.h>

namespace {

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
                    __builtin_cpu_supports("bmi2");
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

PyModuleDef_Slot slots[] = {
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
