/// The kernels of normalizations of rows; kernels.cpp instantiates them.
#pragma once

#include "norm/rows/arrays.hpp"

namespace fastopt {

/// For numbers that are stored as S.  Forward gives y and the statistics; backward gives dx and the gradients of the
/// weights.
template <class Norm, class S> struct RowKernels {
  static void forward(const RowNorm<S>& arrays);
  static void backward(const RowNormBackward<S>& arrays);
};

}  // namespace fastopt
