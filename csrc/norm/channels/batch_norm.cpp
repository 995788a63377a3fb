/// Batch normalization, for every type.
#include "norm/channels/batch_norm.hpp"

#include <algorithm>

#include "norm/channels/groups.hpp"

namespace fastopt {

/// Calls body with the function that returns the factor of a channel.  That function holds pointers by value: the compiler
/// must know that no store changes them, to vectorize loops over channels.
template <class T> template <class Body> void BatchNorm<T>::with_factor(const Body& body) const {
  if (r) return body([norm = *this](std::size_t c) { return norm.factor(c); });
  if (!weight) return body([by = rstd](std::size_t c) { return by[c]; });
  body([by = rstd, w = weight](std::size_t c) { return by[c] * static_cast<double>(w[c]); });
}

template <class T>
void BatchNorm<T>::set_forward(const Constants<T>& constants, std::size_t first, std::size_t end) const {
  with_factor([&, rows = constants.forward_rows(), of = mean](const auto& factor_of) {
    if (d || !bias) {
      for (std::size_t c = first; c < end; ++c) rows.set(c, of[c], factor_of(c), summand(c));
      return;
    }
#pragma omp simd
    for (std::size_t c = first; c < end; ++c) rows.set(c, of[c], factor_of(c), static_cast<double>(bias[c]));
  });
}

template <class T>
void BatchNorm<T>::set_backward(const Constants<T>& constants, std::size_t first, std::size_t end, const double* sum_dy,
                                const double* sum_dyx, double m) const {
  with_factor([&, rows = constants.backward_rows(), of = mean, by = rstd](const auto& factor_of) {
#pragma omp simd
    for (std::size_t c = first; c < end; ++c) {
      const double factor_ = factor_of(c);
      rows.set(c, low_of<T>(of[c]), factor_ * by[c] * (sum_dyx[c - first] / m), factor_ * (sum_dy[c - first] / m));
    }
  });
}

template <class T>
void BatchNorm<T>::sum_dyx(std::size_t first, std::size_t end, const double* sum_dy, double* sums) const {
  const double *of = mean + first, *by = rstd + first;
#pragma omp simd
  for (std::size_t i = 0; i < end - first; ++i) sums[i] = (sums[i] - low_of<T>(of[i]) * sum_dy[i]) * by[i];
}

template <class T>
void BatchStatistics<T>::set(std::size_t first, std::size_t end, const double* mean_of, const double* m2_of,
                             double n) const {
  std::copy_n(mean_of, end - first, mean + first);
  std::copy_n(m2_of, end - first, m2 + first);
  rstds_of(m2_of, end - first, n, eps, rstd + first);
  if (!r) return;
  for (std::size_t c = first; c < end; ++c) {
    r[c] = limits.r(running, c, rstd[c], eps);
    d[c] = limits.d(running, c, mean[c], eps);
  }
}

template <class S> void BatchNormKernels<S>::moments(const Batch& batch, double* mean, double* m2) {
  const auto done = [=](std::size_t first, std::size_t end, const double* mean_of, const double* m2_of) {
    std::copy_n(mean_of, end - first, mean + first);
    std::copy_n(m2_of, end - first, m2 + first);
  };
  ChannelGroups<S>(batch).moments(0, done);
}

template <class S> void BatchNormKernels<S>::squares(const Batch& batch, const double* middle, double* m2) {
  ChannelGroups<S>(batch).squares_around(middle, [=](std::size_t c, double squares) { m2[c] = squares; });
}

template <class S>
void BatchNormKernels<S>::training(const Batch& batch, const Norm& norm, After after,
                                   const BatchStatistics<T>& statistics) {
  const ChannelGroups<S> channels(batch);
  const double n = channels.values();
  const auto done = [&](std::size_t first, std::size_t end, const double* mean, const double* m2) {
    statistics.set(first, end, mean, m2, n);
    norm.set_forward(channels.constants(), first, end);
  };
  channels.normalize(statistics.eps, after, done);
}

template <class S> void BatchNormKernels<S>::apply(const Batch& batch, const Norm& norm, After after) {
  const FlushSubnormals environment;
  const ChannelGroups<S> channels(batch);
  norm.set_forward(channels.constants(), 0, channels.count());
  channels.apply(after);
}

template <class S>
void BatchNormKernels<S>::gradient_sums(const Batch& batch, const Norm& norm, double* sum_dy, double* sum_dyx) {
  const FlushSubnormals environment;
  const ChannelGroups<S> channels(batch);
  norm.set_forward(channels.constants(), 0, channels.count());
  const auto done = [&](std::size_t first, std::size_t end, double* sum_g, double* sum_gd) {
    norm.sum_dyx(first, end, sum_g, sum_gd);
    std::copy_n(sum_g, end - first, sum_dy + first);
    std::copy_n(sum_gd, end - first, sum_dyx + first);
  };
  channels.gradient_sums(done);
}

template <class S>
void BatchNormKernels<S>::gradient_apply(const Batch& batch, const Norm& norm, double m, const double* sum_dy,
                                         const double* sum_dyx) {
  const FlushSubnormals environment;
  const ChannelGroups<S> channels(batch);
  norm.set_forward(channels.constants(), 0, channels.count());
  norm.set_backward(channels.constants(), 0, channels.count(), sum_dy, sum_dyx, m);
  channels.apply_gradient();
}

template <class S>
void BatchNormKernels<S>::backward(const Batch& batch, const Norm& norm, After after, bool training, T* dweight,
                                   T* dbias) {
  const FlushSubnormals environment;
  const ChannelGroups<S> channels(batch);
  norm.set_forward(channels.constants(), 0, channels.count());
  const auto done = [&, m = channels.values()](std::size_t first, std::size_t end, double* sum_dy, double* sum_dyx) {
    norm.sum_dyx(first, end, sum_dy, sum_dyx);
    if (dbias)
      std::transform(sum_dy, sum_dy + (end - first), dbias + first, [](double sum) { return static_cast<T>(sum); });
    if (dweight)
      for (std::size_t c = first; c < end; ++c) {
        const double dyx = sum_dyx[c - first];
        dweight[c] = static_cast<T>(norm.r ? norm.r[c] * dyx + norm.d[c] * sum_dy[c - first] : dyx);
      }
    norm.set_backward(channels.constants(), first, end, sum_dy, sum_dyx, m);
  };
  channels.differentiate(after, training, done);
}

template struct BatchNorm<float>;
template struct BatchNorm<double>;
template struct BatchStatistics<float>;
template struct BatchStatistics<double>;
template struct BatchNormKernels<float>;
template struct BatchNormKernels<double>;
template struct BatchNormKernels<float16>;
template struct BatchNormKernels<bfloat16>;

}  // namespace fastopt
