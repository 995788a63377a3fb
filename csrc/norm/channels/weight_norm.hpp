/// Weight normalization.  Salimans & Kingma 2016, arXiv:1602.07868.
///   w = g·v/‖v‖          ‖v‖ over all axes of v but one; g has one number for each index of that axis
///   dg = Σ dw·v/‖v‖,   dv = g/‖v‖·(dw − v/‖v‖·dg)
/// In terms of channels, it is a normalization without a centre and without an average.
#pragma once

#include "core/number.hpp"
#include "norm/channels/layout.hpp"

namespace fastopt {

/// For numbers that are stored as S.
template <class S> struct WeightNormKernels {
  using Batch = ChannelBatch<S>;
  using T = Computed<S>;

  /// v and w are x and to of `batch`; g: (channels); rnorm: (channels), 1/‖v‖.
  static void forward(const Batch& batch, const T* g, double* rnorm);

  /// dw, v and dv are dy, x and to of `batch`; g, dg, rnorm: (channels).
  static void backward(const Batch& batch, const T* g, const double* rnorm, T* dg);
};

}  // namespace fastopt
