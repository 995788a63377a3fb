/// Batch normalization, for every type.
#include "norm/channels/batch_norm.hpp"

#include "norm/channels/groups.hpp"

namespace fastopt {

template <class S> void BatchNormKernels<S>::moments(const Batch& batch, double* mean, double* m2) {
  ChannelGroups<S>(batch).moments(0, [=](std::size_t c, const Moments& moments) {
    mean[c] = moments.mean;
    m2[c] = moments.m2;
  });
}

template <class S> void BatchNormKernels<S>::squares(const Batch& batch, const double* middle, double* m2) {
  ChannelGroups<S>(batch).squares_around(middle, [=](std::size_t c, double squares) { m2[c] = squares; });
}

template <class S>
void BatchNormKernels<S>::training(const Batch& batch, const Norm& norm, After after, double eps,
                                   const std::function<void(std::size_t c, const Moments&)>& finish) {
  const ChannelGroups<S> channels(batch);
  channels.normalize(eps, after, finish,
                     [&](std::size_t first, std::size_t end) { norm.set_forward(channels.constants(), first, end); });
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
  channels.gradient_sums([&](std::size_t c, const double* sum_g, const double* sum_gd) {
    sum_dy[c] = *sum_g;
    sum_dyx[c] = norm.sum_dyx(c, *sum_g, *sum_gd);
  });
}

template <class S>
void BatchNormKernels<S>::gradient_apply(const Batch& batch, const Norm& norm, double m, const double* sum_dy,
                                         const double* sum_dyx) {
  const FlushSubnormals environment;
  const ChannelGroups<S> channels(batch);
  norm.set_forward(channels.constants(), 0, channels.count());
  for (std::size_t c = 0; c < channels.count(); ++c)
    norm.set_backward(channels.constants(), c, sum_dy[c] / m, sum_dyx[c] / m);
  channels.apply_gradient();
}

template <class S>
void BatchNormKernels<S>::backward(const Batch& batch, const Norm& norm, After after, bool training, T* dweight,
                                   T* dbias) {
  const FlushSubnormals environment;
  const ChannelGroups<S> channels(batch);
  const double m = channels.values();
  norm.set_forward(channels.constants(), 0, channels.count());
  channels.differentiate(after, training, [&](std::size_t c, const double* sum_g, const double* sum_gd) {
    const double sum_dy = *sum_g, sum_dyx = norm.sum_dyx(c, sum_dy, *sum_gd);
    if (dbias) dbias[c] = static_cast<T>(sum_dy);
    if (dweight) dweight[c] = static_cast<T>(norm.r ? norm.r[c] * sum_dyx + norm.d[c] * sum_dy : sum_dyx);
    norm.set_backward(channels.constants(), c, sum_dy / m, sum_dyx / m);
  });
}

template struct BatchNormKernels<float>;
template struct BatchNormKernels<double>;
template struct BatchNormKernels<float16>;
template struct BatchNormKernels<bfloat16>;

}  // namespace fastopt
