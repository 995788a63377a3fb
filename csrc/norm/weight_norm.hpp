/// Weight normalization.  Salimans & Kingma 2016, arXiv:1602.07868.
///   w = g·v/‖v‖          ‖v‖ over all axes of v but one; g has one number for each of that one
///   dg = Σ dw·v/‖v‖,   dv = g/‖v‖·(dw − v/‖v‖·dg)
/// In the terms of channels: a normalization without centre and average.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>

#include "norm/channels.hpp"

namespace fastopt {

namespace detail {

template <class T> void set_weight_norm(const Constants<T>& constants, std::size_t channel, double rnorm, T g) {
  constants.set_forward(channel, 0, static_cast<double>(g) * rnorm, 0);
  constants.at(constants.shift)[channel] = -T{};  // adds nothing, not even to the sign of a zero
}

}  // namespace detail

/// v, w: x and to of `batch`; g: (channels); rnorm: (channels), 1/‖v‖.
template <class S> void weight_norm(const detail::Batch<S>& batch, const Computed<S>* g, double* rnorm) {
  using T = Computed<S>;
  const FlushSubnormals environment;
  const detail::Constants<T> constants(batch.in.count);
  const auto finish = [&](std::size_t channel, double squares, const auto& visit) {
    rnorm[channel] = 1 / std::sqrt(squares_lost<T>(squares, 1, 0, 0, visit) ? careful_squares(0, visit) : squares);
    detail::set_weight_norm(constants, channel, rnorm[channel], g[channel]);
  };
  const auto square = [](const auto& place, std::size_t i, auto number) {
    const auto v = load<decltype(number)>(place.x + i);
    return std::array{v * v};
  };
  if (batch.in.columns) {
    const auto [squares] = detail::column_sums<1>(batch, 1, [=](std::size_t) { return square; });
    for (std::size_t channel = 0; channel < batch.in.count; ++channel)
      finish(channel, squares[channel], [&](const auto& f) { detail::visit_column(batch, channel, f); });
    return detail::map_columns(batch, 2, constants, detail::forward<After::nothing>);
  }
  detail::for_channels(batch, 2, [&, streamed = batch.streamed(2)](std::size_t channel, const auto& planes) {
    const std::size_t width = batch.in.rows.width;
    const auto [squares] =
        detail::plane_sums<1, T>(planes, width, square, [=](const auto& plane) { prefetch_row(plane.x, width); });
    finish(channel, squares, [&](const auto& f) { detail::visit_planes(planes, width, f); });
    const auto set_of = [=](std::size_t) { return channel; };
    detail::map_planes(planes, width, constants, set_of, streamed, detail::forward<After::nothing>);
  });
}

/// dw, v, dv: dy, x and to of `batch`; g, dg, rnorm: (channels).
template <class S>
void weight_norm_backward(const detail::Batch<S>& batch, const Computed<S>* g, const double* rnorm, Computed<S>* dg) {
  using T = Computed<S>;
  const FlushSubnormals environment;
  const detail::Constants<T> constants(batch.in.count);
  for (std::size_t channel = 0; channel < batch.in.count; ++channel)
    detail::set_weight_norm(constants, channel, rnorm[channel], g[channel]);
  const auto finish = [&](std::size_t channel, double sum_dwv) {
    const double dg_ = sum_dwv * rnorm[channel];
    dg[channel] = static_cast<T>(dg_);
    constants.set_backward(channel, 0, static_cast<double>(g[channel]) * rnorm[channel] * rnorm[channel] * dg_, 0);
    constants.at(constants.offset)[channel] = -T{};
  };
  if (batch.in.columns) {
    const ChannelSums sums = detail::column_gradient_sums<After::nothing>(batch, constants);
    for (std::size_t channel = 0; channel < batch.in.count; ++channel) finish(channel, sums.second[channel]);
    return detail::map_columns(batch, 3, constants, detail::backward<After::nothing, true>);
  }
  detail::for_channels(batch, 3, [&, streamed = batch.streamed(3)](std::size_t channel, const auto& planes) {
    const std::size_t width = batch.in.rows.width;
    const auto c = detail::Constant<T>::of(constants.rows(channel), 0);
    finish(channel, detail::plane_gradient_sums<After::nothing>(planes, width, c)[1]);
    const auto set_of = [=](std::size_t) { return channel; };
    detail::map_planes(planes, width, constants, set_of, streamed, detail::backward<After::nothing, true>);
  });
}

}  // namespace fastopt
