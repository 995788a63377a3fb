/// Running statistics of channels, for every type.
#include "norm/running.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "core/threads/environment.hpp"

namespace fastopt {

namespace {

template <class T> T blend(T running, double statistic, double momentum) {
  return static_cast<T>((1 - momentum) * static_cast<double>(running) + momentum * statistic);
}

}  // namespace

void rstds_of(const double* m2, std::size_t channels, double n, double eps, double* to) {
#pragma omp simd
  for (std::size_t c = 0; c < channels; ++c) to[c] = rstd_of(m2[c], n, eps);
}

template <class T>
void RunningStatistics<T>::update(const double* of_mean, const double* m2, double n, double momentum) const {
  const FlushSubnormals environment;
#pragma omp simd
  for (std::size_t c = 0; c < channels; ++c) {
    mean[c] = blend(mean[c], of_mean[c], momentum);
    var[c] = blend(var[c], m2[c] / (n - 1), momentum);
  }
}

template <class T>
void RunningStatistics<T>::update_by_sample(const double* of_mean, const double* m2, std::size_t samples, double n,
                                            double momentum) const {
  const FlushSubnormals environment;
  std::vector<double> mean_sum(channels), var_sum(channels);
  for (std::size_t set = 0; set < samples * channels; ++set) {
    mean_sum[set % channels] += of_mean[set];
    var_sum[set % channels] += m2[set] / (n - 1);
  }
  const auto count = static_cast<double>(samples);
  for (std::size_t c = 0; c < channels; ++c) {
    mean[c] = blend(mean[c], mean_sum[c] / count, momentum);
    var[c] = blend(var[c], var_sum[c] / count, momentum);
  }
}

template <class T> void RunningStatistics<T>::report(double eps, double* to_mean, double* to_rstd) const {
  const FlushSubnormals environment;
#pragma omp simd
  for (std::size_t c = 0; c < channels; ++c) {
    const auto its = static_cast<double>(mean[c]);
    to_mean[c] =
        std::abs(its) < std::numeric_limits<double>::min() ? std::copysign(0.0, its) : its;  // as in arithmetic
    to_rstd[c] = rstd(c, eps);
  }
}

template struct RunningStatistics<float>;
template struct RunningStatistics<double>;

}  // namespace fastopt
