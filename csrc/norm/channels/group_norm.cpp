/// Group normalization and instance normalization, for every type.
#include "norm/channels/group_norm.hpp"

#include <algorithm>
#include <vector>

#include "norm/channels/groups.hpp"

namespace fastopt {

template <class S> void GroupNormKernels<S>::normalize(const Batch& batch, const Norm& norm, double eps, double* m2) {
  const ChannelGroups<S> groups(batch, norm.groups);
  const double n = groups.values();
  const auto done = [&](std::size_t first, std::size_t end, const double* mean_of, const double* m2_of) {
    for (std::size_t group = first; group < end; ++group) {
      norm.mean[group] = mean_of[group - first];
      norm.rstd[group] = rstd_of(m2_of[group - first], n, eps);
      if (m2) m2[group] = m2_of[group - first];
      norm.set_forward(groups, group);
    }
  };
  groups.normalize(eps, After::nothing, done);
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
  const auto done = [&](std::size_t first, std::size_t end, const double* g, const double* gd) {
    const std::size_t begin = groups.first_set(first);
    std::copy_n(g, groups.first_set(end) - begin, sum_dy.data() + begin);
    for (std::size_t group = first; group < end; ++group) {
      const std::size_t set = groups.first_set(group);
      norm.set_backward(groups, group, g + (set - begin), gd + (set - begin), sum_dyx.data() + set);
    }
  };
  groups.differentiate(After::nothing, training, done);
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
