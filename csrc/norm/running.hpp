/// Running statistics of channels: how a batch updates them, and how evaluation and batch renormalization use them.
#pragma once

#include <algorithm>
#include <cstddef>

#include "norm/statistics.hpp"

namespace fastopt {

/// 1/√(m2/n + eps) of each channel.
void rstds_of(const double* m2, std::size_t channels, double n, double eps, double* to);

/// (channels) each; both are null where there are none.
template <class T> struct RunningStatistics {
  T *mean, *var;
  std::size_t channels;

  bool given() const { return mean != nullptr; }
  double rstd(std::size_t c, double eps) const { return rstd_of(static_cast<double>(var[c]), 1, eps); }

  /// running ← (1 − momentum)·running + momentum·statistic, with the unbiased variance m2/(n − 1); m2 is Σ(x − mean)²
  /// over the n values of each channel.
  void update(const double* of_mean, const double* m2, double n, double momentum) const;

  /// The same with averages over samples; of_mean and m2 are (samples, channels), over n values each.
  void update_by_sample(const double* of_mean, const double* m2, std::size_t samples, double n, double momentum) const;

  /// The mean and rstd for evaluation.
  void report(double eps, double* to_mean, double* to_rstd) const;
};

/// The corrections of batch renormalization.  Ioffe 2017, arXiv:1702.03275, algorithm 1.
///   r = clip(σ/√(running_var + ε), 1/r_max, r_max),  d = clip((mean − running_mean)/√(running_var + ε), −d_max, d_max)
struct Renorm {
  double r_max, d_max;

  template <class T> double r(const RunningStatistics<T>& running, std::size_t c, double rstd, double eps) const {
    return std::clamp(running.rstd(c, eps) / rstd, 1 / r_max, r_max);
  }
  template <class T> double d(const RunningStatistics<T>& running, std::size_t c, double mean, double eps) const {
    const double distance = (mean - static_cast<double>(running.mean[c])) * running.rstd(c, eps);
    return std::clamp(distance, -d_max, d_max) + 0.0;  // 0 has no sign, whatever was clipped to it
  }
};

}  // namespace fastopt
