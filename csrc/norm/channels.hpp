/// What the normalizations of channels share: BatchNorm, GroupNorm, InstanceNorm and weight normalization.
///
/// What is constant in a channel is computed in double once, so that the passes over memory are
///   y  = (x − high)·scale + shift                      high the T nearest to the mean
///   dx = dy·scale + offset − (x − high)·slope
///
/// A channel's values lie in memory in one of two ways, and sums are taken in the order in which memory has them:
///   planes   channel c of sample s is a contiguous row       (N, C, H, W)
///   columns  the channels of one place are a contiguous row  (N, H, W, C) and (N, C)
/// Planes stay in cache between the passes.  Columns are summed chunk by chunk; the second pass takes the chunks in the
/// opposite order, beginning with those that are still in cache.
///
/// Inputs may lie otherwise.  Then each pass copies as much of them to scratch memory as it takes at once: of planes
/// the numbers of one block of sums, of columns those of one task.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/reduce.hpp"
#include "core/rows.hpp"
#include "core/scratch.hpp"
#include "core/threads/parallel.hpp"
#include "norm/statistics.hpp"

namespace fastopt {

/// Where the values of each channel are.
struct Channels {
  std::size_t count;
  bool columns;
  Rows rows;              ///< planes: one a sample, of one channel; columns: one a place, of all channels
  std::ptrdiff_t stride;  ///< planes: elements from a channel to the next one of the same sample

