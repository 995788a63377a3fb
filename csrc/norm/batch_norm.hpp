/// Batch normalization.  Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.
///   x̂ = (x − mean)·rstd,  rstd = 1/√(var + ε),  y = x̂·w + b                     mean and biased var of each channel, over m values
///   dx = rstd·w·(dy − Σdy/m − x̂·Σ(dy x̂)/m);  dw = Σ dy·x̂,  db = Σ dy           in evaluation dx = rstd·w·dy
/// Statistics are float64; backward takes mean and rstd from forward and recomputes x̂.
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
  std::size_t offset(std::size_t channel, std::size_t sample) const { return rows.offset(sample) + channel * stride; }
};

namespace detail {

/// Rows in a chunk of columns: enough to be worth its share of the statistics, few enough to stay in cache.
inline Chunks column_chunks(const Channels& x) {
  constexpr std::size_t kElements = 1 << 14, kFewest = 4 * kBlock;
  return {x.rows.count(), std::max(kFewest, kElements / std::max<std::size_t>(x.count, 1) / kBlock * kBlock)};
}

/// One nanosecond of one thread reads or writes about 20 bytes.
template <class T> double cost(const Channels& x, double passes) {
  return passes * sizeof(T) * static_cast<double>(x.count) * static_cast<double>(x.values()) / 20;
}

/// K sums over the planes of one channel: plane(sample) gives the terms(i, V) of one plane.
template <std::size_t K, class T, class Plane> std::array<double, K> plane_sums(const Channels& x, const Plane& plane) {
  Lanes<K> lanes;
  for (std::size_t sample = 0, samples = x.rows.count(); sample < samples; ++sample) add_row<K, T>(lanes, x.rows.width, plane(sample));
  return fold(lanes);
}

/// Calls body(chunk, the chunk's rows, first channel, channels) for tiles of columns of chunks of rows, in parallel.
/// `place(row)` is where a row of the memory that the body works on begins.
template <class T, class Place, class Body>
void for_column_tiles(const Channels& x, const Chunks& chunks, double passes, const Place& place, const Body& body) {
  const std::size_t tiles = (x.count + kLanes - 1) / kLanes;
  parallel(threads_for(cost<T>(x, passes)), [&](int thread, int threads) {
    const Range mine = share(chunks.count() * tiles, thread, threads);
    std::vector<decltype(place(0))> rows;
    for (std::size_t task = mine.begin; task < mine.end; ++task) {
      const std::size_t chunk = task / tiles, channel = task % tiles * kLanes;
      if (rows.empty() || channel == 0) {
        rows.clear();
        for (std::size_t row = 0; row < chunks.size(chunk); ++row) rows.push_back(place(chunks.begin(chunk) + row));
      }
      body(chunk, rows, channel, std::min(kLanes, x.count - channel));
    }
  });
}

/// K sums of each of `width` <= 64 columns over `rows` rows: terms(row, column, V).
template <std::size_t K, class T, class Terms> void add_columns(Lanes<K>& lanes, std::size_t rows, std::size_t width, const Terms& terms) {
  add_tiles<K, T>(lanes, rows, width == kLanes ? rows : 0, width, terms);
}

/// Calls body(first channel, end) in parallel over the channels of planes.
template <class T, class Body> void for_channels(const Channels& x, double passes, const Body& body) {
  parallel(threads_for(cost<T>(x, passes)), [&](int thread, int threads) {
    const Range mine = share(x.count, thread, threads);
    for (std::size_t channel = mine.begin; channel < mine.end; ++channel) body(channel);
  });
}

/// Calls body(row) in parallel over the rows of columns.
template <class T, class Body> void for_rows(const Channels& x, double passes, const Body& body) {
  parallel(threads_for(cost<T>(x, passes)), [&](int thread, int threads) {
    const Range mine = share(x.rows.count(), thread, threads);
    for (std::size_t row = mine.begin; row < mine.end; ++row) body(row);
  });
}

/// The moments of one channel of planes, whose planes stay in cache for the second sum.
template <class T> Moments plane_moments(const T* x, const Channels& in, std::size_t channel) {
  const auto at = [&](std::size_t sample) { return x + in.offset(channel, sample); };
  const auto n = static_cast<double>(in.values());
  const auto [total] = plane_sums<1, T>(in, [&](std::size_t sample) {
    return [from = at(sample)](std::size_t i, auto number) { return std::array{load<decltype(number)>(from + i)}; };
  });
  const auto near = static_cast<T>(total / n);
  const auto [sum, squares] = plane_sums<2, T>(in, [&](std::size_t sample) {
    return [from = at(sample), near](std::size_t i, auto number) {
      const auto d = load<decltype(number)>(from + i) - near;
      return std::array{d, d * d};
    };
  });
  return Moments::around(static_cast<double>(near), sum, squares, n);
}

/// The moments of every column: of each chunk, around its own mean, while it is in cache; then of all.
template <class T> std::vector<Moments> column_moments(const T* x, const Channels& in) {
  const Chunks chunks = column_chunks(in);
  std::vector<Moments> parts(chunks.count() * in.count);
  const auto place = [&](std::size_t row) { return x + in.rows.offset(row); };
  for_column_tiles<T>(in, chunks, 1, place, [&](std::size_t chunk, const auto& rows, std::size_t channel, std::size_t width) {
    const auto n = static_cast<double>(rows.size());
    Lanes<1> totals;
    add_columns<1, T>(totals, rows.size(), width, [&](std::size_t row, std::size_t i, auto number) {
      return std::array{load<decltype(number)>(rows[row] + channel + i)};
    });
    alignas(64) T near[kLanes] = {};
    for (std::size_t i = 0; i < width; ++i) near[i] = static_cast<T>(totals.of[0][i] / n);
    Lanes<2> sums;
    add_columns<2, T>(sums, rows.size(), width, [&](std::size_t row, std::size_t i, auto number) {
      using V = decltype(number);
      const V d = load<V>(rows[row] + channel + i) - load<V>(near + i);
      return std::array{d, d * d};
    });
    for (std::size_t i = 0; i < width; ++i)
      parts[chunk * in.count + channel + i] = Moments::around(static_cast<double>(near[i]), sums.of[0][i], sums.of[1][i], n);
  });

  if (chunks.count() == 0) return std::vector<Moments>(in.count);
  std::vector<Moments> moments(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(in.count));
  double seen = static_cast<double>(chunks.size(0));
  for (std::size_t chunk = 1; chunk < chunks.count(); ++chunk) {
    const auto n = static_cast<double>(chunks.size(chunk));
    const double share_of_chunk = n / (seen + n), weight = seen * share_of_chunk;
    for (std::size_t channel = 0; channel < in.count; ++channel) moments[channel].merge(parts[chunk * in.count + channel], share_of_chunk, weight);
    seen += n;
  }
  return moments;
}

/// What the elementwise passes need of each channel, in the compute type: a row of numbers for each of the names.
template <class T> class Constants {
 public:
  enum Name : std::size_t { high, low, rstd, scale, bias, mean_dy, mean_dyx, names };

  explicit Constants(std::size_t channels) : channels_(channels), table_(names * channels) {}

  void set(std::size_t channel, double mean, double rstd_, const T* weight) {
    const Centre<T> centre(mean);
    at(high)[channel] = centre.high;
    at(low)[channel] = centre.low;
    at(rstd)[channel] = static_cast<T>(rstd_);
    at(scale)[channel] = static_cast<T>(weight ? rstd_ * static_cast<double>(weight[channel]) : rstd_);
  }

  T* at(Name name) { return table_.data() + name * channels_; }
  const T* at(Name name) const { return table_.data() + name * channels_; }

  /// Of one channel, for planes; and of as many as V holds, for columns.
  auto of(std::size_t channel) const {
    return [this, channel](Name name) { return at(name)[channel]; };
  }
  template <class V> auto of(std::size_t channel, V) const {
    return [this, channel](Name name) { return load<V>(at(name) + channel); };
  }

 private:
  std::size_t channels_;
  std::vector<T> table_;
};

/// y = (x − mean)·scale + bias
template <class T, class V, class Of> V normalized(V x, const Of& of, bool biased) {
  using C = Constants<T>;
  const V y = (x - of(C::high) - of(C::low)) * of(C::scale);
  return biased ? y + of(C::bias) : y;
}

template <class T, class V, class Of> V xhat_of(V x, const Of& of) {
  using C = Constants<T>;
  return (x - of(C::high) - of(C::low)) * of(C::rstd);
}

/// dx = (dy − Σdy/m − x̂·Σ(dy x̂)/m)·scale
template <class T, class V, class Of> V gradient(V dy, V x, const Of& of) {
  using C = Constants<T>;
  return (dy - of(C::mean_dy) - xhat_of<T>(x, of) * of(C::mean_dyx)) * of(C::scale);
}

}  // namespace detail

