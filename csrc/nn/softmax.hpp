/// Softmax of rows, and its logarithm.
///   y = e^{s·x − m}/Σ e^{s·x − m},  m = max s·x            over each row of x, (rows, width); s: the scale
///   dx = s·y·(dy − Σ dy·y)
///   log:  y = s·x − m − log Σ e^{s·x − m};   dx = s·(dy − e^y·Σ dy)
/// Causal: row q of each `queries` rows has only its first q + 1 + width − queries elements; y and dx are 0 behind these, and
/// the logarithm −∞.
#pragma once

#include <cstddef>

#include "core/rows.hpp"

namespace fastopt {

/// What is common to both passes.
struct SoftmaxOptions {
  double scale = 1;
  std::size_t queries = 0;  ///< 0: not causal
  bool log = false;
};

/// For numbers of type T.
template <class T> struct SoftmaxKernels {
  /// y: (rows, width), contiguous, may be x.
  static void forward(const SoftmaxOptions& options, const T* x, const Rows& rows, T* y);

  /// y: that of forward; dx: contiguous, may be dy or y.
  static void backward(const SoftmaxOptions& options, const T* dy, const Rows& dy_rows, const T* y, const Rows& y_rows,
                       T* dx);
};

}  // namespace fastopt
