/// Weight normalization.  Salimans & Kingma 2016, arXiv:1602.07868.
///   w = g·v/‖v‖          ‖v‖ over all axes of v but one; g has one number for each of that one
///   dg = Σ dw·v/‖v‖,   dv = g/‖v‖·(dw − v/‖v‖·dg)
/// In the terms of channels: a normalization without centre and average.
#pragma once

#include "core/number.hpp"
#include "norm/channels/layout.hpp"

namespace fastopt {

/// For numbers that are stored as S.
template <class S> struct WeightNormKernels {
  using Batch = ChannelBatch<S>;
  using T = Computed<S>;

  /// v, w: x and to of `batch`; g: (channels); rnorm: (channels), 1/‖v‖.
  static void forward(const Batch& batch, const T* g, double* rnorm);

  /// dw, v, dv: dy, x and to of `batch`; g, dg, rnorm: (channels).
  static void backward(const Batch& batch, const T* g, const double* rnorm, T* dg);
};

}  // namespace fastopt
