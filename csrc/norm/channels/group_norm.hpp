/// Group normalization, and instance normalization, whose groups are single channels.
/// Wu & He 2018, arXiv:1803.08494; Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022.
///   x̂ = (x − mean)·rstd,  rstd = 1/√(var + ε),  y = x̂·w_c + b_c      mean and biased var of each group of channels of
///   each sample, over m values;  A = Σ dy·w_c,  B = Σ dy·w_c·x̂ over the same
///   dx = rstd·(w_c·dy − A/m − x̂·B/m);   dw_c = Σ dy·x̂,  db_c = Σ dy  over samples and places
/// Statistics are float64, (samples, groups); backward takes mean and rstd from forward.
#pragma once

#include <cstddef>

#include "core/number.hpp"
#include "norm/channels/layout.hpp"
#include "norm/statistics.hpp"

namespace fastopt {

template <class S> class ChannelGroups;

/// How channels are grouped, their statistics (samples, groups), and their weights (channels), or null.
template <class T> struct GroupNorm {
  std::size_t groups;
  double *mean, *rstd;
  const T *weight = nullptr, *bias = nullptr;

  double weight_of(std::size_t channel) const { return weight ? static_cast<double>(weight[channel]) : 1; }

  template <class S> [[gnu::noinline]] void set_forward(const ChannelGroups<S>& all, std::size_t group) const {
    for (std::size_t k = 0; k < all.size(); ++k) {
      const std::size_t channel = all.first_channel(group) + k;
      all.constants().set_forward(all.first_set(group) + k, mean[group],
                                  weight ? rstd[group] * static_cast<double>(weight[channel]) : rstd[group],
                                  bias ? static_cast<double>(bias[channel]) : 0);
    }
  }

  /// Sets the constants from Σ dy and Σ dy (x − high) of the group's channels, and writes Σ dy x̂ to sum_dyx.
  template <class S>
  void set_backward(const ChannelGroups<S>& all, std::size_t group, const double* sum_dy, const double* sum_dyd,
                    double* sum_dyx) const {
    const double low = low_of<T>(mean[group]), scale = rstd[group], m = all.values();
    double a = 0, b = 0;
    for (std::size_t k = 0; k < all.size(); ++k) {
      const double w = weight_of(all.first_channel(group) + k);
      sum_dyx[k] = (sum_dyd[k] - low * sum_dy[k]) * scale;
      a += w * sum_dy[k];
      b += w * sum_dyx[k];
    }
    for (std::size_t k = 0; k < all.size(); ++k)
      all.constants().set_backward(all.first_set(group) + k, low, scale * scale * (b / m), scale * (a / m));
  }
};

/// For numbers that are stored as S.  `batch` has x, dy, y and dx.
template <class S> struct GroupNormKernels {
  using Batch = ChannelBatch<S>;
  using T = Computed<S>;
  using Norm = GroupNorm<T>;

  /// Forward.  Sets norm.mean, norm.rstd, and m2 to the sums of the squares around the means; m2 may be null.
  static void normalize(const Batch& batch, const Norm& norm, double eps, double* m2);

  /// Forward with the statistics in norm.mean and norm.rstd.
  static void apply(const Batch& batch, const Norm& norm);

  /// Backward; dweight, dbias: (channels), or null.  Without `training` the statistics are not the input's own, but
  /// constants.
  static void backward(const Batch& batch, const Norm& norm, bool training, T* dweight, T* dbias);
};

}  // namespace fastopt
