/// Elementary functions of all elements of an array; core/functions.hpp says how they are computed.
#pragma once

#include "core/rows.hpp"

namespace fastopt {

enum class Elementwise { exp, erf, tanh, sigmoid };

/// For numbers of type T.
template <class T> struct ElementwiseKernels {
  /// y: as many elements as x, contiguous; may be x.
  static void apply(Elementwise function, const T* x, const Rows& rows, T* y);
};

}  // namespace fastopt
