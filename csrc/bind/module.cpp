/// The extension modules.  The bindings are compiled once; the modules differ in the kernels that are linked to them,
/// and in their name in Python.
#include "bind/module.hpp"

namespace fastopt {
namespace {

void bind(pybind11::module_& m) {
  m.doc() = "fastopt's kernels, compiled for one instruction set.";
  bind_optim(m);
  bind_clip(m);
  bind_row_norms(m);
  bind_channel_norms(m);
  bind_regularize(m);
  bind_loops(m);
  bind_embedding(m);
  bind_images(m);
  bind_threads(m);
  bind_floor(m);
  bind_formats(m);
  bind_memory(m);
  bind_sparse(m);
  bind_tensors(m);
}

}  // namespace
}  // namespace fastopt

PYBIND11_MODULE(_kernels_v2, m) { fastopt::bind(m); }
PYBIND11_MODULE(_kernels_v3, m) { fastopt::bind(m); }
PYBIND11_MODULE(_kernels_v4, m) { fastopt::bind(m); }
PYBIND11_MODULE(_kernels_native, m) { fastopt::bind(m); }
