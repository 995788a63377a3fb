/// Batch normalization.  Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.
///   x̂ = (x − mean)·rstd,  rstd = 1/√(var + ε),  y = x̂·w + b                     mean and biased var of each channel,
///   over m values dx = rstd·w·(dy − Σdy/m − x̂·Σ(dy x̂)/m);  dw = Σ dy·x̂,  db = Σ dy           in evaluation dx =
///   rstd·w·dy
/// Statistics are float64; backward takes mean and rstd from forward.  What is constant in a channel is computed in
/// double once, so that the passes over memory are
///   y = (x − high)·scale + shift           high the T nearest to the mean, scale = rstd·w,  shift = b − (mean −
///   high)·scale dx = dy·scale + shift − (x − high)·slope        slope = scale·rstd·Σ(dy x̂)/m,  shift = (mean −
///   high)·slope − scale·Σdy/m
///
/// A channel's values lie in memory in one of two ways, and sums are taken in the order in which memory has them:
///   planes   channel c of sample s is a contiguous row       (N, C, H, W)
///   columns  the channels of one place are a contiguous row  (N, H, W, C) and (N, C)
#pragma once

#include <cstddef>
#include <vector>

#include "core/parallel.hpp"
#include "core/rows.hpp"
#include "core/tile.hpp"
#include "norm/statistics.hpp"

namespace fastopt {

/// Where the values of each channel are.
struct Channels {
  std::size_t count;
  bool columns;
  Rows rows;           ///< planes: one a sample, of one channel; columns: one a place, of all channels
  std::size_t stride;  ///< planes: elements from a channel to the next one of the same sample

