/// The floor for benchmarks: moves the same bytes as a kernel and computes nothing.
#include "core/floor.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

namespace py = pybind11;

namespace fastopt {
namespace {

using Arrays = std::vector<py::array>;
using Addresses = std::vector<std::uint32_t*>;

/// The memory of the arrays, after checking that each has `bytes` bytes in one piece.
Addresses addresses_of(const std::string& name, const Arrays& arrays, py::ssize_t bytes, bool writes) {
  Addresses addresses;
  for (const auto& array : arrays) {
    const auto require = [&](bool holds, const std::string& constraint) {
      if (!holds) throw py::value_error("floor: " + name + " must " + constraint);
    };
    require((array.flags() & (py::array::c_style | py::array::f_style)) != 0, "be contiguous");
    require(!writes || array.writeable(), "be writeable");
    require(array.nbytes() == bytes && bytes % 4 == 0, "have as many bytes as the other arrays (" +
                                                           std::to_string(bytes) + ") and a multiple of 4, got " +
                                                           std::to_string(array.nbytes()));
    addresses.push_back(static_cast<std::uint32_t*>(const_cast<void*>(array.data())));
  }
  return addresses;
}

/// Runs Floor<R, U, W> if these are the numbers of arrays.
template <std::size_t R, std::size_t U, std::size_t W>
bool run_if(const Addresses& reads, const Addresses& updates, const Addresses& writes, std::size_t words,
            FloorStyle style) {
  if (reads.size() != R || updates.size() != U || writes.size() != W) return false;
  volatile std::uint32_t nothing = 0;
  Floor<R, U, W> floor{{}, {}, {}, words, nothing};
  std::copy_n(reads.begin(), R, floor.reads.begin());
  std::copy_n(updates.begin(), U, floor.updates.begin());
  std::copy_n(writes.begin(), W, floor.writes.begin());
  const py::gil_scoped_release without_gil;
  floor.run(style);
  return true;
}

void run_floor(const Arrays& reads, const Arrays& updates, const Arrays& writes, bool streaming, std::size_t ahead) {
  const auto* first = !reads.empty() ? &reads : !updates.empty() ? &updates : &writes;
  const py::ssize_t bytes = first->empty() ? 0 : first->front().nbytes();
  const auto r = addresses_of("reads", reads, bytes, false);
  const auto u = addresses_of("updates", updates, bytes, true);
  const auto w = addresses_of("writes", writes, bytes, true);
  const auto attempt = [&](auto run) {
    return run(r, u, w, static_cast<std::size_t>(bytes) / 4, FloorStyle{ahead, streaming});
  };
  const bool done = attempt(run_if<1, 1, 0>) || attempt(run_if<1, 2, 0>) || attempt(run_if<1, 3, 0>) ||
                    attempt(run_if<1, 4, 0>) || attempt(run_if<1, 5, 0>) || attempt(run_if<0, 4, 0>) ||
                    attempt(run_if<0, 5, 0>) || attempt(run_if<1, 0, 1>) || attempt(run_if<2, 0, 1>) ||
                    attempt(run_if<1, 0, 0>) || attempt(run_if<2, 0, 0>) || attempt(run_if<4, 0, 0>);
  if (!done)
    throw py::value_error(
        "floor: must be 1 read and 1 to 5 updates, 4 or 5 updates, 1 or 2 reads and 1 write, or 1, 2 or 4 reads, got " +
        std::to_string(r.size()) + ", " + std::to_string(u.size()) + " and " + std::to_string(w.size()));
}

}  // namespace

void bind_floor(py::module_& m) {
  m.def("floor", &run_floor, py::arg("reads"), py::arg("updates"), py::arg("writes"), py::arg("streaming") = false,
        py::arg("ahead") = 0,
        "Moves the bytes of a kernel and computes nothing: loads the reads, loads and stores the updates (their values "
        "stay),\n"
        "stores the exclusive or of the reads in the writes.  Arrays of any dtype, all with the same number of bytes.\n"
        "``streaming`` stores the writes past the caches; ``ahead`` is how many bytes ahead to prefetch (0: not at "
        "all).");
}

}  // namespace fastopt
