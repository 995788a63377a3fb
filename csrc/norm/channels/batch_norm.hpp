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
#include <functional>

#include "norm/channels/groups.hpp"

namespace fastopt {

/// The statistics and weights of a BatchNorm: (channels) each; null where there is none.
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
  [[gnu::noinline]] void set_forward(const Constants<T>& constants, std::size_t c) const {
    constants.set_forward(c, mean[c], factor(c), summand(c));
  }
  void set_backward(const Constants<T>& constants, std::size_t c, double mean_dy, double mean_dyx) const {
    constants.set_backward(c, low_of<T>(mean[c]), factor(c) * rstd[c] * mean_dyx, factor(c) * mean_dy);
  }
  /// Σ dy x̂ from Σ dy and Σ dy (x − high): the difference between the mean and its nearest T is left to double.
  double sum_dyx(std::size_t c, double sum_dy, double sum_dyd) const {
    return (sum_dyd - low_of<T>(mean[c]) * sum_dy) * rstd[c];
  }
};

/// The mean of every channel and the sum of squares around it; zeros without values.  eps: the summand of the variance,
/// at least.
template <class S> void channel_moments(const ChannelBatch<S>& batch, double eps, double* mean, double* m2) {
  ChannelGroups<S>(batch).moments(eps, [=](std::size_t c, const Moments& moments) {
    mean[c] = moments.mean;
    m2[c] = moments.m2;
  });
}

/// The sums of squares around a number `middle` of every channel.
template <class S> void channel_squares(const ChannelBatch<S>& batch, const double* middle, double* m2) {
  ChannelGroups<S>(batch).squares_around(middle, [=](std::size_t c, double squares) { m2[c] = squares; });
}

/// Forward in training; x, y and, for add_relu, the residual are those of `batch`, laid out alike.  finish(c, moments)
/// sets the numbers of channel c in `norm`.
template <class S>
void batch_norm_training(const ChannelBatch<S>& batch, const BatchNorm<Computed<S>>& norm, After after, double eps,
                         const std::function<void(std::size_t c, const Moments&)>& finish) {
  const ChannelGroups<S> channels(batch);
  channels.normalize(eps, after, [&](std::size_t c, const Moments& moments) {
    finish(c, moments);
    norm.set_forward(channels.constants(), c);
  });
}

/// Forward with statistics that are known.
template <class S>
void batch_norm_apply(const ChannelBatch<S>& batch, const BatchNorm<Computed<S>>& norm, After after) {
  const FlushSubnormals environment;
  const ChannelGroups<S> channels(batch);
  for (std::size_t c = 0; c < channels.count(); ++c) norm.set_forward(channels.constants(), c);
  channels.apply(after);
}

/// Σ dy and Σ dy x̂ of every channel; dy, x: those of `batch`.
template <class S>
void batch_norm_gradient_sums(const ChannelBatch<S>& batch, const BatchNorm<Computed<S>>& norm, double* sum_dy,
                              double* sum_dyx) {
  const FlushSubnormals environment;
  const ChannelGroups<S> channels(batch);
  for (std::size_t c = 0; c < channels.count(); ++c) norm.set_forward(channels.constants(), c);
  channels.gradient_sums([&](std::size_t c, const double* sum_g, const double* sum_gd) {
    sum_dy[c] = *sum_g;
    sum_dyx[c] = norm.sum_dyx(c, *sum_g, *sum_gd);
  });
}

/// dx from those sums, over m values in each channel.
template <class S>
void batch_norm_gradient_apply(const ChannelBatch<S>& batch, const BatchNorm<Computed<S>>& norm, double m,
                               const double* sum_dy, const double* sum_dyx) {
  const FlushSubnormals environment;
  const ChannelGroups<S> channels(batch);
  for (std::size_t c = 0; c < channels.count(); ++c) {
    norm.set_forward(channels.constants(), c);
    norm.set_backward(channels.constants(), c, sum_dy[c] / m, sum_dyx[c] / m);
  }
  channels.apply_gradient();
}

/// Backward.  dy, x, dx, and for add_relu y and dresidual: those of `batch`; dweight, dbias: (channels), or null.  In
/// evaluation (not training) the statistics were constants.
template <class S>
void batch_norm_backward(const ChannelBatch<S>& batch, const BatchNorm<Computed<S>>& norm, After after, bool training,
                         Computed<S>* dweight, Computed<S>* dbias) {
  using T = Computed<S>;
  const FlushSubnormals environment;
  const ChannelGroups<S> channels(batch);
  const double m = channels.values();
  for (std::size_t c = 0; c < channels.count(); ++c) norm.set_forward(channels.constants(), c);
  channels.differentiate(after, training, [&](std::size_t c, const double* sum_g, const double* sum_gd) {
    const double sum_dy = *sum_g, sum_dyx = norm.sum_dyx(c, sum_dy, *sum_gd);
    if (dbias) dbias[c] = static_cast<T>(sum_dy);
    if (dweight) dweight[c] = static_cast<T>(norm.r ? norm.r[c] * sum_dyx + norm.d[c] * sum_dy : sum_dyx);
    norm.set_backward(channels.constants(), c, sum_dy / m, sum_dyx / m);
  });
}

}  // namespace fastopt
