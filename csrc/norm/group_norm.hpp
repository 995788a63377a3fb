/// Group normalization, and instance normalization, whose groups are single channels.
/// Wu & He 2018, arXiv:1803.08494; Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022.
///   x̂ = (x − mean)·rstd,  rstd = 1/√(var + ε),  y = x̂·w_c + b_c      mean and biased var of each group of channels of
///   each sample, over m values;  A = Σ dy·w_c,  B = Σ dy·w_c·x̂ over the same
///   dx = rstd·(w_c·dy − A/m − x̂·B/m);   dw_c = Σ dy·x̂,  db_c = Σ dy  over samples and places
/// Statistics are float64, (samples, groups); backward takes mean and rstd from forward.
#pragma once

#include <cstddef>
#include <vector>

#include "norm/channels.hpp"

namespace fastopt {

/// How channels are grouped, and what all passes need; mean, rstd: (samples, groups); weight, bias: (channels) or null.
template <class T> struct GroupNorm {
  std::size_t groups;
  double *mean, *rstd;
  const T *weight = nullptr, *bias = nullptr;
};

namespace detail {

/// Groups of the channels of a batch of samples.
template <class S> class Groups {
 public:
  using T = Computed<S>;

  Groups(const Batch<S>& batch, const GroupNorm<T>& norm)
      : batch_(batch), norm_(norm), size_(norm.groups ? batch.in.count / norm.groups : 0), constants_(batch.sets()) {}

  std::size_t count() const { return batch_.samples * norm_.groups; }
  std::size_t size() const { return size_; }  ///< channels in a group
  double values() const { return static_cast<double>(size_ * values_of_channel()); }
  std::size_t values_of_channel() const { return batch_.rows() * (batch_.in.columns ? 1 : batch_.in.rows.width); }
  const Constants<T>& constants() const { return constants_; }

  /// Number (sample, channel) of a group's first channel, and the channel.
  std::size_t first_set(std::size_t group) const { return group * size_; }
  std::size_t first_channel(std::size_t group) const { return group % norm_.groups * size_; }

  double weight(std::size_t channel) const { return norm_.weight ? static_cast<double>(norm_.weight[channel]) : 1; }

  void set_forward(std::size_t group) {
    for (std::size_t k = 0; k < size_; ++k) {
      const std::size_t channel = first_channel(group) + k;
      const double rstd = norm_.rstd[group];
      constants_.set_forward(first_set(group) + k, norm_.mean[group],
                             norm_.weight ? rstd * static_cast<double>(norm_.weight[channel]) : rstd,
                             norm_.bias ? static_cast<double>(norm_.bias[channel]) : 0);
    }
  }

  /// From Σ dy and Σ dy (x − high) of the group's channels; the second one becomes Σ dy x̂.
  void set_backward(std::size_t group, const double* sum_dy, double* sum_dyx) {
    const double low = low_of<T>(norm_.mean[group]), rstd = norm_.rstd[group], m = values();
    double a = 0, b = 0;
    for (std::size_t k = 0; k < size_; ++k) {
      const double w = weight(first_channel(group) + k);
      sum_dyx[k] = (sum_dyx[k] - low * sum_dy[k]) * rstd;
      a += w * sum_dy[k];
      b += w * sum_dyx[k];
    }
    for (std::size_t k = 0; k < size_; ++k)
      constants_.set_backward(first_set(group) + k, low, rstd * rstd * (b / m), rstd * (a / m));
  }

  /// Calls body(group, its planes) in parallel: row by row, and in it channel by channel.
  template <class Body> void for_each(std::size_t passes, const Body& body) const {
    for_planes(
        batch_, count(), batch_.rows() * size_, passes,
        [&](std::size_t group, std::size_t k) {
          return std::pair(group / norm_.groups * batch_.rows() + k / size_, first_channel(group) + k % size_);
        },
        body);
  }

  /// Elementwise work on the planes of a group.
  template <class Body> void map(std::size_t group, const Places<S>& planes, bool streamed, const Body& body) const {
    const auto set_of = [&](std::size_t k) { return first_set(group) + k % size_; };
    map_planes(planes, batch_.in.rows.width, constants_, set_of, streamed, body);
  }

 private:
  const Batch<S>& batch_;
  const GroupNorm<T>& norm_;
  std::size_t size_;
  Constants<T> constants_;
};

/// The moments of a group from those of its channels, of so many values each.
inline Moments moments_of_group(const double* mean, const double* m2, std::size_t size, double values) {
  if (size == 0) return {0, 0};
  double total = 0, all = 0;
  for (std::size_t k = 0; k < size; ++k) total += mean[k] - mean[0];
  const double shift = total / static_cast<double>(size);
  for (std::size_t k = 0; k < size; ++k) {
    const double delta = mean[k] - mean[0] - shift;
    all += m2[k] + values * (delta * delta);
  }
  return {mean[0] + shift, all};
}

}  // namespace detail

/// Forward; x, y: those of `batch`.  Sets norm.mean and norm.rstd.  finish(group, m2) is told the sum of squares.
template <class S, class Finish>
void group_norm(const detail::Batch<S>& batch, const GroupNorm<Computed<S>>& norm, double eps, const Finish& finish) {
  const FlushSubnormals environment;
  detail::Groups<S> groups(batch, norm);
  const auto done = [&](std::size_t group, const Moments& moments) {
    norm.mean[group] = moments.mean;
    norm.rstd[group] = rstd_of(moments.m2, groups.values(), eps);
    finish(group, moments.m2);
    groups.set_forward(group);
  };
  if (batch.in.columns) {
    const ChannelMoments moments = detail::column_moments(batch, eps);
    for (std::size_t group = 0; group < groups.count(); ++group) {
      const std::size_t first = groups.first_set(group);
      done(group, detail::moments_of_group(moments.mean.data() + first, moments.m2.data() + first, groups.size(),
                                           static_cast<double>(groups.values_of_channel())));
    }
    return detail::map_columns(batch, 2, groups.constants(), detail::forward<After::nothing>);
  }
  groups.for_each(2, [&, streamed = batch.streamed(2)](std::size_t group, const auto& planes) {
    done(group, detail::plane_moments(planes, batch.in.rows.width, eps));
    groups.map(group, planes, streamed, detail::forward<After::nothing>);
  });
}

/// Forward with the statistics that norm.mean and norm.rstd have.
template <class S> void group_norm_apply(const detail::Batch<S>& batch, const GroupNorm<Computed<S>>& norm) {
  const FlushSubnormals environment;
  detail::Groups<S> groups(batch, norm);
  for (std::size_t group = 0; group < groups.count(); ++group) groups.set_forward(group);
  if (batch.in.columns) return detail::map_columns(batch, 2, groups.constants(), detail::forward<After::nothing>);
  groups.for_each(2, [&, streamed = batch.streamed(2)](std::size_t group, const auto& planes) {
    groups.map(group, planes, streamed, detail::forward<After::nothing>);
  });
}

/// Backward; dy, x, dx: those of `batch`; dweight, dbias: (channels), null as weight is.  Not training: the statistics
/// were not the input's own, but constants.
template <class S>
void group_norm_backward(const detail::Batch<S>& batch, const GroupNorm<Computed<S>>& norm, bool training,
                         Computed<S>* dweight, Computed<S>* dbias) {
  using T = Computed<S>;
  const FlushSubnormals environment;
  const std::size_t channels = batch.in.count, width = batch.in.rows.width;
  detail::Groups<S> groups(batch, norm);
  for (std::size_t group = 0; group < groups.count(); ++group) groups.set_forward(group);
  ChannelSums sums{std::vector<double>(batch.sets()), std::vector<double>(batch.sets())};
  const auto done = [&](std::size_t group) {
    const std::size_t first = groups.first_set(group);
    groups.set_backward(group, sums.first.data() + first, sums.second.data() + first);
  };
  if (batch.in.columns) {
    sums = detail::column_gradient_sums<After::nothing>(batch, groups.constants());
    for (std::size_t group = 0; group < groups.count(); ++group) done(group);
    with_flag(training, [&](auto trained) {
      detail::map_columns(batch, 3, groups.constants(), detail::backward<After::nothing, trained>);
    });
  } else {
    groups.for_each(3, [&, streamed = batch.streamed(3)](std::size_t group, const auto& planes) {
      for (std::size_t k = 0; k < groups.size(); ++k) {
        const std::size_t set = groups.first_set(group) + k;
        const auto c = detail::Constant<T>::of(groups.constants().rows(set), 0);
        const auto [g, gx] = detail::plane_gradient_sums<After::nothing>(
            detail::Every<S>{&planes, k, groups.size(), batch.rows()}, width, c);
        sums.first[set] = g;
        sums.second[set] = gx;
      }
      done(group);
      with_flag(training,
                [&](auto trained) { groups.map(group, planes, streamed, detail::backward<After::nothing, trained>); });
    });
  }
  const auto over_samples = [&](const std::vector<double>& of_sets, T* to) {
    if (to)
      for (std::size_t c = 0; c < channels; ++c) {
        double total = 0;
        for (std::size_t sample = 0; sample < batch.samples; ++sample) total += of_sets[sample * channels + c];
        to[c] = static_cast<T>(total);
      }
  };
  over_samples(sums.second, dweight);
  over_samples(sums.first, dbias);
}

}  // namespace fastopt
