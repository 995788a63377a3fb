/// Batch normalization.  Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.
///   x̂ = (x − mean)·rstd,  rstd = 1/√(var + ε),  y = x̂·w + b       mean and biased var of each channel, over m values
///   dx = rstd·w·(dy − Σdy/m − x̂·Σ(dy x̂)/m);  dw = Σ dy·x̂,  db = Σ dy                 in evaluation dx = rstd·w·dy
/// Statistics are float64; backward takes mean and rstd from forward.  ReLU, and the addition of a residual before it,
/// may follow in the same passes.
///
/// Batch renormalization, Ioffe 2017, arXiv:1702.03275: x̂ = (x − mean)·rstd·r + d, with
///   r = clip(σ/√(running_var + ε), 1/r_max, r_max),  d = clip((mean − running_mean)/√(running_var + ε), −d_max, d_max)
/// as constants in backward.
///
/// A batch may be spread over processes: channel_moments, batch_norm_apply, batch_norm_gradient_sums and
/// batch_norm_gradient_apply are the halves of both passes, between which statistics or sums are exchanged.
#pragma once

#include <cstddef>
#include <vector>

#include "norm/channels.hpp"

namespace fastopt {

/// What all of a BatchNorm's passes need: (channels) each; null where there is none.
template <class T> struct BatchNorm {
  const double *mean, *rstd;
  const T *weight = nullptr, *bias = nullptr;
  const double *r = nullptr, *d = nullptr;  ///< of batch renormalization

  double factor(std::size_t c) const {
    const double weighted = weight ? rstd[c] * static_cast<double>(weight[c]) : rstd[c];
    return r ? weighted * r[c] : weighted;
  }
  double summand(std::size_t c) const {
    const double own = bias ? static_cast<double>(bias[c]) : 0;
    return d ? own + (weight ? static_cast<double>(weight[c]) * d[c] : d[c]) : own;
  }
};

namespace detail {

template <class T> void set_forward(const Constants<T>& constants, const BatchNorm<T>& norm, Range channels) {
  for (std::size_t c = channels.begin; c < channels.end; ++c)
    constants.set_forward(c, norm.mean[c], norm.factor(c), norm.summand(c));
}

/// The second pass of forward over the planes of a channel.
template <class S>
void forward_planes(const Places<S>& planes, std::size_t width, const Constants<Computed<S>>& constants,
                    std::size_t channel, bool streamed, After after) {
  const auto set_of = [=](std::size_t) { return channel; };
  with_after(after, [&](auto what) { map_planes(planes, width, constants, set_of, streamed, forward<what>); });
}

}  // namespace detail

/// The moments of every channel; zeros without values.  eps: what will be added to the variance, at least.
template <class S> ChannelMoments channel_moments(const detail::Batch<S>& batch, double eps) {
  const FlushSubnormals environment;
  if (batch.in.columns) return detail::column_moments(batch, eps);
  ChannelMoments moments(batch.in.count);
  if (batch.in.values() == 0) return moments;
  detail::for_channels(batch, 1, [&](std::size_t channel, const auto& planes) {
    const Moments of_channel = detail::plane_moments(planes, batch.in.rows.width, eps);
    moments.mean[channel] = of_channel.mean;
    moments.m2[channel] = of_channel.m2;
  });
  return moments;
}

/// The sums of squares around given numbers, of which `around` has one a channel.
template <class S> std::vector<double> channel_squares(const detail::Batch<S>& batch, const double* around) {
  using T = Computed<S>;
  const FlushSubnormals environment;
  const std::size_t channels = batch.in.count;
  const auto n = static_cast<double>(batch.in.values());
  std::vector<double> m2(channels);
  const auto finish = [&](std::size_t c, double sum, double squares, const auto& visit) {
    const auto high = static_cast<double>(Centre<T>(around[c]).high);
    const double low = detail::low_of<T>(around[c]), m2_ = squares - low * (2 * sum - n * low);
    m2[c] = squares_lost<T>(squares, n, 0, high, visit) ? careful_squares(around[c], visit) : m2_ < 0 ? 0 : m2_;
  };
  if (!batch.in.columns) {
    detail::for_channels(batch, 1, [&](std::size_t channel, const auto& planes) {
      const auto [sum, squares] =
          detail::plane_sums_around(planes, batch.in.rows.width, Centre<T>(around[channel]).high);
      finish(channel, sum, squares, [&](const auto& f) { detail::visit_planes(planes, batch.in.rows.width, f); });
    });
    return m2;
  }
  std::vector<T> near(channels);
  for (std::size_t c = 0; c < channels; ++c) near[c] = Centre<T>(around[c]).high;
  const auto [sums, squares] = detail::column_sums<2>(batch, 1, [near = near.data()](std::size_t) {
    return [near](const auto& place, std::size_t i, auto number) {
      using V = decltype(number);
      const V d = load<V>(place.x + i) - load<V>(near + i);
      return std::array{d, d * d};
    };
  });
  for (std::size_t c = 0; c < channels; ++c)
    finish(c, sums[c], squares[c], [&](const auto& f) { detail::visit_column(batch, c, f); });
  return m2;
}

/// Forward in training.  finish(channels) is called when the moments of a range of channels are known, and sets what
/// `norm` has.  x, y and, for add_relu, the residual: those of `batch`, laid out alike.
template <class S, class Finish>
ChannelMoments batch_norm_training(const detail::Batch<S>& batch, const BatchNorm<Computed<S>>& norm, After after,
                                   double eps, const Finish& finish) {
  const FlushSubnormals environment;
  const std::size_t channels = batch.in.count, width = batch.in.rows.width;
  ChannelMoments moments(channels);
  const detail::Constants<Computed<S>> constants(channels);
  const auto done = [&](Range range) {
    finish(moments, range);
    detail::set_forward(constants, norm, range);
  };
  if (batch.in.columns) {
    moments = detail::column_moments(batch, eps);
    done({0, channels});
    with_after(after, [&](auto what) { detail::map_columns(batch, 2, constants, detail::forward<what>); });
  } else {
    detail::for_channels(batch, 2, [&, streamed = batch.streamed(2)](std::size_t channel, const auto& planes) {
      const Moments of_channel = detail::plane_moments(planes, width, eps);
      moments.mean[channel] = of_channel.mean;
      moments.m2[channel] = of_channel.m2;
      done({channel, channel + 1});
      detail::forward_planes(planes, width, constants, channel, streamed, after);
    });
  }
  return moments;
}

/// Forward with statistics that are known.
template <class S>
void batch_norm_apply(const detail::Batch<S>& batch, const BatchNorm<Computed<S>>& norm, After after) {
  const FlushSubnormals environment;
  const detail::Constants<Computed<S>> constants(batch.in.count);
  detail::set_forward(constants, norm, {0, batch.in.count});
  if (batch.in.columns)
    with_after(after, [&](auto what) { detail::map_columns(batch, 2, constants, detail::forward<what>); });
  else
    detail::for_channels(batch, 2, [&, streamed = batch.streamed(2)](std::size_t channel, const auto& planes) {
      detail::forward_planes(planes, batch.in.rows.width, constants, channel, streamed, after);
    });
}

namespace detail {

/// Σ dy x̂ from Σ dy and Σ dy (x − high): what the mean has beyond its nearest T is left to double.
template <class T> double sum_dyx(const BatchNorm<T>& norm, std::size_t c, double sum_dy, double sum_dyd) {
  return (sum_dyd - low_of<T>(norm.mean[c]) * sum_dy) * norm.rstd[c];
}

template <class T>
void set_backward(const Constants<T>& constants, const BatchNorm<T>& norm, std::size_t c, double mean_dy,
                  double mean_dyx) {
  const double factor = norm.factor(c);
  constants.set_backward(c, low_of<T>(norm.mean[c]), factor * norm.rstd[c] * mean_dyx, factor * mean_dy);
}

/// The second pass of backward over columns, and over the planes of a channel.
template <class S>
void backward_columns(const Batch<S>& batch, const Constants<Computed<S>>& constants, After after, bool training) {
  with_flag(training, [&](auto trained) {
    // In add_relu the first pass has stored what reaches the normalization.
    if (after == After::relu) return map_columns(batch, 3, constants, backward<After::relu, trained>);
    map_columns(batch, 3, constants, backward<After::nothing, trained>);
  });
}
template <class S>
void backward_planes(const Places<S>& planes, std::size_t width, const Constants<Computed<S>>& constants,
                     std::size_t channel, bool streamed, After after, bool training) {
  const auto set_of = [=](std::size_t) { return channel; };
  with_flag(training, [&](auto trained) {
    if (after == After::relu)
      map_planes(planes, width, constants, set_of, streamed, backward<After::relu, trained>);
    else
      map_planes(planes, width, constants, set_of, streamed, backward<After::nothing, trained>);
  });
}

}  // namespace detail

/// Σ dy and Σ dy x̂ of every channel; dy, x: those of `batch`.
template <class S>
ChannelSums batch_norm_gradient_sums(const detail::Batch<S>& batch, const BatchNorm<Computed<S>>& norm) {
  const FlushSubnormals environment;
  const std::size_t channels = batch.in.count;
  const detail::Constants<Computed<S>> constants(channels);
  detail::set_forward(constants, norm, {0, channels});
  ChannelSums sums{std::vector<double>(channels), std::vector<double>(channels)};
  if (batch.in.columns)
    sums = detail::column_gradient_sums<After::nothing>(batch, constants);
  else
    detail::for_channels(batch, 2, [&](std::size_t c, const auto& planes) {
      const auto of_channel = detail::Constant<Computed<S>>::of(constants.rows(c), 0);
      const auto [g, gx] = detail::plane_gradient_sums<After::nothing>(planes, batch.in.rows.width, of_channel);
      sums.first[c] = g;
      sums.second[c] = gx;
    });
  for (std::size_t c = 0; c < channels; ++c) sums.second[c] = detail::sum_dyx(norm, c, sums.first[c], sums.second[c]);
  return sums;
}

/// dx from those sums, over m values a channel.
template <class S>
void batch_norm_gradient_apply(const detail::Batch<S>& batch, const BatchNorm<Computed<S>>& norm, double m,
                               const double* sum_dy, const double* sum_dyx) {
  const FlushSubnormals environment;
  const std::size_t channels = batch.in.count;
  const detail::Constants<Computed<S>> constants(channels);
  detail::set_forward(constants, norm, {0, channels});
  for (std::size_t c = 0; c < channels; ++c) detail::set_backward(constants, norm, c, sum_dy[c] / m, sum_dyx[c] / m);
  if (batch.in.columns) return detail::backward_columns(batch, constants, After::nothing, true);
  detail::for_channels(batch, 3, [&, streamed = batch.streamed(3)](std::size_t channel, const auto& planes) {
    detail::backward_planes(planes, batch.in.rows.width, constants, channel, streamed, After::nothing, true);
  });
}

/// Backward.  dy, x, dx, and for add_relu y and dresidual: those of `batch`; dweight, dbias: (channels), null as weight
/// is.  In evaluation (not training) the statistics were constants.
template <class S>
void batch_norm_backward(const detail::Batch<S>& batch, const BatchNorm<Computed<S>>& norm, After after, bool training,
                         Computed<S>* dweight, Computed<S>* dbias) {
  using T = Computed<S>;
  const FlushSubnormals environment;
  const std::size_t channels = batch.in.count, width = batch.in.rows.width;
  const auto m = static_cast<double>(batch.in.values());
  const detail::Constants<T> constants(channels);
  detail::set_forward(constants, norm, {0, channels});
  const auto finish = [&](std::size_t c, double sum_dy, double sum_dyd) {
    const double sum_dyx = detail::sum_dyx(norm, c, sum_dy, sum_dyd);
    if (dbias) dbias[c] = static_cast<T>(sum_dy);
    if (dweight) dweight[c] = static_cast<T>(norm.r ? norm.r[c] * sum_dyx + norm.d[c] * sum_dy : sum_dyx);
    detail::set_backward(constants, norm, c, sum_dy / m, sum_dyx / m);
  };

  if (batch.in.columns) {
    with_after(after, [&](auto what) {
      const ChannelSums sums = detail::column_gradient_sums<what>(batch, constants);
      for (std::size_t c = 0; c < channels; ++c) finish(c, sums.first[c], sums.second[c]);
    });
    detail::Batch<S> second = batch;
    if (after == After::add_relu) second.dy = {batch.also_to.data, batch.also_to.in};
    return detail::backward_columns(second, constants, after, training);
  }
  detail::for_channels(batch, 3, [&, streamed = batch.streamed(3)](std::size_t channel, auto& planes) {
    const auto c = detail::Constant<T>::of(constants.rows(channel), 0);
    with_after(after, [&](auto what) {
      const auto [sum_dy, sum_dyd] = detail::plane_gradient_sums<what>(planes, width, c);
      finish(channel, sum_dy, sum_dyd);
      if constexpr (what == After::add_relu) {
        planes.dy.assign(planes.also_to.begin(), planes.also_to.end());
        if (planes.apart) planes.apart->dy = nullptr;
      }
    });
    detail::backward_planes(planes, width, constants, channel, streamed, after, training);
  });
}

}  // namespace fastopt
