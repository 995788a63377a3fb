/// The passes over groups of channels, for every type: the only file that instantiates them.
#include "norm/channels/groups.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "core/threads/parallel.hpp"
#include "norm/channels/columns.hpp"
#include "norm/channels/planes.hpp"

namespace fastopt {

namespace {

/// The moments of a group from those of its `size` channels, which have `values` values each.
Moments moments_of_group(const double* mean, const double* m2, std::size_t size, double values) {
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

}  // namespace

template <class S> void ChannelGroups<S>::moments(double eps, const MomentsDone& done) const {
  const FlushSubnormals environment;
  if (values() == 0) {
    const std::vector<double> zeros(count());
    done(0, count(), zeros.data(), zeros.data());
  } else if (batch_.in.columns) {
    moments_of_columns(eps, done);
  } else {
    for_groups(1, [&](std::size_t group, const Planes<S>& planes, RowList<S>&) {
      moments_of_planes(group, planes, eps, done);
    });
  }
}

template <class S> void ChannelGroups<S>::normalize(double eps, After after, const MomentsDone& done) const {
  const FlushSubnormals environment;
  if (batch_.in.columns) {
    moments_of_columns(eps, done);
    return map_forward_columns(after);
  }
  for_groups(2, [&, streamed = batch_.streamed(2)](std::size_t group, const Planes<S>& planes, RowList<S>&) {
    moments_of_planes(group, planes, eps, done);
    map_forward_planes(group, planes, streamed, after);
  });
}

template <class S> void ChannelGroups<S>::apply(After after) const {
  const FlushSubnormals environment;
  if (batch_.in.columns) return map_forward_columns(after);
  for_groups(2, [&, streamed = batch_.streamed(2)](std::size_t group, const Planes<S>& planes, RowList<S>&) {
    map_forward_planes(group, planes, streamed, after);
  });
}

template <class S> void ChannelGroups<S>::normalize_by_squares(const SquaresDone& done) const {
  const FlushSubnormals environment;
  const auto right = [](double squares, const auto& visit) {
    return squares_lost<T>(squares, 1, 0, 0, visit) ? careful_squares(0, visit) : squares;
  };
  if (batch_.in.columns) {
    const std::vector<double> squares = column_squares(batch_);
    for (std::size_t c = 0; c < squares.size(); ++c)
      done(c, right(squares[c], [&](const auto& f) { visit_column(batch_, c, f); }));
    return map_forward_columns(After::nothing);
  }
  for_groups(2, [&, streamed = batch_.streamed(2)](std::size_t group, const Planes<S>& planes, RowList<S>&) {
    done(group, right(plane_squares(planes), [&](const auto& f) { visit_planes(planes, f); }));
    map_forward_planes(group, planes, streamed, After::nothing);
  });
}

template <class S> void ChannelGroups<S>::squares_around(const double* middle, const SquaresDone& done) const {
  const FlushSubnormals environment;
  const double n = values();
  const auto finish = [&](std::size_t c, double sum, double squares, const auto& visit) {
    const auto high = static_cast<double>(Centre<T>(middle[c]).high);
    const double low = low_of<T>(middle[c]), m2 = squares - low * (2 * sum - n * low);
    done(c, squares_lost<T>(squares, n, 0, high, visit) ? careful_squares(middle[c], visit) : m2 < 0 ? 0 : m2);
  };
  if (batch_.in.columns) {
    std::vector<T> near(count());
    for (std::size_t c = 0; c < count(); ++c) near[c] = Centre<T>(middle[c]).high;
    const auto [sums, squares] = column_sums_around(batch_, near.data());
    for (std::size_t c = 0; c < count(); ++c)
      finish(c, sums[c], squares[c], [&](const auto& f) { visit_column(batch_, c, f); });
    return;
  }
  for_groups(1, [&](std::size_t group, const Planes<S>& planes, RowList<S>&) {
    const auto [sum, squares] = plane_sums_around(planes, Centre<T>(middle[group]).high);
    finish(group, sum, squares, [&](const auto& f) { visit_planes(planes, f); });
  });
}

template <class S> void ChannelGroups<S>::gradient_sums(const GradientDone& done) const {
  const FlushSubnormals environment;
  if (batch_.in.columns) return gradient_sums_of_columns(After::nothing, done);
  for_groups(2, [&](std::size_t group, const Planes<S>& planes, RowList<S>&) {
    gradient_sums_of_planes<After::nothing>(group, planes, done);
  });
}

template <class S> void ChannelGroups<S>::differentiate(After after, bool training, const GradientDone& done) const {
  const FlushSubnormals environment;
  // With add_relu the first pass stores the gradient that reaches the normalization, and the second pass reads it.
  if (batch_.in.columns) {
    gradient_sums_of_columns(after, done);
    ChannelBatch<S> second = batch_;
    if (after == After::add_relu) second.dy = {batch_.also_to.data, batch_.also_to.in};
    return map_backward_columns(second, after, training);
  }
  for_groups(3, [&, streamed = batch_.streamed(3)](std::size_t group, const Planes<S>& planes, RowList<S>& rows) {
    with_after(after, [&](auto what) { gradient_sums_of_planes<what>(group, planes, done); });
    if (after == After::add_relu) {
      rows.dy.assign(rows.also_to.begin(), rows.also_to.end());
      if (planes.scratch) planes.scratch->dy = nullptr;
    }
    map_backward_planes(group, planes, streamed, after, training);
  });
}

template <class S> void ChannelGroups<S>::apply_gradient() const {
  const FlushSubnormals environment;
  if (batch_.in.columns) return map_backward_columns(batch_, After::nothing, true);
  for_groups(3, [&, streamed = batch_.streamed(3)](std::size_t group, const Planes<S>& planes, RowList<S>&) {
    map_backward_planes(group, planes, streamed, After::nothing, true);
  });
}

template <class S> template <class Body> void ChannelGroups<S>::for_groups(std::size_t arrays, const Body& body) const {
  const std::size_t rows = batch_.rows(), planes = rows * size_;
  parallel(threads_for(batch_.cost(arrays)), [&](int thread, int threads) {
    const Range mine = share(count(), thread, threads);
    RowList<S> list(planes);
    list.size = planes;
    PlaneScratch<S> scratch(batch_);
    for (std::size_t group = mine.begin; group < mine.end; ++group) {
      scratch.dy = batch_.dy.scattered();  // the body may have replaced it
      const std::size_t row = group / groups_ * rows, channel = first_channel(group);
      for (std::size_t k = 0; k < planes; ++k) list.set(k, batch_.row(row + k / size_, channel + k % size_));
      const Planes<S> all{&list, 0, 1, planes, batch_.in.rows.width, batch_.scattered() ? &scratch : nullptr};
      body(group, all, list);
    }
    stream_fence();
  });
}

template <class S> void ChannelGroups<S>::moments_of_columns(double eps, const MomentsDone& done) const {
  const ChannelMoments of_sets = column_moments(batch_, eps);
  if (alone_) return done(0, count(), of_sets.mean.data(), of_sets.m2.data());
  ChannelMoments all(count());
  const auto values = static_cast<double>(batch_.values_of_set());
  for (std::size_t group = 0; group < count(); ++group) {
    const std::size_t first = first_set(group);
    const Moments moments = moments_of_group(of_sets.mean.data() + first, of_sets.m2.data() + first, size_, values);
    all.mean[group] = moments.mean;
    all.m2[group] = moments.m2;
  }
  done(0, count(), all.mean.data(), all.m2.data());
}

template <class S>
void ChannelGroups<S>::moments_of_planes(std::size_t group, const Planes<S>& planes, double eps,
                                         const MomentsDone& done) const {
  const Moments moments = plane_moments(planes, eps);
  done(group, group + 1, &moments.mean, &moments.m2);
}

template <class S> void ChannelGroups<S>::gradient_sums_of_columns(After after, const GradientDone& done) const {
  with_after(after, [&](auto what) {
    ChannelSums sums = column_gradient_sums<what>(batch_, constants_);
    done(0, count(), sums.first.data(), sums.second.data());
  });
}

template <class S>
template <After after>
void ChannelGroups<S>::gradient_sums_of_planes(std::size_t group, const Planes<S>& planes,
                                               const GradientDone& done) const {
  constexpr std::size_t kFew = 64;
  std::array<double, 2 * kFew> few;
  std::vector<double> many(size_ > kFew ? 2 * size_ : 0);
  double *const g = size_ > kFew ? many.data() : few.data(), *const gd = g + size_;
  for (std::size_t k = 0; k < size_; ++k) {
    const auto c = Constant<T>::of(constants_.rows(first_set(group) + k), 0);
    const auto sums = plane_gradient_sums<after>(planes.of_channel(k, size_), c);
    g[k] = sums[0];
    gd[k] = sums[1];
  }
  done(group, group + 1, g, gd);
}

template <class S>
void ChannelGroups<S>::map_forward_planes(std::size_t group, const Planes<S>& planes, bool streamed,
                                          After after) const {
  with_after(after, [&](auto what) {
    map_planes(planes, constants_, first_set(group), size_, streamed, forward_formula<what>);
  });
}

template <class S> void ChannelGroups<S>::map_forward_columns(After after) const {
  with_after(after, [&](auto what) { map_columns(batch_, 2, constants_, forward_formula<what>); });
}

template <class S>
void ChannelGroups<S>::map_backward_planes(std::size_t group, const Planes<S>& planes, bool streamed, After after,
                                           bool training) const {
  with_flag(training, [&](auto trained) {
    with_flag(after == After::relu, [&](auto relu) {
      constexpr After kAfter = relu ? After::relu : After::nothing;
      map_planes(planes, constants_, first_set(group), size_, streamed, backward_formula<kAfter, trained>);
    });
  });
}

template <class S>
void ChannelGroups<S>::map_backward_columns(const ChannelBatch<S>& batch, After after, bool training) const {
  with_flag(training, [&](auto trained) {
    with_flag(after == After::relu, [&](auto relu) {
      constexpr After kAfter = relu ? After::relu : After::nothing;
      map_columns(batch, 3, constants_, backward_formula<kAfter, trained>);
    });
  });
}

template class ChannelGroups<float>;
template class ChannelGroups<double>;
template class ChannelGroups<float16>;
template class ChannelGroups<bfloat16>;

}  // namespace fastopt
