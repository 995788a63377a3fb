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
/// A batch may be spread over processes: moments and apply are the two halves of forward, gradient_sums and
/// gradient_apply those of backward.  The processes exchange statistics or sums between the halves.
#pragma once

#include <cstddef>

#include "core/number.hpp"
#include "norm/channels/layout.hpp"
#include "norm/running.hpp"
#include "norm/statistics.hpp"

namespace fastopt {

template <class T> class Constants;

/// The statistics and weights of a BatchNorm: (channels) each, or null.
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

  // For the channels [first, end).  The arrays of sums begin with channel `first`.

  void set_forward(const Constants<T>& constants, std::size_t first, std::size_t end) const;
  void set_backward(const Constants<T>& constants, std::size_t first, std::size_t end, const double* sum_dy,
                    const double* sum_dyx, double m) const;
  /// Replaces Σ dy (x − high) by Σ dy x̂, corrected in double by the difference between the mean and its nearest T.
  void sum_dyx(std::size_t first, std::size_t end, const double* sum_dy, double* sums) const;

 private:
  template <class Body> void with_factor(const Body& body) const;
};

/// What forward computes of a batch, (channels) each; r and d are null without batch renormalization.
template <class T> struct BatchStatistics {
  double *mean, *rstd, *m2;
  double eps;
  double *r, *d;
  Renorm limits;
  RunningStatistics<T> running;

  /// For the channels [first, end), from moments over n values that begin with channel `first`.
  void set(std::size_t first, std::size_t end, const double* mean_of, const double* m2_of, double n) const;
};

/// For numbers that are stored as S.  `batch` has x, dy, y and dx, and for add_relu the residual and its gradient.
template <class S> struct BatchNormKernels {
  using Batch = ChannelBatch<S>;
  using T = Computed<S>;
  using Norm = BatchNorm<T>;

  /// The mean of every channel and the sum of squares around it; zeros without values.
  static void moments(const Batch& batch, double* mean, double* m2);

  /// The sum of squares around the number `middle` of every channel.
  static void squares(const Batch& batch, const double* middle, double* m2);

  /// Forward in training.  Sets the statistics, which are those in `norm`.
  static void training(const Batch& batch, const Norm& norm, After after, const BatchStatistics<T>& statistics);

  /// Forward with given statistics.
  static void apply(const Batch& batch, const Norm& norm, After after);

  /// Σ dy and Σ dy x̂ of every channel.
  static void gradient_sums(const Batch& batch, const Norm& norm, double* sum_dy, double* sum_dyx);

  /// dx from those sums, over m values in each channel.
  static void gradient_apply(const Batch& batch, const Norm& norm, double m, const double* sum_dy,
                             const double* sum_dyx);

  /// Backward; dweight, dbias: (channels), or null.  Without `training` (evaluation) the statistics are constants.
  static void backward(const Batch& batch, const Norm& norm, After after, bool training, T* dweight, T* dbias);
};

}  // namespace fastopt
