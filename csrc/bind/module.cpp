/// The extension module: the same sources for every instruction set.
#include "bind/module.hpp"

PYBIND11_MODULE(FASTOPT_MODULE, m) {
  m.doc() = "fastopt's kernels, compiled for one instruction set.";
  fastopt::bind_optim(m);
  fastopt::bind_row_norms(m);
  fastopt::bind_channel_norms(m);
  fastopt::bind_regularize(m);
  fastopt::bind_threads(m);
  fastopt::bind_floor(m);
  fastopt::bind_formats(m);
}
