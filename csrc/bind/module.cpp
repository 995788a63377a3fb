/// The extension module: the bindings, for the kernels of any instruction set.
#include "bind/module.hpp"

#include <dlfcn.h>

#include <string>

#include "core/threads/team.hpp"

namespace fastopt {
namespace {

namespace py = pybind11;

/// Raises an ImportError with the name of a file in its text.
[[noreturn]] void fail(const std::string& text) {
  PyErr_SetObject(PyExc_ImportError, file_name(text).ptr());
  throw py::error_already_set();
}

/// The kernels in a library, which is never unloaded.
const Kernels& kernels_in(const std::string& path) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) fail(std::string("fastopt: ") + dlerror());
  const auto exported = reinterpret_cast<ExportedFunction>(dlsym(library, kExportedName));
  const Team team{&run_parallel, &ThreadCount::get};
  const Kernels* const kernels = exported == nullptr ? nullptr : exported(Kernels::version(), team);
  if (kernels == nullptr) fail("fastopt: " + path + " belongs to another build of the package; install fastopt again");
  return *kernels;
}

/// A module whose functions and classes call the kernels in a library.
py::module_ load(const py::module_& shared, const std::string& path, const char* name) {
  const Kernels& kernels = kernels_in(path);
  auto m = py::reinterpret_steal<py::module_>(PyModule_New(name));
  if (!m) throw py::error_already_set();
  for (const auto& [key, value] : py::dict(shared.attr("__dict__")))
    if (const auto name_of = key.cast<std::string>(); !name_of.starts_with('_') && name_of != "load")
      m.attr(key) = value;
  m.attr("__file__") = file_name(path);
  bind_optim(m, kernels);
  bind_clip(m, kernels);
  bind_row_norms(m, kernels);
  bind_channel_norms(m, kernels);
  bind_regularize(m, kernels);
  bind_loops(m, kernels);
  bind_embedding(m, kernels);
  bind_images(m, kernels);
  bind_floor(m, kernels);
  bind_formats(m, kernels);
  bind_sparse(m, kernels);
  return m;
}

}  // namespace
}  // namespace fastopt

PYBIND11_MODULE(_bindings, m) {
  using namespace fastopt;
  m.doc() = "fastopt's functions for Python, without the kernels, which load() finds in a library.";
  bind_plans(m);
  bind_clips(m);
  bind_convolutions(m);
  bind_threads(m);
  bind_memory(m);
  bind_tensors(m);
  m.def(
      "load",
      [shared = m.ptr()](const std::string& path, const char* name) {
        return load(py::reinterpret_borrow<py::module_>(shared), path, name);
      },
      py::arg("path"), py::arg("name"),
      "A module of this name with all functions and classes, for the kernels in the library at `path`, which is "
      "bytes.");
}