  std::size_t values() const { return rows.count() * (columns ? 1 : rows.width); }  ///< in a channel
  std::size_t total() const { return count * values(); }
};

/// The mean of each channel and the sum of the squares around it.
struct ChannelMoments {
  std::vector<double> mean, m2;
  explicit ChannelMoments(std::size_t channels) : mean(channels), m2(channels) {}
};

namespace detail {

/// Where a plane of one channel, or a row of all channels, begins in each of the arrays.
template <class T> struct Place {
  const T* x;
  const T* dy;
  T* to;
};

/// The arrays of one call.  dy and `to` may be null.
template <class T> struct Batch {
  const Channels& in;
  const T* x;
  const T* dy;
  const Channels* dy_in;
  T* to;
  const Channels* out;

  Place<T> place(std::size_t row, std::size_t channel) const {
    return {x + in.rows.offset(row) + channel * in.stride,
            dy ? dy + dy_in->rows.offset(row) + channel * dy_in->stride : nullptr,
            to + out->rows.offset(row) + channel * out->stride};
  }
  bool streamed() const {
    return worth_streaming(to, sizeof(T) * (in.columns ? in.count : in.rows.width), sizeof(T) * in.total());
  }
};

/// One thread reads or writes about 20 bytes a nanosecond.
template <class T> double cost(const Channels& x, double passes) {
  return passes * sizeof(T) * static_cast<double>(x.total()) / 20;
}

/// Calls body(channel, its planes) for every channel of planes, in parallel.
template <class T, class Body> void for_channels(const Batch<T>& batch, double passes, const Body& body) {
  parallel(threads_for(cost<T>(batch.in, passes)), [&](int thread, int threads) {
    const Range mine = share(batch.in.count, thread, threads);
    std::vector<Place<T>> planes(batch.in.rows.count());
    for (std::size_t channel = mine.begin; channel < mine.end; ++channel) {
      for (std::size_t sample = 0; sample < planes.size(); ++sample) planes[sample] = batch.place(sample, channel);
      body(channel, planes);
    }
  });
}

/// How the rows of columns are cut: enough rows to be worth their share of the statistics, few enough to stay in cache.
inline Chunks column_chunks(const Channels& x) {
  constexpr std::size_t kElements = 1 << 14, kFewest = 4 * kBlock;
  return {x.rows.count(), std::max(kFewest, kElements / std::max<std::size_t>(x.count, 1) / kBlock * kBlock)};
}

/// Calls body(chunk, its rows, first column, columns) for groups of columns of chunks of rows, in parallel.
template <class T, class Body> void for_column_groups(const Batch<T>& batch, double passes, const Body& body) {
  const Chunks chunks = column_chunks(batch.in);
  const std::size_t channels = batch.in.count, groups = (channels + kColumns - 1) / kColumns;
  parallel(threads_for(cost<T>(batch.in, passes)), [&](int thread, int threads) {
    const Range mine = share(chunks.count() * groups, thread, threads);
    std::vector<Place<T>> rows;
    for (std::size_t task = mine.begin; task < mine.end; ++task) {
      const std::size_t chunk = task / groups, column = task % groups * kColumns;
      if (rows.empty() || column == 0) {
        rows.resize(chunks.size(chunk));
        for (std::size_t row = 0; row < rows.size(); ++row) rows[row] = batch.place(chunks.begin(chunk) + row, 0);
      }
      body(chunk, rows, column, std::min(kColumns, channels - column));
    }
  });
}

/// The moments of one channel, whose planes stay in cache for the second sum.
template <class T> Moments plane_moments(const std::vector<Place<T>>& planes, std::size_t width) {
  const Place<T>* plane = planes.data();
  const auto n = static_cast<double>(planes.size() * width);
  Lanes<1> totals;
  add_rows<1, T>(
      totals, planes.size(), width,
      [=](std::size_t s, std::size_t i, auto number) { return std::array{load<decltype(number)>(plane[s].x + i)}; },
      [=](std::size_t s) { prefetch_row(plane[s].x, width); });
  const auto near = static_cast<T>(fold(totals)[0] / n);
  Lanes<2> lanes;
  add_rows<2, T>(
      lanes, planes.size(), width,
      [=](std::size_t s, std::size_t i, auto number) {
        const auto d = load<decltype(number)>(plane[s].x + i) - near;
        return std::array{d, d * d};
      },
      [](std::size_t) {});
  const auto [sum, squares] = fold(lanes);
  return Moments::around(static_cast<double>(near), sum, squares, n);
}

/// The moments of every column: of each chunk, in one pass around the mean of its first block (of which the squares
/// cannot be more than chunk ÷ block times larger than those around its own); then of all, merged in order as by Chan,
/// Golub & LeVeque 1983.
template <class T> ChannelMoments column_moments(const Batch<T>& batch) {
  const Chunks chunks = column_chunks(batch.in);
  const std::size_t channels = batch.in.count;
  ChannelMoments parts(chunks.count() * channels), all(channels);
  for_column_groups(
      batch, 1, [&](std::size_t chunk, const std::vector<Place<T>>& rows, std::size_t column, std::size_t columns) {
        const Place<T>* row = rows.data();
        const auto n = static_cast<double>(rows.size());
        const std::size_t some = std::min(kBlock, rows.size());
        ColumnSums<1> totals;
        add_columns<1, T>(totals, row[0].x + column, some, columns, [=](std::size_t r, std::size_t i, auto number) {
          return std::array{load<decltype(number)>(row[r].x + column + i)};
        });
        alignas(64) T near[kColumns];
        for (std::size_t i = 0; i < columns; ++i) near[i] = static_cast<T>(totals.of[0][i] / static_cast<double>(some));
        ColumnSums<2> sums;
        add_columns<2, T>(sums, row[0].x + column, rows.size(), columns,
                          [=, near = &near[0]](std::size_t r, std::size_t i, auto number) {
                            using V = decltype(number);
                            const V d = load<V>(row[r].x + column + i) - load<V>(near + i);
                            return std::array{d, d * d};
                          });
        double *mean = parts.mean.data() + chunk * channels + column, *m2 = parts.m2.data() + chunk * channels + column;
        for (std::size_t i = 0; i < columns; ++i) {
          const Moments moments = Moments::around(static_cast<double>(near[i]), sums.of[0][i], sums.of[1][i], n);
          mean[i] = moments.mean;
          m2[i] = moments.m2;
        }
      });

  double seen = 0;
  for (std::size_t chunk = 0; chunk < chunks.count(); ++chunk) {
    const auto n = static_cast<double>(chunks.size(chunk));
    const double share = n / (seen + n), weight = seen * share;
    const double *mean = parts.mean.data() + chunk * channels, *m2 = parts.m2.data() + chunk * channels;
    for (std::size_t i = 0; i < channels; ++i) {
      const double delta = mean[i] - all.mean[i];
      all.mean[i] += delta * share;
      all.m2[i] += m2[i] + delta * delta * weight;
    }
    seen += n;
  }
  return all;
}

/// What the passes over memory need of each channel: a row of numbers of the compute type for each of the names.
template <class T> class Constants {
 public:
  enum Name : std::size_t { high, scale, shift, slope, names };

  Constants(std::size_t channels, const double* mean, const double* rstd, const T* weight)
      : channels_(channels), table_(names * channels), mean_(mean), rstd_(rstd), weight_(weight) {}

  T* at(Name name) { return table_.data() + name * channels_; }
  const T* at(Name name) const { return table_.data() + name * channels_; }

  void set_high(Range range) {
    for (std::size_t c = range.begin; c < range.end; ++c) at(high)[c] = Centre<T>(mean_[c]).high;
  }
  void set_forward(Range range, const T* bias) {
    set_high(range);
    for (std::size_t c = range.begin; c < range.end; ++c) {
      at(scale)[c] = static_cast<T>(factor(c));
      at(shift)[c] = static_cast<T>((bias ? static_cast<double>(bias[c]) : 0) - low(c) * factor(c));
    }
  }
  void set_backward(std::size_t c, double mean_dy, double mean_dyx) {
    const double slope_ = factor(c) * rstd_[c] * mean_dyx;
    at(scale)[c] = static_cast<T>(factor(c));
    at(slope)[c] = static_cast<T>(slope_);
    at(shift)[c] = static_cast<T>(low(c) * slope_ - factor(c) * mean_dy);
  }

  double low(std::size_t c) const { return static_cast<double>(Centre<T>(mean_[c]).low); }

 private:
  double factor(std::size_t c) const { return weight_ ? rstd_[c] * static_cast<double>(weight_[c]) : rstd_[c]; }

  std::size_t channels_;
  std::vector<T> table_;
  const double *mean_, *rstd_;
  const T* weight_;
};

/// The constants of one channel, or of as many as V holds.
template <class V> struct Constant {
  V high, scale, shift, slope;

  template <class T> static Constant of(const Constants<T>& constants, std::size_t channel) {
    const auto get = [&](auto name) { return load<V>(constants.at(name) + channel); };
    return {get(constants.high), get(constants.scale), get(constants.shift), get(constants.slope)};
  }

  template <class X> X y(X x) const { return (x - high) * scale + shift; }
  template <class X> X dx(X dy, X x) const { return dy * scale + shift - (x - high) * slope; }
};

/// Elementwise work on the planes of one channel: to ← body(plane, i, the channel's constants, V).
template <class T, class Body>
void map_planes(const std::vector<Place<T>>& planes, std::size_t width, const Constants<T>& constants,
                std::size_t channel, bool streamed, const Body& body) {
  const auto c = Constant<T>::of(constants, channel);
  with_flag(streamed, [&](auto past_caches) {
    for (const Place<T> plane : planes)
      each<T>(width, [=](std::size_t i, auto number) { put<past_caches>(plane.to + i, body(plane, i, c, number)); });
    if constexpr (past_caches) stream_fence();
  });
}

/// Elementwise work on columns.  The constants of few columns stay in registers; those of many are in L1, so that
/// memory is read and written row by row.
template <class T, class Body>
void map_columns(const Batch<T>& batch, double passes, const Constants<T>& constants, const Body& body) {
  using V = Vector<T>;
  with_flag(batch.streamed(), [&](auto past_caches) {
    for_column_groups(batch, passes,
                      [&](std::size_t, const std::vector<Place<T>>& rows, std::size_t first, std::size_t columns) {
                        const auto map_rows = [&](std::size_t column, std::size_t count) {
                          for (const Place<T> row : rows)
                            each_from_line<T>(row.to + column, count, [=, &constants](std::size_t i, auto number) {
                              const auto c = Constant<decltype(number)>::of(constants, column + i);
                              put<past_caches>(row.to + column + i, body(row, column + i, c, number));
                            });
                        };
                        constexpr std::size_t kAtOnce = 4;
                        std::size_t column = first;
                        const std::size_t end = first + columns;
                        if (columns <= kLanes)
                          for (; column + kAtOnce * width<V> <= end; column += kAtOnce * width<V>) {
                            std::array<Constant<V>, kAtOnce> c;
                            unroll<kAtOnce>([&](auto u) { c[u] = Constant<V>::of(constants, column + u * width<V>); });
                            for (const Place<T> row : rows)
                              unroll<kAtOnce>([&](auto u) {
                                const std::size_t i = column + u * width<V>;
                                put<past_caches>(row.to + i, body(row, i, c[u], V{}));
                              });
                          }
                        if (column < end) map_rows(column, end - column);
                        if constexpr (past_caches) stream_fence();
                      });
  });
}

/// y of one place.
inline constexpr auto forward = [](const auto& place, std::size_t i, const auto& c, auto number) {
  return c.y(load<decltype(number)>(place.x + i));
};

/// dx of one place, in training and in evaluation.
template <bool Training>
inline constexpr auto backward = [](const auto& place, std::size_t i, const auto& c, auto number) {
  using V = decltype(number);
  if constexpr (Training)
    return c.dx(load<V>(place.dy + i), load<V>(place.x + i));
  else
    return load<V>(place.dy + i) * c.scale;
};

}  // namespace detail

/// Training: statistics of this batch.  x: as `in` says; weight, bias: (channels), or null; y: as `out` says, laid out
/// as x; mean, rstd: (channels).  Returns the moments of the channels, for the running statistics.
template <class T>
ChannelMoments batch_norm_training(const T* x, const Channels& in, const T* weight, const T* bias, double eps, T* y,
                                   const Channels& out, double* mean, double* rstd) {
  const FlushSubnormals environment;
  const detail::Batch<T> batch{in, x, nullptr, nullptr, y, &out};
  const auto m = static_cast<double>(in.values());
  ChannelMoments moments(in.count);
  detail::Constants<T> constants(in.count, mean, rstd, weight);
  const auto finish = [&](Range range) {
    for (std::size_t c = range.begin; c < range.end; ++c) {
      mean[c] = moments.mean[c];
      rstd[c] = rstd_of(moments.m2[c], m, eps);
    }
    constants.set_forward(range, bias);
  };
  if (in.columns) {
    moments = detail::column_moments(batch);
    finish({0, in.count});
    detail::map_columns(batch, 2, constants, detail::forward);
  } else {
    detail::for_channels(batch, 2, [&, streamed = batch.streamed()](std::size_t channel, const auto& planes) {
      const Moments of_channel = detail::plane_moments(planes, in.rows.width);
      moments.mean[channel] = of_channel.mean;
      moments.m2[channel] = of_channel.m2;
      finish({channel, channel + 1});
      detail::map_planes(planes, in.rows.width, constants, channel, streamed, detail::forward);
    });
  }
  return moments;
}

/// running ← (1 − momentum)·running + momentum·statistic, where the variance is the unbiased one.
template <class T>
void update_running(const ChannelMoments& moments, std::size_t values, double momentum, T* running_mean,
                    T* running_var) {
  const FlushSubnormals environment;
  const auto m = static_cast<double>(values);
  const auto update = [&](T& running, double statistic) {
    running = static_cast<T>((1 - momentum) * static_cast<double>(running) + momentum * statistic);
  };
  for (std::size_t channel = 0; channel < moments.mean.size(); ++channel) {
    update(running_mean[channel], moments.mean[channel]);
    update(running_var[channel], moments.m2[channel] / (m - 1));
  }
}

/// Evaluation: the statistics are the running ones, which mean and rstd report.
template <class T>
void batch_norm_evaluation(const T* x, const Channels& in, const T* running_mean, const T* running_var, const T* weight,
                           const T* bias, double eps, T* y, const Channels& out, double* mean, double* rstd) {
  const FlushSubnormals environment;
  const detail::Batch<T> batch{in, x, nullptr, nullptr, y, &out};
  for (std::size_t c = 0; c < in.count; ++c) {
    mean[c] = static_cast<double>(running_mean[c]);
    rstd[c] = rstd_of(static_cast<double>(running_var[c]), 1, eps);
  }
  detail::Constants<T> constants(in.count, mean, rstd, weight);
  constants.set_forward({0, in.count}, bias);
  if (in.columns) return detail::map_columns(batch, 2, constants, detail::forward);
  detail::for_channels(batch, 2, [&, streamed = batch.streamed()](std::size_t channel, const auto& planes) {
    detail::map_planes(planes, in.rows.width, constants, channel, streamed, detail::forward);
  });
}

/// dy, x: as `dy_in` and `in` say; mean, rstd: (channels), as forward returned them; dx: as `out` says; dweight, dbias:
/// (channels), null as weight is.  In evaluation (not training) the statistics were constants.
template <class T>
void batch_norm_backward(const T* dy, const Channels& dy_in, const T* x, const Channels& in, const double* mean,
                         const double* rstd, const T* weight, bool training, T* dx, const Channels& out, T* dweight,
                         T* dbias) {
  const FlushSubnormals environment;
  const detail::Batch<T> batch{in, x, dy, &dy_in, dx, &out};
  const auto m = static_cast<double>(in.values());
  detail::Constants<T> constants(in.count, mean, rstd, weight);
  constants.set_high({0, in.count});
  // From Σ dy and Σ dy (x − high): what the mean has beyond its nearest T is left to double.
  const auto finish = [&](std::size_t channel, double sum_dy, double sum_dyd) {
    const double sum_dyx = (sum_dyd - constants.low(channel) * sum_dy) * rstd[channel];
    if (dbias) dbias[channel] = static_cast<T>(sum_dy);
    if (dweight) dweight[channel] = static_cast<T>(sum_dyx);
    constants.set_backward(channel, sum_dy / m, sum_dyx / m);
  };
  const auto terms = [](auto dy_, auto x_, auto high) { return std::array{dy_, dy_ * (x_ - high)}; };

  if (in.columns) {
    const std::size_t channels = in.count, chunks = detail::column_chunks(in).count();
    std::vector<double> parts(2 * chunks * channels),
        sums(2 * channels);  // Σ dy, then Σ dy (x − high), of each chunk; of all
    detail::for_column_groups(
        batch, 2, [&](std::size_t chunk, const auto& rows, std::size_t column, std::size_t columns) {
          ColumnSums<2> of_chunk;
          add_columns<2, T>(of_chunk, rows[0].x + column, rows.size(), columns,
                            [=, high = constants.at(constants.high) + column, row = rows.data()](
                                std::size_t r, std::size_t i, auto number) {
                              using V = decltype(number);
                              return terms(load<V>(row[r].dy + column + i), load<V>(row[r].x + column + i),
                                           load<V>(high + i));
                            });
          for (std::size_t k = 0; k < 2; ++k)
            std::copy(of_chunk.of[k], of_chunk.of[k] + columns, parts.data() + (2 * chunk + k) * channels + column);
        });
    for (std::size_t chunk = 0; chunk < chunks; ++chunk)
      for (std::size_t i = 0; i < 2 * channels; ++i) sums[i] += parts[2 * chunk * channels + i];
    for (std::size_t channel = 0; channel < channels; ++channel)
      finish(channel, sums[channel], sums[channels + channel]);
    with_flag(training, [&](auto trained) { detail::map_columns(batch, 3, constants, detail::backward<trained>); });
    return;
  }

  detail::for_channels(batch, 3, [&, streamed = batch.streamed()](std::size_t channel, const auto& planes) {
    const std::size_t width = in.rows.width;
    Lanes<2> lanes;
    add_rows<2, T>(
        lanes, planes.size(), width,
        [=, plane = planes.data(), high = constants.at(constants.high)[channel]](std::size_t s, std::size_t i,
                                                                                 auto number) {
          using V = decltype(number);
          return terms(load<V>(plane[s].dy + i), load<V>(plane[s].x + i), high);
        },
        [=, plane = planes.data()](std::size_t s) {
          prefetch_row(plane[s].x, width);
          prefetch_row(plane[s].dy, width);
        });
    const auto [sum_dy, sum_dyd] = fold(lanes);
    finish(channel, sum_dy, sum_dyd);
    with_flag(training, [&](auto trained) {
      detail::map_planes(planes, width, constants, channel, streamed, detail::backward<trained>);
    });
  });
}

}  // namespace fastopt
