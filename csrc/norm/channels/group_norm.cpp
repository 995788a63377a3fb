/// Group normalization and instance normalization, for every type.
#include "norm/channels/group_norm.hpp"

#include <algorithm>
#include <vector>

#include "norm/channels/groups.hpp"

namespace fastopt {

template <class S>
void GroupNormKernels<S>::normalize(const Batch& batch, const Norm& norm, double eps,
                                    const std::function<void(std::size_t group, double m2)>& finish) {
  const ChannelGroups<S> groups(batch, norm.groups);
  groups.normalize(eps, After::nothing, [&](std::size_t group, const Moments& moments) {
    norm.mean[group] = moments.mean;
    norm.rstd[group] = rstd_of(moments.m2, groups.values(), eps);
    finish(group, moments.m2);
    norm.set_forward(groups, group);
  });
}

template <class S> void GroupNormKernels<S>::apply(const Batch& batch, const Norm& norm) {
  const FlushSubnormals environment;
  const ChannelGroups<S> groups(batch, norm.groups);
  for (std::size_t group = 0; group < groups.count(); ++group) norm.set_forward(groups, group);
  groups.apply(After::nothing);
}

template <class S>
void GroupNormKernels<S>::backward(const Batch& batch, const Norm& norm, bool training, T* dweight, T* dbias) {
  const FlushSubnormals environment;
  const std::size_t channels = batch.in.count;
  const ChannelGroups<S> groups(batch, norm.groups);
  for (std::size_t group = 0; group < groups.count(); ++group) norm.set_forward(groups, group);
  std::vector<double> sum_dy(batch.sets()), sum_dyx(batch.sets());
  groups.differentiate(After::nothing, training, [&](std::size_t group, const double* g, const double* gd) {
    const std::size_t first = groups.first_set(group);
    std::copy_n(g, groups.size(), sum_dy.data() + first);
    norm.set_backward(groups, group, g, gd, sum_dyx.data() + first);
  });
  const auto over_samples = [&](const std::vector<double>& of_sets, T* to) {
    if (to)
      for (std::size_t c = 0; c < channels; ++c) {
        double total = 0;
        for (std::size_t sample = 0; sample < batch.samples; ++sample) total += of_sets[sample * channels + c];
        to[c] = static_cast<T>(total);
      }
  };
  over_samples(sum_dyx, dweight);
  over_samples(sum_dy, dbias);
}

template struct GroupNormKernels<float>;
template struct GroupNormKernels<double>;
template struct GroupNormKernels<float16>;
template struct GroupNormKernels<bfloat16>;

}  // namespace fastopt