namespace detail {

template <class T> void normalize_planes(const T* x, const Channels& in, T* y, const Channels& out, const Constants<T>& constants, bool biased, std::size_t channel) {
  const auto of = constants.of(channel);
  for (std::size_t sample = 0, samples = in.rows.count(); sample < samples; ++sample) {
    const T* from = x + in.offset(channel, sample);
    T* to = y + out.offset(channel, sample);
    each<T>(in.rows.width, [&](std::size_t i, auto number) { store(to + i, normalized<T>(load<decltype(number)>(from + i), of, biased)); });
  }
}

template <class T> void normalize_columns(const T* x, const Channels& in, T* y, const Channels& out, const Constants<T>& constants, bool biased) {
  for_rows<T>(in, 2, [&](std::size_t row) {
    const T* from = x + in.rows.offset(row);
    T* to = y + out.rows.offset(row);
    each<T>(in.count, [&](std::size_t c, auto number) {
      store(to + c, normalized<T>(load<decltype(number)>(from + c), constants.of(c, number), biased));
    });
  });
}

}  // namespace detail

/// Training: statistics of this batch.  x: as `in` says; weight, bias: (channels), or null; y: as `out` says, laid out as x;
/// mean, rstd: (channels).  Returns the moments of the channels, for the running statistics.
template <class T>
std::vector<Moments> batch_norm_training(const T* x, const Channels& in, const T* weight, const T* bias, double eps, T* y, const Channels& out,
                                         double* mean, double* rstd) {
  const FlushSubnormals environment;
  const auto m = static_cast<double>(in.values());
  std::vector<Moments> moments(in.count);
  detail::Constants<T> constants(in.count);
  if (bias) std::copy(bias, bias + in.count, constants.at(constants.bias));
  const auto finish = [&](std::size_t channel) {
    mean[channel] = moments[channel].mean;
    rstd[channel] = rstd_of(moments[channel].m2 / m, eps);
    constants.set(channel, mean[channel], rstd[channel], weight);
  };
  if (in.columns) {
    moments = detail::column_moments(x, in);
    for (std::size_t channel = 0; channel < in.count; ++channel) finish(channel);
    detail::normalize_columns(x, in, y, out, constants, bias != nullptr);
  } else {
    detail::for_channels<T>(in, 2, [&](std::size_t channel) {
      moments[channel] = detail::plane_moments(x, in, channel);
      finish(channel);
      detail::normalize_planes(x, in, y, out, constants, bias != nullptr, channel);
    });
  }
  return moments;
}

