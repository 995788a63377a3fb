/// The parts of the extension module.
#pragma once

#include <pybind11/pybind11.h>

#include <string_view>
#include <utility>

#include "library/functions.hpp"

namespace fastopt {

// Classes and functions that have nothing to do with an instruction set.  Classes whose objects call kernels have no
// constructor there.
void bind_plans(pybind11::module_& m);
void bind_clips(pybind11::module_& m);
void bind_convolutions(pybind11::module_& m);
void bind_threads(pybind11::module_& m);
void bind_memory(pybind11::module_& m);
void bind_tensors(pybind11::module_& m);

// Those that call the kernels of one instruction set.
void bind_optim(pybind11::module_& m, const Kernels& kernels);
void bind_row_norms(pybind11::module_& m, const Kernels& kernels);
void bind_channel_norms(pybind11::module_& m, const Kernels& kernels);
void bind_clip(pybind11::module_& m, const Kernels& kernels);
void bind_regularize(pybind11::module_& m, const Kernels& kernels);
void bind_loops(pybind11::module_& m, const Kernels& kernels);
void bind_embedding(pybind11::module_& m, const Kernels& kernels);
void bind_images(pybind11::module_& m, const Kernels& kernels);
void bind_floor(pybind11::module_& m, const Kernels& kernels);
void bind_formats(pybind11::module_& m, const Kernels& kernels);
void bind_sparse(pybind11::module_& m, const Kernels& kernels);

/// The name of a file, or a text with one in it, decoded as Python decodes such names: they need not be UTF-8.
inline pybind11::object file_name(std::string_view text) {
  auto name = pybind11::reinterpret_steal<pybind11::object>(
      PyUnicode_DecodeFSDefaultAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
  if (!name) throw pybind11::error_already_set();
  return name;
}

/// A function without its first argument, the kernels.
template <class Result, class... Arguments>
auto bound(const Kernels& kernels, Result (*function)(const Kernels&, Arguments...)) {
  return [&kernels, function](Arguments... arguments) -> Result {
    return function(kernels, std::forward<Arguments>(arguments)...);
  };
}

/// Adds a subclass of a bound class to the module: its objects, Class(kernels, arguments…), call these kernels.
template <class Class, class... Arguments, class... Extra>
void bind_subclass(pybind11::module_& m, const Kernels& kernels, const char* name, const Extra&... extra) {
  namespace py = pybind11;
  const py::object base = m.attr(name);
  py::dict members;
  members["__slots__"] = py::tuple();
  members["__module__"] = m.attr("__name__");
  members["__doc__"] = base.attr("__doc__");
  auto subclass =
      py::reinterpret_steal<py::class_<Class>>(py::type::of(base)(name, py::make_tuple(base), members).release());
  subclass.def(
      "__init__",
      [&kernels](py::detail::value_and_holder& object, Arguments... arguments) {
        object.value_ptr() = new Class(kernels, std::move(arguments)...);
      },
      py::detail::is_new_style_constructor(), extra...);
  m.attr(name) = subclass;
}

}  // namespace fastopt
