/// Gradients of few rows, as Python has them: objects of fastopt.SparseRows.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "bind/arrays.hpp"
#include "optim/sparse.hpp"

namespace fastopt {

/// Whether it is a SparseRows.  Runs none of its code.
bool is_sparse(py::handle object);

/// Reads the indices of `count` rows of values, which must be rows of a tensor that has `rows` of them.
void read_indices(py::handle indices, const Name& name, std::size_t count, std::size_t rows,
                  std::vector<SparseRows::Place>& places);

}  // namespace fastopt
