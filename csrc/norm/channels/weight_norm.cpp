/// Weight normalization, for every type.
#include "norm/channels/weight_norm.hpp"

#include <cmath>
#include <cstddef>

#include "norm/channels/groups.hpp"

namespace fastopt {

namespace {

/// w = v·(g·rnorm).  The added constant is −0, which keeps even the sign of a zero.
template <class T> void set_weight_norm(const Constants<T>& constants, std::size_t channel, double rnorm, T g) {
  constants.set_forward(channel, 0, static_cast<double>(g) * rnorm, 0);
  constants.at(constants.shift)[channel] = -T{};
}

}  // namespace

template <class S> void WeightNormKernels<S>::forward(const Batch& batch, const T* g, double* rnorm) {
  const ChannelGroups<S> channels(batch);
  channels.normalize_by_squares([&](std::size_t c, double squares) {
    rnorm[c] = 1 / std::sqrt(squares);
    set_weight_norm(channels.constants(), c, rnorm[c], g[c]);
  });
}

template <class S> void WeightNormKernels<S>::backward(const Batch& batch, const T* g, const double* rnorm, T* dg) {
  const FlushSubnormals environment;
  const ChannelGroups<S> channels(batch);
  const Constants<T>& constants = channels.constants();
  for (std::size_t c = 0; c < channels.count(); ++c) set_weight_norm(constants, c, rnorm[c], g[c]);
  const auto done = [&](std::size_t first, std::size_t end, const double*, const double* sum_dwv) {
    for (std::size_t c = first; c < end; ++c) {
      const double dg_ = sum_dwv[c - first] * rnorm[c];
      dg[c] = static_cast<T>(dg_);
      constants.set_backward(c, 0, static_cast<double>(g[c]) * rnorm[c] * rnorm[c] * dg_, 0);
      constants.at(constants.offset)[c] = -T{};
    }
  };
  channels.differentiate(After::nothing, true, done);
}

template struct WeightNormKernels<float>;
template struct WeightNormKernels<double>;
template struct WeightNormKernels<float16>;
template struct WeightNormKernels<bfloat16>;

}  // namespace fastopt
