/// The parts of the extension module.
#pragma once

#include <pybind11/pybind11.h>

namespace fastopt {

void bind_optim(pybind11::module_& m);
void bind_row_norms(pybind11::module_& m);
void bind_channel_norms(pybind11::module_& m);
void bind_clip(pybind11::module_& m);
void bind_regularize(pybind11::module_& m);
void bind_loops(pybind11::module_& m);
void bind_embedding(pybind11::module_& m);
void bind_images(pybind11::module_& m);
void bind_threads(pybind11::module_& m);
void bind_floor(pybind11::module_& m);
void bind_formats(pybind11::module_& m);
void bind_memory(pybind11::module_& m);
void bind_sparse(pybind11::module_& m);
void bind_tensors(pybind11::module_& m);

}  // namespace fastopt
