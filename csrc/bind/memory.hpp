/// Memory of NumPy arrays from the cache of freed blocks.
#pragma once

#include <pybind11/numpy.h>

#include <vector>

namespace fastopt {

namespace py = pybind11;

/// A new array with anything in it, C-contiguous unless there are `strides`, in bytes.  NumPy takes its memory from the
/// cache, if arrays of this size may be kept there and nobody has given NumPy another handler.
py::array fresh_array(const py::dtype& dtype, const std::vector<py::ssize_t>& shape,
                      const std::vector<py::ssize_t>& strides = {});

}  // namespace fastopt
