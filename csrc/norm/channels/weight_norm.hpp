/// Weight normalization.  Salimans & Kingma 2016, arXiv:1602.07868.
///   w = g·v/‖v‖          ‖v‖ over all axes of v but one; g has one number for each of that one
///   dg = Σ dw·v/‖v‖,   dv = g/‖v‖·(dw − v/‖v‖·dg)
/// In the terms of channels: a normalization without centre and average.
#pragma once

#include <cmath>
#include <cstddef>

#include "norm/channels/groups.hpp"

namespace fastopt {

/// w = v·(g·rnorm), of which the sum with −0 keeps even the sign of a zero.
template <class T> void set_weight_norm(const Constants<T>& constants, std::size_t channel, double rnorm, T g) {
  constants.set_forward(channel, 0, static_cast<double>(g) * rnorm, 0);
  constants.at(constants.shift)[channel] = -T{};
}

/// v, w: x and to of `batch`; g: (channels); rnorm: (channels), 1/‖v‖.
template <class S> void weight_norm(const ChannelBatch<S>& batch, const Computed<S>* g, double* rnorm) {
  const ChannelGroups<S> channels(batch);
  channels.normalize_by_squares([&](std::size_t c, double squares) {
    rnorm[c] = 1 / std::sqrt(squares);
    set_weight_norm(channels.constants(), c, rnorm[c], g[c]);
  });
}

/// dw, v, dv: dy, x and to of `batch`; g, dg, rnorm: (channels).
template <class S>
void weight_norm_backward(const ChannelBatch<S>& batch, const Computed<S>* g, const double* rnorm, Computed<S>* dg) {
  using T = Computed<S>;
  const FlushSubnormals environment;
  const ChannelGroups<S> channels(batch);
  const Constants<T>& constants = channels.constants();
  for (std::size_t c = 0; c < channels.count(); ++c) set_weight_norm(constants, c, rnorm[c], g[c]);
  channels.differentiate(After::nothing, true, [&](std::size_t c, const double*, const double* sum_dwv) {
    const double dg_ = *sum_dwv * rnorm[c];
    dg[c] = static_cast<T>(dg_);
    constants.set_backward(c, 0, static_cast<double>(g[c]) * rnorm[c] * rnorm[c] * dg_, 0);
    constants.at(constants.offset)[c] = -T{};
  });
}

}  // namespace fastopt