  std::size_t values() const { return rows.count() * (columns ? 1 : rows.width); }  ///< in a channel
  std::size_t total() const { return count * values(); }
};

/// What stands behind a normalization in the same pass.
enum class After {
  nothing,
  relu,      ///< y = max(·, 0)
  add_relu,  ///< y = max(· + residual, 0)
};

/// Calls body with an integral constant of what it is.
template <class Body> void with_after(After after, Body&& body) {
  if (after == After::nothing) return body(std::integral_constant<After, After::nothing>{});
  if (after == After::relu) return body(std::integral_constant<After, After::relu>{});
  body(std::integral_constant<After, After::add_relu>{});
}

namespace detail {

/// An array, and where its channels are.
template <class S> struct Laid {
  S* data = nullptr;
  const Channels* in = nullptr;

  S* at(std::size_t row, std::size_t channel) const {
    return data ? data + (in->rows.offset(row) + static_cast<std::ptrdiff_t>(channel) * in->stride) : nullptr;
  }
  /// How a row lies that has to be copied; null where there is none.
  const Rows* apart() const { return data && !in->rows.contiguous() ? &in->rows : nullptr; }
  /// Where `count` rows begin, from number `first` on.
  void list(std::size_t first, std::size_t count, S** to) const {
    if (!data) return;
    if (in->rows.axes.size() > 1) {
      for (std::size_t row = 0; row < count; ++row) to[row] = at(first + row, 0);
    } else {
      const std::ptrdiff_t stride = in->rows.axes.empty() ? 0 : in->rows.axes[0].stride;
      for (std::size_t row = 0; row < count; ++row) to[row] = data + static_cast<std::ptrdiff_t>(first + row) * stride;
    }
  }
};

template <class S> struct Apart;

/// Where planes of channels, or rows of all channels, begin in each of the arrays.
template <class S> class Places {
 public:
  explicit Places(std::size_t most) : x(most), dy(most), more(most), to(most), also_to(most) {}

  std::vector<const S*> x, dy, more;
  std::vector<S*> to, also_to;
  std::size_t size = 0;
  Apart<S>* apart = nullptr;  ///< where planes are not contiguous

  /// One of them.
  struct Place {
    const S *x, *dy, *more;
    S *to, *also_to;
  };
  Place operator[](std::size_t i) const { return {x[i], dy[i], more[i], to[i], also_to[i]}; }
};

/// What planes need that are not contiguous in all of the inputs: how they lie in those that are to be copied, and what
/// has been copied.
template <class S> struct Apart {
  static constexpr std::size_t kMost = kBlock * kLanes;  ///< elements that are copied at once, of each array

  const Rows *x, *dy, *more;  ///< null for the others
  Scratch<S> room;
  Places<S> piece;

  Apart(const Rows* of_x, const Rows* of_dy, const Rows* of_more)
      : x(of_x), dy(of_dy), more(of_more), room(any() ? 3 * kMost : 0), piece(any() ? kBlock : 0) {}
  bool any() const { return x || dy || more; }
};

/// All of some places.
template <class S> struct All {
  const Places<S>* of;
  std::size_t size;
  typename Places<S>::Place operator[](std::size_t i) const { return (*of)[i]; }
  static All all(const Places<S>& of) { return {&of, of.size}; }
};

/// Some of them: `size` places, `step` apart.
template <class S> struct Every {
  const Places<S>* of;
  std::size_t first, step, size;
  typename Places<S>::Place operator[](std::size_t i) const { return (*of)[first + i * step]; }
  static Every all(const Places<S>& of) { return {&of, 0, 1, of.size}; }
};

/// Planes as sums and maps take them: all at once where they are contiguous; otherwise in pieces, which are copied.  A
/// piece is one block of add_rows: a part of a plane, or some short planes.
template <class Planes> class Pieces {
 public:
  Pieces(const Planes& planes, std::size_t width) : planes_(planes), width_(width), piece_{planes, 0, width} {}

  struct Piece {
    Planes planes;
    std::size_t row;      ///< number of the first of them
    std::size_t columns;  ///< numbers in each
  };
  /// Goes on to the first or next piece; false where there is none.
  bool next() { return planes_.of->apart ? copy_next() : !std::exchange(begun_, true); }
  Piece operator*() const { return piece_; }

 private:
  [[gnu::noinline]] bool copy_next() {
    auto& apart = *planes_.of->apart;
    if (begun_) first_ += piece_.columns;
    if (first_ >= width_) {
      piece_.row += begun_ ? piece_.planes.size : 0;
      first_ = 0;
    }
    begun_ = true;
    if (width_ == 0 || piece_.row >= planes_.size) return false;
    const std::size_t tiles = (width_ + kLanes - 1) / kLanes;
    const std::size_t rows = std::min(std::max<std::size_t>(1, kBlock / tiles), planes_.size - piece_.row);
    piece_.columns = std::min(apart.kMost, width_ - first_);
    auto* room = apart.room.data();
    const auto contiguous = [&](const auto* from, const Rows* lies) {
      if (!from || !lies) return from ? from + first_ : nullptr;
      auto* const to = room;
      lies->pack(from, first_, piece_.columns, to);
      room += piece_.columns;
      return static_cast<decltype(from)>(to);
    };
    for (std::size_t r = 0; r < rows; ++r) {
      const auto place = planes_[piece_.row + r];
      apart.piece.x[r] = contiguous(place.x, apart.x);
      apart.piece.dy[r] = contiguous(place.dy, apart.dy);
      apart.piece.more[r] = contiguous(place.more, apart.more);
      apart.piece.to[r] = place.to ? place.to + first_ : nullptr;
      apart.piece.also_to[r] = place.also_to ? place.also_to + first_ : nullptr;
    }
    apart.piece.size = rows;
    piece_.planes = Planes::all(apart.piece);
    return true;
  }

  const Planes planes_;
  const std::size_t width_;
  std::size_t first_ = 0;
  bool begun_ = false;
  Piece piece_;
};

/// The arrays of one pass; all but x may be missing.  Rows belong to samples, so many to each, that are worked on by
/// themselves; in a BatchNorm all belong to one.
template <class S> struct Batch {
  const Channels& in;
  Laid<const S> x;
  std::size_t samples = 1;
  Laid<const S> dy = {}, more = {};  ///< more: the residual, or the y of forward
  Laid<S> to = {}, also_to = {};

  std::size_t rows() const { return samples ? in.rows.count() / samples : 0; }  ///< of a sample
  std::size_t sets() const { return samples * in.count; }                       ///< channels of samples
  /// Place number `number` is the plane of a channel in a row.
  void place(Places<S>& places, std::size_t number, std::size_t row, std::size_t channel) const {
    places.x[number] = x.at(row, channel);
    places.dy[number] = dy.at(row, channel);
    places.more[number] = more.at(row, channel);
    places.to[number] = to.at(row, channel);
    places.also_to[number] = also_to.at(row, channel);
  }
  Apart<S> apart() const { return Apart<S>(x.apart(), dy.apart(), more.apart()); }
  /// The places are `count` rows of columns, from number `first` on.
  void place_rows(Places<S>& places, std::size_t first, std::size_t count) const {
    x.list(first, count, places.x.data());
    dy.list(first, count, places.dy.data());
    more.list(first, count, places.more.data());
    to.list(first, count, places.to.data());
    also_to.list(first, count, places.also_to.data());
    places.size = count;
  }
  /// Whether `to` is better stored past the caches by a pass over so many arrays: also where these together leave no
  /// room for results.
  bool streamed(std::size_t passes) const {
    return worth_streaming(to.data, sizeof(S) * (in.columns ? in.count : in.rows.width),
                           passes * sizeof(S) * in.total());
  }
};

/// One thread reads or writes about 20 bytes a nanosecond.
template <class S> double cost(const Channels& x, std::size_t passes) {
  return static_cast<double>(passes * sizeof(S) * x.total()) / 20;
}

/// Calls body(set, its planes) for sets of so many planes each, in parallel; row_and_channel(set, k) are those of plane
/// k of a set.
template <class S, class Where, class Body>
void for_planes(const Batch<S>& batch, std::size_t sets, std::size_t planes_of_set, std::size_t passes,
                const Where& row_and_channel, const Body& body) {
  parallel(threads_for(cost<S>(batch.in, passes)), [&](int thread, int threads) {
    const Range mine = share(sets, thread, threads);
    Places<S> planes(planes_of_set);
    planes.size = planes_of_set;
    Apart<S> apart = batch.apart();
    if (apart.any()) planes.apart = &apart;
    for (std::size_t set = mine.begin; set < mine.end; ++set) {
      if (planes.apart) apart.dy = batch.dy.apart();  // which the body may have replaced
      for (std::size_t k = 0; k < planes_of_set; ++k) {
        const auto [row, channel] = row_and_channel(set, k);
        batch.place(planes, k, row, channel);
      }
      body(set, planes);
    }
    stream_fence();
  });
}

/// As for_planes, of channels: their planes are those of all samples.
template <class S, class Body> void for_channels(const Batch<S>& batch, std::size_t passes, const Body& body) {
  for_planes(
      batch, batch.in.count, batch.in.rows.count(), passes,
      [](std::size_t channel, std::size_t row) { return std::pair(row, channel); }, body);
}

/// How the rows of a sample are cut: enough to be worth their share of the statistics, few enough to stay in cache.
template <class S> Chunks column_chunks(const Batch<S>& batch) {
  constexpr std::size_t kElements = 1 << 14, kFewest = 4 * kBlock;
  return {batch.rows(), std::max(kFewest, kElements / std::max<std::size_t>(batch.in.count, 1) / kBlock * kBlock)};
}

/// A chunk of rows of a sample, and some of its columns.
template <class S> struct ColumnTask {
  std::size_t sample, chunk;
  const Places<S>& rows;
  std::size_t first, columns;
};

enum class Order { forwards, backwards };

/// Columns of some rows, copied to scratch memory.
template <class S> class PackedColumns {
 public:
  /// Room for `columns` of `channels` columns of so many rows of up to three arrays.
  PackedColumns(bool any, std::size_t rows, std::size_t columns, std::size_t channels)
      : of_array_(rows * columns + channels), room_(any ? 3 * of_array_ : 0) {}

  void pack(const Batch<S>& batch, Places<S>& places, std::size_t first, std::size_t columns) const {
    pack(places.x.data(), batch.x.apart(), places.size, first, columns, 0);
    pack(places.dy.data(), batch.dy.apart(), places.size, first, columns, 1);
    pack(places.more.data(), batch.more.apart(), places.size, first, columns, 2);
  }

 private:
  /// A few columns of all rows at a time, as it may be the elements of a column that are neighbours.  Column `first` of
  /// row 0 has the number `first`, too, in the copy: so it is found where it would be in the row.
  void pack(const S** rows, const Rows* apart, std::size_t count, std::size_t first, std::size_t columns,
            std::size_t array) const {
    if (!apart) return;
    constexpr std::size_t kFew = 16;
    S* const to = room_.data() + array * of_array_;
    for (std::size_t column = 0; column < columns; column += kFew)
      for (std::size_t row = 0; row < count; ++row)
        apart->pack(rows[row], first + column, std::min(kFew, columns - column), to + first + row * columns + column);
    for (std::size_t row = 0; row < count; ++row) rows[row] = to + row * columns;
  }

  std::size_t of_array_;
  const Scratch<S> room_;
};

/// Calls body(task) for groups of columns of chunks of rows, in parallel.
template <class S, class Body>
void for_column_tasks(const Batch<S>& batch, std::size_t passes, Order order, const Body& body) {
  const Chunks chunks = column_chunks(batch);
  const std::size_t channels = batch.in.count, groups = (channels + kColumns - 1) / kColumns;
  parallel(threads_for(cost<S>(batch.in, passes)), [&](int thread, int threads) {
    const Range mine = share(batch.samples * chunks.count() * groups, thread, threads);
    Places<S> rows(std::min(chunks.rows, batch.rows()));
    const bool apart = batch.x.apart() || batch.dy.apart() || batch.more.apart();
    const PackedColumns<S> packed(apart, rows.x.size(), std::min(kColumns, channels), channels);
    std::size_t rows_of = ~std::size_t{};
    for (std::size_t i = mine.begin; i < mine.end; ++i) {
      const std::size_t task = order == Order::forwards ? i : mine.end - 1 - (i - mine.begin);
      const std::size_t group = task % groups, piece = task / groups, chunk = piece % chunks.count(),
                        sample = piece / chunks.count();
      if (rows_of != piece || apart) {
        batch.place_rows(rows, sample * batch.rows() + chunks.begin(chunk), chunks.size(chunk));
        rows_of = piece;
      }
      const std::size_t first = group * kColumns, columns = std::min(kColumns, channels - first);
      if (apart) packed.pack(batch, rows, first, columns);
      body(ColumnTask<S>{sample, chunk, rows, first, columns});
    }
    stream_fence();
  });
}

}  // namespace detail

/// The mean of each channel (of each sample) and the sum of the squares around it.
struct ChannelMoments {
  std::vector<double> mean, m2;
  explicit ChannelMoments(std::size_t sets) : mean(sets), m2(sets) {}
};

/// Two sums for each channel (of each sample).
struct ChannelSums {
  std::vector<double> first, second;
};

namespace detail {

/// K sums over planes: terms(plane, i, V).
template <std::size_t K, class T, class Planes, class Terms, class Ahead>
std::array<double, K> plane_sums(const Planes& planes, std::size_t width, const Terms& terms, const Ahead& ahead) {
  Lanes<K> lanes;
  for (Pieces<Planes> pieces(planes, width); pieces.next();)
    add_rows<K, T>(
        lanes, (*pieces).planes.size, (*pieces).columns,
        [&, some = (*pieces).planes](std::size_t p) {
          return [terms, plane = some[p]](std::size_t i, auto number) { return terms(plane, i, number); };
        },
        [&, some = (*pieces).planes](std::size_t p) { ahead(some[p]); });
  return fold(lanes);
}
template <std::size_t K, class T, class S, class Terms, class Ahead>
std::array<double, K> plane_sums(const Places<S>& planes, std::size_t width, const Terms& terms, const Ahead& ahead) {
  return plane_sums<K, T>(All<S>::all(planes), width, terms, ahead);
}

/// The sums of x − near and of its squares.
template <class S>
std::array<double, 2> plane_sums_around(const Places<S>& planes, std::size_t width, Computed<S> near) {
  return plane_sums<2, Computed<S>>(
      planes, width,
      [=](const auto& plane, std::size_t i, auto number) {
        const auto d = load<decltype(number)>(plane.x + i) - near;
        return std::array{d, d * d};
      },
      [=](const auto& plane) { prefetch_row(plane.x, width); });
}

/// Calls f for each number of planes, one plane after the other.
template <class S, class F> void visit_planes(const Places<S>& planes, std::size_t width, const F& f) {
  for (Pieces<All<S>> pieces(All<S>::all(planes), width); pieces.next();) {
    const auto piece = *pieces;
    for (std::size_t k = 0; k < piece.planes.size; ++k)
      for (std::size_t i = 0; i < piece.columns; ++i) f(static_cast<double>(load<Computed<S>>(piece.planes[k].x + i)));
  }
}

/// Calls f for each number of a column, one row after the other.
template <class S, class F> void visit_column(const Batch<S>& batch, std::size_t channel, const F& f) {
  for (std::size_t row = 0; row < batch.rows(); ++row) {
    S value;
    batch.in.rows.pack(batch.x.at(row, 0), channel, 1, &value);
    f(static_cast<double>(load<Computed<S>>(&value)));
  }
}

/// The moments of one set of planes, which stay in cache.
template <class S> Moments plane_moments(const Places<S>& planes, std::size_t width, double eps) {
  using T = Computed<S>;
  std::array<S, kNear> few;
  const S* x = planes.size == 0 ? nullptr : planes.x[0];
  if (x && planes.apart && planes.apart->x) {
    planes.apart->x->pack(x, 0, std::min(kNear, width), few.data());
    x = few.data();
  }
  const auto near =
      !x ? T{} : near_mean<T>(width, [x](std::size_t i, auto number) { return load<decltype(number)>(x + i); });
  const auto around = [&](T value) { return plane_sums_around(planes, width, value); };
  return Moments::around_or_again(near, around(near), static_cast<double>(planes.size * width), eps, around,
                                  [&](const auto& f) { visit_planes(planes, width, f); });
}

/// K sums of every column, summed chunk by chunk in order; [k][sample][channel].  terms(first set of a sample) gives
/// what is called with (place, column, V); held by value, as it is called between stores.
template <std::size_t K, class S, class Terms>
std::array<std::vector<double>, K> column_sums(const Batch<S>& batch, std::size_t passes, const Terms& terms) {
  const std::size_t channels = batch.in.count, chunks = column_chunks(batch).count();
  const Scratch<double> parts(K * chunks * batch.sets());
  for_column_tasks(batch, passes, Order::forwards, [&](const ColumnTask<S>& task) {
    ColumnSums<K> sums;
    add_columns<K, Computed<S>>(sums, task.rows.x[0] + task.first, task.rows.size, task.columns,
                                [&, of_place = terms(task.sample * channels)](std::size_t row) {
                                  return [of_place, place = task.rows[row], first = task.first](
                                             std::size_t i, auto number) { return of_place(place, first + i, number); };
                                });
    for (std::size_t k = 0; k < K; ++k)
      std::copy_n(sums.of[k], task.columns,
                  parts.data() + ((task.sample * chunks + task.chunk) * K + k) * channels + task.first);
  });
  std::array<std::vector<double>, K> all;
  for (auto& sums : all) sums.assign(batch.sets(), 0.0);
  for (std::size_t sample = 0; sample < batch.samples; ++sample)
    for (std::size_t chunk = 0; chunk < chunks; ++chunk)
      for (std::size_t k = 0; k < K; ++k) {
        const double* part = parts.data() + ((sample * chunks + chunk) * K + k) * channels;
        double* total = all[k].data() + sample * channels;
        for (std::size_t i = 0; i < channels; ++i) total[i] += part[i];
      }
  return all;
}

/// The moments of every column: of each chunk, in one pass around the mean of its first block (of which the squares
/// cannot be more than chunk ÷ block times larger than those around its own); then of all, merged in order as by Chan,
/// Golub & LeVeque 1983.
template <class S> ChannelMoments column_moments(const Batch<S>& batch, double eps) {
  using T = Computed<S>;
  const Chunks chunks = column_chunks(batch);
  const std::size_t channels = batch.in.count;
  const Scratch<double> parts(2 * chunks.count() * batch.sets());  // mean, then m2
  const auto part = [&](std::size_t sample, std::size_t chunk) {
    return parts.data() + 2 * (sample * chunks.count() + chunk) * channels;
  };
  for_column_tasks(batch, 1, Order::forwards, [&](const ColumnTask<S>& task) {
    const auto& [sample, chunk, rows, first, columns] = task;
    const S* const* const x = rows.x.data();
    const auto n = static_cast<double>(rows.size);
    const std::size_t some = std::min(kBlock, rows.size);
    ColumnSums<1> totals;
    add_columns<1, T>(totals, x[0] + first, some, columns, [x, column = first](std::size_t row) {
      return
          [from = x[row] + column](std::size_t i, auto number) { return std::array{load<decltype(number)>(from + i)}; };
    });
    alignas(64) T near[kColumns];
    for (std::size_t i = 0; i < columns; ++i) near[i] = static_cast<T>(totals.of[0][i] / static_cast<double>(some));
    ColumnSums<2> sums;
    add_columns<2, T>(sums, x[0] + first, rows.size, columns, [x, column = first, near = &near[0]](std::size_t row) {
      return [from = x[row] + column, near](std::size_t i, auto number) {
        using V = decltype(number);
        const V d = load<V>(from + i) - load<V>(near + i);
        return std::array{d, d * d};
      };
    });
    double *mean = part(sample, chunk) + first, *m2 = mean + channels;
    for (std::size_t i = 0; i < columns; ++i) {
      const auto visit = [&, column = first + i](const auto& f) {
        for (std::size_t row = 0; row < rows.size; ++row) f(static_cast<double>(load<T>(x[row] + column)));
      };
      const auto middle = static_cast<double>(near[i]);
      const Moments moments = squares_lost<T>(sums.of[1][i], n, eps, middle, visit)
                                  ? Moments::carefully(n, visit)
                                  : Moments::around(middle, sums.of[0][i], sums.of[1][i], n);
      mean[i] = moments.mean;
      m2[i] = moments.m2;
    }
  });

  ChannelMoments all(batch.sets());
  for (std::size_t sample = 0; sample < batch.samples; ++sample) {
    double seen = 0, *all_mean = all.mean.data() + sample * channels, *all_m2 = all.m2.data() + sample * channels;
    for (std::size_t chunk = 0; chunk < chunks.count(); ++chunk) {
      const auto n = static_cast<double>(chunks.size(chunk));
      const double share = n / (seen + n), weight = seen * share;
      const double *mean = part(sample, chunk), *m2 = mean + channels;
      for (std::size_t i = 0; i < channels; ++i) {
        const double delta = mean[i] - all_mean[i];
        all_mean[i] += delta * share;
        all_m2[i] += m2[i] + delta * delta * weight;
      }
      seen += n;
    }
  }
  return all;
}

/// What the passes over memory need of each channel (of each sample): a row of numbers for each of the names.
template <class T> class Constants {
 public:
  enum Name : std::size_t { high, scale, shift, slope, offset, names };

  explicit Constants(std::size_t sets) : sets_(sets), table_(names * sets) {}

  T* at(Name name) const { return table_.data() + name * sets_; }

  /// Where the numbers of each name begin.  To be held by value: the compiler must know that no store changes it.
  struct Rows {
    const T *high, *scale, *shift, *slope, *offset;
  };
  Rows rows(std::size_t set) const {
    return {at(high) + set, at(scale) + set, at(shift) + set, at(slope) + set, at(offset) + set};
  }

  /// y = (x − mean)·factor + bias.
  void set_forward(std::size_t set, double mean, double factor, double bias) const {
    const Centre<T> centre(mean);
    at(high)[set] = centre.high;
    at(scale)[set] = static_cast<T>(factor);
    at(shift)[set] = static_cast<T>(bias - static_cast<double>(centre.low) * factor);
  }
  /// dx = dy·factor − mean_g − (x − mean)·slope, with set_forward's mean and factor.
  void set_backward(std::size_t set, double low, double slope_, double mean_g) const {
    at(slope)[set] = static_cast<T>(slope_);
    at(offset)[set] = static_cast<T>(low * slope_ - mean_g);
  }

 private:
  std::size_t sets_;
  Scratch<T> table_;
};

/// What a mean has beyond its nearest T.
template <class T> double low_of(double mean) { return static_cast<double>(Centre<T>(mean).low); }

/// The constants of one channel, or of as many as V holds.
template <class V> struct Constant {
  V high, scale, shift, slope, offset;

  template <class Rows> static Constant of(const Rows& rows, std::size_t i) {
    const auto get = [&](const auto* row) { return load<V>(row + i); };
    return {get(rows.high), get(rows.scale), get(rows.shift), get(rows.slope), get(rows.offset)};
  }

  template <class X> X y(X x) const { return (x - high) * scale + shift; }
  template <class X> X dx(X dy, X x) const { return dy * scale + offset - (x - high) * slope; }
};

/// Elementwise work on contiguous planes of one set: to ← body(plane, i, its channel's constants, V).
template <class S, class Body>
void map_plane(const Places<S>& planes, std::size_t number, std::size_t width, const Constants<Computed<S>>& constants,
               std::size_t set, bool streamed, const Body& body) {
  const auto c = Constant<Computed<S>>::of(constants.rows(set), 0);
  const auto plane = planes[number];
  with_streaming<S>(streamed, [&](auto past_caches) {
    each<Computed<S>>(width,
                      [=](std::size_t i, auto number) { put<past_caches>(plane.to + i, body(plane, i, c, number)); });
  });
}

/// The same on all of the planes; set_of(k) says whose constants plane k needs.
template <class S, class SetOf, class Body>
void map_planes(const Places<S>& planes, std::size_t width, const Constants<Computed<S>>& constants,
                const SetOf& set_of, bool streamed, const Body& body) {
  for (Pieces<All<S>> pieces(All<S>::all(planes), width); pieces.next();) {
    const auto piece = *pieces;
    for (std::size_t k = 0; k < piece.planes.size; ++k)
      map_plane(*piece.planes.of, k, piece.columns, constants, set_of(piece.row + k), streamed, body);
  }
}

/// Elementwise work on columns: to ← body(place, i, the channel's constants, V).  The constants of a strip of columns
/// stay in registers over some rows, which stay in L1.
template <class S, class Body>
void map_columns(const Batch<S>& batch, std::size_t passes, const Constants<Computed<S>>& constants, const Body& body) {
  with_streaming<S>(batch.streamed(passes), [&](auto past_caches) {
    for_column_tasks(batch, passes, Order::backwards, [&](const ColumnTask<S>& task) {
      const auto of_sample = constants.rows(task.sample * batch.in.count);
      for (std::size_t begin = 0; begin < task.rows.size; begin += kBlock) {
        const std::size_t end = std::min(begin + kBlock, task.rows.size);
        for_strips<Computed<S>>(
            task.rows.to[begin] + task.first, task.columns,
            [&]<class U, std::size_t AtOnce>(std::size_t column, U, std::integral_constant<std::size_t, AtOnce>) {
              const std::size_t first = task.first + column;
              std::array<Constant<U>, AtOnce> c;
              unroll<AtOnce>([&](auto u) { c[u] = Constant<U>::of(of_sample, first + u * width<U>); });
              for (std::size_t row = begin; row < end; ++row)
                unroll<AtOnce>([&, place = task.rows[row]](auto u) {
                  const std::size_t i = first + u * width<U>;
                  put<past_caches>(place.to + i, body(place, i, c[u], U{}));
                });
            });
      }
    });
  });
}

/// 0 where `by` is not positive, otherwise x.
template <class V> inline V rectified(V x, V by) { return by <= 0 ? V{} : x; }

/// y of one place.
template <After after>
inline constexpr auto forward = [](const auto& place, std::size_t i, const auto& c, auto number) {
  using V = decltype(number);
  V y = c.y(load<V>(place.x + i));
  if constexpr (after == After::add_relu) y = y + load<V>(place.more + i);
  return after == After::nothing ? y : rectified(y, y);
};

/// The gradient that reaches the normalization itself at one place: of ReLU it is 0 where y was; that is found out from
/// x, but in add_relu from y.
template <After after>
inline constexpr auto reaching = [](const auto& place, std::size_t i, const auto& c, auto number) {
  using V = decltype(number);
  const V dy = load<V>(place.dy + i);
  if constexpr (after == After::relu) return rectified(dy, V(c.y(load<V>(place.x + i))));
  if constexpr (after == After::add_relu) return rectified(dy, load<V>(place.more + i));
  return dy;
};

/// dx of one place; in evaluation the statistics were constants.
template <After after, bool training>
inline constexpr auto backward = [](const auto& place, std::size_t i, const auto& c, auto number) {
  using V = decltype(number);
  const V dy = reaching<after>(place, i, c, number);
  if constexpr (training)
    return c.dx(dy, load<V>(place.x + i));
  else
    return V(dy * c.scale);
};

/// What a place adds to Σ g and Σ g (x − high), g being what reaches the normalization; of add_relu, where it is the
/// gradient of the residual too, it is also stored.
template <After after>
inline constexpr auto gradient_terms = [](const auto& place, std::size_t i, const auto& c, auto number) {
  using V = decltype(number);
  const V g = reaching<after>(place, i, c, number);
  if constexpr (after == After::add_relu) store(place.also_to + i, g);
  return std::array<V, 2>{g, V(g * (load<V>(place.x + i) - c.high))};
};

/// Those sums over planes, and over columns.
template <After after, class Planes, class T>
std::array<double, 2> plane_gradient_sums(const Planes& planes, std::size_t width, const Constant<T>& c) {
  return plane_sums<2, T>(
      planes, width,
      [=](const auto& plane, std::size_t i, auto number) { return gradient_terms<after>(plane, i, c, number); },
      [=](const auto& plane) {
        prefetch_row(plane.x, width);
        prefetch_row(plane.dy, width);
      });
}
template <After after, class S>
ChannelSums column_gradient_sums(const Batch<S>& batch, const Constants<Computed<S>>& constants) {
  auto [g, gx] = column_sums<2>(batch, 2, [&](std::size_t first) {
    return [rows = constants.rows(first)](const auto& place, std::size_t i, auto number) {
      return gradient_terms<after>(place, i, Constant<decltype(number)>::of(rows, i), number);
    };
  });
  return {std::move(g), std::move(gx)};
}

}  // namespace detail

}  // namespace fastopt
