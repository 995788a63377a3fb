/// The floor for benchmarks: moves the same bytes as a kernel and computes nothing.
#include "core/floor.hpp"
#include "bind/gil.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "bind/module.hpp"

namespace py = pybind11;

namespace fastopt {
namespace {

using ArrayList = std::vector<py::array>;
/// Adds arrays, after checking that each has a multiple of `bytes` bytes in one piece.
void add(std::vector<FloorArray>& to, FloorArray::Way way, const std::string& name, const ArrayList& arrays,
         py::ssize_t bytes) {
  for (const auto& array : arrays) {
    const auto require = [&](bool holds, const std::string& constraint) {
      if (!holds) throw py::value_error("floor: " + name + " must " + constraint);
    };
    require((array.flags() & (py::array::c_style | py::array::f_style)) != 0, "be contiguous");
    require(way == FloorArray::read || array.writeable(), "be writeable");
    require(bytes == 0 ? array.nbytes() == 0 : array.nbytes() % bytes == 0 && bytes % 4 == 0,
            "have a whole multiple of the smallest array's bytes (" + std::to_string(bytes) +
                ") and these a multiple of 4, got " + std::to_string(array.nbytes()));
    to.push_back({way, static_cast<std::uint32_t*>(const_cast<void*>(array.data())),
                  static_cast<std::size_t>(bytes == 0 ? 1 : array.nbytes() / bytes)});
  }
}

/// The lists hold references to the arrays, so other threads may change the caller's lists meanwhile.
void move_bytes(const Kernels& kernels, const ArrayList& reads, const ArrayList& updates, const ArrayList& writes,
                bool streaming, std::size_t ahead) {
  std::vector<py::ssize_t> sizes;
  for (const ArrayList* some : {&reads, &updates, &writes})
    for (const py::array& array : *some) sizes.push_back(array.nbytes());
  if (sizes.empty()) throw py::value_error("floor: there must be an array");
  const py::ssize_t bytes = *std::ranges::min_element(sizes);
  std::vector<FloorArray> arrays;
  add(arrays, FloorArray::read, "reads", reads, bytes);
  add(arrays, FloorArray::update, "updates", updates, bytes);
  add(arrays, FloorArray::write, "writes", writes, bytes);
  if (bytes == 0) return;
  const WithoutGil release;
  kernels.run<&run_floor>(arrays, static_cast<std::size_t>(bytes) / 4, FloorStyle{ahead, streaming});
}

}  // namespace

void bind_floor(py::module_& m, const Kernels& kernels) {
  m.def("floor", bound(kernels, move_bytes), py::arg("reads"), py::arg("updates"), py::arg("writes"),
        py::arg("streaming") = false, py::arg("ahead") = 0,
        "Moves the bytes of a kernel and computes nothing: loads the reads, loads and stores the updates (their values "
        "stay),\n"
        "stores what it has read in the writes: one array, or the exclusive or of two, of the same number of bytes.  "
        "Arrays of any dtype,\n"
        "each with a whole multiple of the bytes of the smallest one.\n"
        "``streaming`` stores the writes past the caches; ``ahead`` is how many bytes ahead to prefetch (0: not at "
        "all).");
}

}  // namespace fastopt
