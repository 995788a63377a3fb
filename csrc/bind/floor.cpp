/// The floor for benchmarks: moves the same bytes as a kernel and computes nothing.
#include "core/floor.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <vector>

namespace py = pybind11;

namespace fastopt {
namespace {

using ArrayList = std::vector<py::array>;
using Addresses = std::vector<std::uint32_t*>;

/// The memory of the arrays, after checking that each has a multiple of `bytes` bytes in one piece.
Addresses addresses_of(const std::string& name, const ArrayList& arrays, py::ssize_t bytes, bool writes) {
  Addresses addresses;
  for (const auto& array : arrays) {
    const auto require = [&](bool holds, const std::string& constraint) {
      if (!holds) throw py::value_error("floor: " + name + " must " + constraint);
    };
    require((array.flags() & (py::array::c_style | py::array::f_style)) != 0, "be contiguous");
    require(!writes || array.writeable(), "be writeable");
    require(bytes == 0 ? array.nbytes() == 0 : array.nbytes() % bytes == 0 && bytes % 4 == 0,
            "have a whole multiple of the smallest array's bytes (" + std::to_string(bytes) +
                ") and these a multiple of 4, got " + std::to_string(array.nbytes()));
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

void run_uneven(const std::array<ArrayList, 3>& arrays, const std::array<Addresses, 3>& addresses, py::ssize_t bytes,
                FloorStyle style) {
  using enum UnevenFloor::Way;
  volatile std::uint32_t nothing = 0;
  UnevenFloor floor{{}, static_cast<std::size_t>(bytes) / 4, nothing};
  for (std::size_t kind = 0; kind < 3; ++kind)
    for (std::size_t k = 0; k < arrays[kind].size(); ++k)
      floor.arrays.push_back({std::array{read, update, write}[kind], addresses[kind][k],
                              static_cast<std::size_t>(arrays[kind][k].nbytes() / bytes)});
  const py::gil_scoped_release without_gil;
  floor.run(style);
}

/// The lists hold references to the arrays, so what other threads do to the caller's lists meanwhile is no matter.
void run_floor(const ArrayList& reads, const ArrayList& updates, const ArrayList& writes, bool streaming,
               std::size_t ahead) {
  const std::array<ArrayList, 3> all{reads, updates, writes};
  std::vector<py::ssize_t> sizes;
  for (const ArrayList& some : all)
    for (const py::array& array : some) sizes.push_back(array.nbytes());
  if (sizes.empty()) throw py::value_error("floor: there must be an array");
  const auto [least, most] = std::minmax_element(sizes.begin(), sizes.end());
  const py::ssize_t bytes = *least;
  const std::array<Addresses, 3> found{addresses_of("reads", reads, bytes, false),
                                       addresses_of("updates", updates, bytes, true),
                                       addresses_of("writes", writes, bytes, true)};
  const auto& [r, u, w] = found;
  const FloorStyle style{ahead, streaming};
  const auto attempt = [&](auto run) { return run(r, u, w, static_cast<std::size_t>(bytes) / 4, style); };
  if (bytes == 0) return;
  const bool even = *least == *most;
  const bool done = even && (attempt(run_if<1, 1, 0>) || attempt(run_if<1, 2, 0>) || attempt(run_if<1, 3, 0>) ||
                             attempt(run_if<1, 4, 0>) || attempt(run_if<1, 5, 0>) || attempt(run_if<0, 4, 0>) ||
                             attempt(run_if<0, 5, 0>) || attempt(run_if<1, 0, 1>) || attempt(run_if<2, 0, 1>) ||
                             attempt(run_if<1, 0, 0>) || attempt(run_if<2, 0, 0>) || attempt(run_if<4, 0, 0>));
  if (!done) run_uneven(all, found, bytes, style);
}

}  // namespace

void bind_floor(py::module_& m) {
  m.def("floor", &run_floor, py::arg("reads"), py::arg("updates"), py::arg("writes"), py::arg("streaming") = false,
        py::arg("ahead") = 0,
        "Moves the bytes of a kernel and computes nothing: loads the reads, loads and stores the updates (their values "
        "stay),\n"
        "stores what it has read in the writes: one array, or the exclusive or of two, of the same number of bytes.  "
        "Arrays of any dtype,\n"
        "each with a whole multiple of the bytes of the smallest one.\n"
        "``streaming`` stores the writes past the caches; ``ahead`` is how many bytes ahead to prefetch (0: not at "
        "all).");
}

}  // namespace fastopt
