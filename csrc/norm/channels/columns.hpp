/// Sums and elementwise work over columns, the channels of each place.
///
/// Columns are summed chunk by chunk.  The second pass takes the chunks in the opposite order, because the last ones
/// are still in cache.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "core/cost.hpp"
#include "core/reduce.hpp"
#include "core/rows.hpp"
#include "core/scratch.hpp"
#include "core/threads/parallel.hpp"
#include "norm/channels/constants.hpp"
#include "norm/channels/layout.hpp"
#include "norm/statistics.hpp"

namespace fastopt {

/// The mean of each set, or of each group of sets, and the sum of the squares around it.
struct ChannelMoments {
  std::vector<double> mean, m2;
  explicit ChannelMoments(std::size_t sets) : mean(sets), m2(sets) {}
};

/// Two sums for each set.
struct ChannelSums {
  std::vector<double> first, second;
};

/// How the rows of a sample are cut.
template <class S> Chunks column_chunks(const ChannelBatch<S>& batch) {
  return chunks_of_columns(batch.rows(), batch.in.count);
}

/// A chunk of rows of a sample, and some of its columns.
template <class S> struct ColumnTask {
  std::size_t sample, chunk;
  const RowList<S>& rows;
  std::size_t first, columns;
};

enum class Order { forwards, backwards };

/// Columns of some rows, copied to a scratch buffer.
template <class S> class PackedColumns {
 public:
  /// Makes room for `columns` of the `channels` columns of `rows` rows, for up to three arrays.
  PackedColumns(bool any, std::size_t rows, std::size_t columns, std::size_t channels)
      : of_array_(rows * columns + channels), room_(any ? 3 * of_array_ : 0) {}

  void pack(const ChannelBatch<S>& batch, RowList<S>& rows, std::size_t first, std::size_t columns) const {
    pack(rows.x.data(), batch.x.scattered(), rows.size, first, columns, 0);
    pack(rows.dy.data(), batch.dy.scattered(), rows.size, first, columns, 1);
    pack(rows.more.data(), batch.more.scattered(), rows.size, first, columns, 2);
  }

 private:
  /// Copies a few columns of all rows at a time, because the elements of a column may be neighbours in memory.  The
  /// copy of row 0 has column `first` at index `first`, so that columns have the same index as in the array.
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
void for_column_tasks(const ChannelBatch<S>& batch, std::size_t passes, Order order, const Body& body) {
  const Chunks chunks = column_chunks(batch);
  const std::size_t channels = batch.in.count, groups = (channels + kColumns - 1) / kColumns;
  parallel(threads_for(batch.cost(passes)), [&](int thread, int threads) {
    const Range mine = share(batch.samples * chunks.count() * groups, thread, threads);
    RowList<S> rows(std::min(chunks.rows, batch.rows()));
    const bool scattered = batch.scattered();
    const PackedColumns<S> packed(scattered, rows.x.size(), std::min(kColumns, channels), channels);
    std::size_t rows_of = ~std::size_t{};
    for (std::size_t i = mine.begin; i < mine.end; ++i) {
      const std::size_t task = order == Order::forwards ? i : mine.end - 1 - (i - mine.begin);
      const std::size_t group = task % groups, piece = task / groups, chunk = piece % chunks.count(),
                        sample = piece / chunks.count();
      if (rows_of != piece || scattered) {
        batch.list(rows, sample * batch.rows() + chunks.begin(chunk), chunks.size(chunk));
        rows_of = piece;
      }
      const std::size_t first = group * kColumns, columns = std::min(kColumns, channels - first);
      if (scattered) packed.pack(batch, rows, first, columns);
      body(ColumnTask<S>{sample, chunk, rows, first, columns});
    }
    stream_fence();
  });
}

/// Calls f for each number of a column, one row after the other.
template <class S, class F> void visit_column(const ChannelBatch<S>& batch, std::size_t channel, const F& f) {
  for (std::size_t row = 0; row < batch.rows(); ++row) {
    S value;
    batch.in.rows.pack(batch.x.at(row, 0), channel, 1, &value);
    f(static_cast<double>(load<Computed<S>>(&value)));
  }
}

/// K sums of every column, summed chunk by chunk in order; [k][sample][channel].  terms(first set of a sample) returns
/// the function that is called with (place, column, V).  It is held by value, because it is called between stores.
template <std::size_t K, class S, class Terms>
std::array<std::vector<double>, K> column_sums(const ChannelBatch<S>& batch, std::size_t passes, const Terms& terms) {
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
#pragma omp simd
        for (std::size_t i = 0; i < channels; ++i) total[i] += part[i];
      }
  return all;
}

/// The moments of every column.  Each chunk takes one pass around the mean of its first block; the squares around that
/// mean are at most chunk ÷ block times larger than those around the chunk's own.  The chunks are then merged in order,
/// as in Chan, Golub & LeVeque 1983.
template <class S> [[gnu::noinline]] ChannelMoments column_moments(const ChannelBatch<S>& batch, double eps) {
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
#pragma omp simd
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
    int suspects = 0;
#pragma omp simd reduction(+ : suspects)
    for (std::size_t i = 0; i < columns; ++i) {
      const Moments moments = Moments::around(static_cast<double>(near[i]), sums.of[0][i], sums.of[1][i], n);
      mean[i] = moments.mean;
      m2[i] = moments.m2;
      suspects += squares_suspect<T>(sums.of[1][i], n, eps);
    }
    for (std::size_t i = 0; suspects != 0 && i < columns; ++i) {
      const auto visit = [&, column = first + i](const auto& f) {
        for (std::size_t row = 0; row < rows.size; ++row) f(static_cast<double>(load<T>(x[row] + column)));
      };
      if (!squares_lost<T>(sums.of[1][i], n, eps, static_cast<double>(near[i]), visit)) continue;
      const Moments moments = Moments::carefully(n, visit);
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
#pragma omp simd
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

/// Elementwise work on columns: to ← formula(row, i, c, V).  The constants of a strip of columns stay in registers for a
/// few rows.  A row's strip is read before any of it is written: where the arrays lie a multiple of 4 KiB apart, the
/// processor mistakes a read that follows a write for one of the address that was written, and waits.
template <class S, class Formula>
[[gnu::noinline]] void map_columns(const ChannelBatch<S>& batch, std::size_t passes,
                                   const Constants<Computed<S>>& constants, const Formula& formula) {
  with_streaming<S>(batch.streamed(passes), [&](auto past_caches) {
    for_column_tasks(batch, passes, Order::backwards, [&](const ColumnTask<S>& task) {
      const auto of_sample = constants.rows(task.sample * batch.in.count);
      const std::size_t together = rows_mapped_together(task.columns);
      for (std::size_t begin = 0; begin < task.rows.size; begin += together) {
        const std::size_t end = std::min(begin + together, task.rows.size);
        for_strips<Computed<S>>(
            task.rows.to[begin] + task.first, task.columns,
            [&]<class U, std::size_t AtOnce>(std::size_t column, U, std::integral_constant<std::size_t, AtOnce>) {
              const std::size_t first = task.first + column;
              std::array<Constant<U>, AtOnce> c;
              unroll<AtOnce>([&](auto u) { c[u] = Constant<U>::of(of_sample, first + u * width<U>); });
              for (std::size_t row = begin; row < end; ++row) {
                const auto place = task.rows[row];
                std::array<U, AtOnce> result;
                unroll<AtOnce>([&](auto u) { result[u] = formula(place, first + u * width<U>, c[u], U{}); });
                unroll<AtOnce>([&](auto u) { put<past_caches>(place.to + first + u * width<U>, result[u]); });
              }
            });
      }
    });
  });
}

/// Σ g and Σ g (x − high); g is the gradient that reaches the normalization.
template <After after, class S>
[[gnu::noinline]] ChannelSums column_gradient_sums(const ChannelBatch<S>& batch,
                                                   const Constants<Computed<S>>& constants) {
  auto [g, gx] = column_sums<2>(batch, 2, [&](std::size_t first) {
    return [rows = constants.rows(first)](const auto& row, std::size_t i, auto number) {
      return gradient_terms<after>(row, i, Constant<decltype(number)>::of(rows, i), number);
    };
  });
  return {std::move(g), std::move(gx)};
}

/// Σ x².
template <class S> [[gnu::noinline]] std::vector<double> column_squares(const ChannelBatch<S>& batch) {
  return column_sums<1>(batch, 1, [](std::size_t) {
    return [](const auto& row, std::size_t i, auto number) {
      const auto x = load<decltype(number)>(row.x + i);
      return std::array{x * x};
    };
  })[0];
}

/// Σ (x − near) and Σ (x − near)², with a number `near` for each channel.
template <class S>
[[gnu::noinline]] std::array<std::vector<double>, 2> column_sums_around(const ChannelBatch<S>& batch,
                                                                        const Computed<S>* near) {
  return column_sums<2>(batch, 1, [near](std::size_t) {
    return [near](const auto& row, std::size_t i, auto number) {
      using V = decltype(number);
      const V d = load<V>(row.x + i) - load<V>(near + i);
      return std::array{d, d * d};
    };
  });
}

}  // namespace fastopt