/// running ← (1 − momentum)·running + momentum·statistic, where the variance is the unbiased one.
template <class T> void update_running(const std::vector<Moments>& moments, std::size_t values, double momentum, T* running_mean, T* running_var) {
  const FlushSubnormals environment;
  const auto m = static_cast<double>(values);
  const auto update = [&](T& running, double statistic) {
    running = static_cast<T>((1 - momentum) * static_cast<double>(running) + momentum * statistic);
  };
  for (std::size_t channel = 0; channel < moments.size(); ++channel) {
    update(running_mean[channel], moments[channel].mean);
    update(running_var[channel], moments[channel].m2 / (m - 1));
  }
}

/// Evaluation: the statistics to normalize with.
template <class T> void batch_norm_statistics(const T* running_mean, const T* running_var, double eps, std::size_t channels, double* mean, double* rstd) {
  const FlushSubnormals environment;
  for (std::size_t channel = 0; channel < channels; ++channel) {
    mean[channel] = static_cast<double>(running_mean[channel]);
    rstd[channel] = rstd_of(static_cast<double>(running_var[channel]), eps);
  }
}

/// Evaluation: mean and rstd are given.
template <class T>
void batch_norm_evaluation(const T* x, const Channels& in, const T* weight, const T* bias, const double* mean, const double* rstd, T* y, const Channels& out) {
  const FlushSubnormals environment;
  detail::Constants<T> constants(in.count);
  if (bias) std::copy(bias, bias + in.count, constants.at(constants.bias));
  for (std::size_t channel = 0; channel < in.count; ++channel) constants.set(channel, mean[channel], rstd[channel], weight);
  if (in.columns) return detail::normalize_columns(x, in, y, out, constants, bias != nullptr);
  detail::for_channels<T>(in, 2, [&](std::size_t channel) { detail::normalize_planes(x, in, y, out, constants, bias != nullptr, channel); });
}

/// dy, x: as `dy_in` and `in` say; mean, rstd: (channels), as forward returned them; dx: as `out` says; dweight, dbias:
/// (channels), or null.  In evaluation (not training) the statistics were constants.
template <class T>
void batch_norm_backward(const T* dy, const Channels& dy_in, const T* x, const Channels& in, const double* mean, const double* rstd, const T* weight,
                         bool training, T* dx, const Channels& out, T* dweight, T* dbias) {
  using Constants = detail::Constants<T>;
  const FlushSubnormals environment;
  Constants constants(in.count);
  for (std::size_t channel = 0; channel < in.count; ++channel) constants.set(channel, mean[channel], rstd[channel], weight);
  const auto m = static_cast<double>(in.values());
  const auto finish = [&](std::size_t channel, double sum_dy, double sum_dyx) {
    if (dbias) dbias[channel] = static_cast<T>(sum_dy);
    if (dweight) dweight[channel] = static_cast<T>(sum_dyx);
    constants.at(Constants::mean_dy)[channel] = training ? static_cast<T>(sum_dy / m) : 0;
    constants.at(Constants::mean_dyx)[channel] = training ? static_cast<T>(sum_dyx / m) : 0;
  };
  const bool sums = training || dweight || dbias;

  if (in.columns) {
    if (sums) {
      const Chunks chunks = detail::column_chunks(in);
      std::vector<std::array<double, 2>> parts(chunks.count() * in.count);
      const auto place = [&](std::size_t row) { return std::pair(x + in.rows.offset(row), dy + dy_in.rows.offset(row)); };
      detail::for_column_tiles<T>(in, chunks, 2, place, [&](std::size_t chunk, const auto& rows, std::size_t channel, std::size_t width) {
        Lanes<2> lanes;
        detail::add_columns<2, T>(lanes, rows.size(), width, [&](std::size_t row, std::size_t i, auto number) {
          using V = decltype(number);
          const V d = load<V>(rows[row].second + channel + i);
          return std::array{d, d * detail::xhat_of<T>(load<V>(rows[row].first + channel + i), constants.of(channel + i, number))};
        });
        for (std::size_t i = 0; i < width; ++i) parts[chunk * in.count + channel + i] = {lanes.of[0][i], lanes.of[1][i]};
      });
      for (std::size_t chunk = 1; chunk < chunks.count(); ++chunk)
        for (std::size_t i = 0; i < in.count; ++i)
          for (std::size_t k = 0; k < 2; ++k) parts[i][k] += parts[chunk * in.count + i][k];
      for (std::size_t channel = 0; channel < in.count; ++channel) finish(channel, parts[channel][0], parts[channel][1]);
    }
    return detail::for_rows<T>(in, 3, [&](std::size_t row) {
      const T *from = x + in.rows.offset(row), *dy_from = dy + dy_in.rows.offset(row);
      T* to = dx + out.rows.offset(row);
      each<T>(in.count, [&](std::size_t c, auto number) {
        using V = decltype(number);
        store(to + c, detail::gradient<T>(load<V>(dy_from + c), load<V>(from + c), constants.of(c, number)));
      });
    });
  }

  detail::for_channels<T>(in, 3, [&](std::size_t channel) {
    const auto of = constants.of(channel);
    if (sums) {
      const auto [sum_dy, sum_dyx] = detail::plane_sums<2, T>(in, [&](std::size_t sample) {
        return [=, from = x + in.offset(channel, sample), dy_from = dy + dy_in.offset(channel, sample)](std::size_t i, auto number) {
          using V = decltype(number);
          const V d = load<V>(dy_from + i);
          return std::array{d, d * detail::xhat_of<T>(load<V>(from + i), of)};
        };
      });
      finish(channel, sum_dy, sum_dyx);
    }
    for (std::size_t sample = 0; sample < in.rows.count(); ++sample) {
      const T *from = x + in.offset(channel, sample), *dy_from = dy + dy_in.offset(channel, sample);
      T* to = dx + out.offset(channel, sample);
      each<T>(in.rows.width, [&](std::size_t i, auto number) {
        using V = decltype(number);
        store(to + i, detail::gradient<T>(load<V>(dy_from + i), load<V>(from + i), of));
      });
    }
  });
}

}  // namespace fastopt
