/// What the normalizations of rows share: LayerNorm, RMSNorm and cosine normalization, alone or behind the addition of
/// a residual.
///   s = x, or x + residual;   x̂ = (s − mean)·rstd;   y = x̂·w + b            over each row, (rows, width)
///   dx = rstd·(g − Σg/n − x̂·Σ(g x̂)/n) [+ ds],  g = dy·w
///   dw = Σ dy·x̂,  db = Σ dy                                                  over rows
/// A norm without a centre has no mean, no Σg and no b.  n is the width, or 1 for a norm that does not average.
///
/// A few rows are read for their statistics while the results of those before them, which are still in cache, are
/// written.  Rows of an input that are not contiguous are copied to scratch memory then, a few at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "core/reduce.hpp"
#include "core/rows.hpp"
#include "core/scratch.hpp"
#include "core/threads/parallel.hpp"
#include "norm/statistics.hpp"

namespace fastopt {

/// The arrays of a forward pass; S is what x, residual, sum and y are stored as.
template <class S> struct RowNorm {
  using T = Computed<S>;

  const S* x;  ///< rows as `rows` says
  Rows rows;
  const T *weight, *bias;  ///< (width), or null
  double eps;
  S* y;                         ///< (rows, width), contiguous
  double *mean, *rstd;          ///< (rows); mean only with a centre
  const S* residual = nullptr;  ///< rows as `residual_rows` says, or null
  Rows residual_rows = {};
  S* sum = nullptr;  ///< (rows, width), contiguous, where there is a residual
};

/// The arrays of a backward pass.
template <class S> struct RowNormBackward {
  using T = Computed<S>;

  const S* dy;
  Rows dy_rows;
  const S* x;  ///< what was normalized: with a residual, the sum
  Rows rows;
  const double *mean, *rstd;  ///< (rows), as forward returned them
  const T* weight;            ///< (width), or null
  S* dx;                      ///< (rows, width), contiguous
  T *dweight, *dbias;         ///< (width), or null where they are not wanted; dbias only with a centre
  const S* dsum = nullptr;    ///< rows as `dsum_rows` says: what reaches the sum from elsewhere; or null
  Rows dsum_rows = {};
};

namespace detail {

/// Row number `row` of an array whose rows are not all contiguous, copied to `room` if it is not.  Not inline, so that
/// it takes no registers from the loops around it.
template <class S> [[gnu::noinline]] const S* packed_row(const S* x, const Rows& rows, std::size_t row, S* room) {
  return rows.packed(x, row, room, 0);
}

/// As for_few_rows, but wide rows go one by one, as together they would leave the cache.
template <class Body>
void for_few_rows_in_cache(std::size_t begin, std::size_t end, std::size_t row_bytes, Body&& body) {
  constexpr std::size_t kWide = 16 << 10;
  if (row_bytes <= kWide) return for_few_rows<kTogether>(begin, end, body);
  for (; begin < end; ++begin) body(begin, std::integral_constant<std::size_t, 1>{});
}

/// Prefetches what `row` has `ahead` elements after those that the body of each() is at work with, V at i: every line
/// once.
template <class V, class S>
[[gnu::always_inline]] inline void prefetch_along(const S* row, std::size_t i, std::size_t ahead = 0) {
  constexpr std::size_t kLine = 64 / sizeof(S);
  if (width<V> >= kLine || i % kLine == 0) prefetch(row, i + ahead);
}

/// A row of x, or of x + residual, on its way into cache.
template <class S, bool Added, bool Streamed> struct Source {
  using T = Computed<S>;
  static constexpr bool kKept = is_16bit<S> || (Added && Streamed);  ///< whether later passes read scratch memory

  const S *x, *residual;  ///< residual: if Added
  S* sum;                 ///< if Added, where x + residual is wanted
  T* kept;                ///< if kKept, scratch memory

  const T* row() const {
    if constexpr (kKept)
      return kept;
    else if constexpr (Added)
      return sum;
    else
      return x;
  }
  template <class V> V value(std::size_t i, V) const {
    const V value = load<V>(x + i);
    if constexpr (Added)
      return as_stored<S>(value + load<V>(residual + i));
    else
      return value;
  }
  /// The first time that it is needed.
  template <class V> V take(std::size_t i, V number) const {
    const V value = this->value(i, number);
    if constexpr (Added) put<Streamed>(sum + i, value);
    if constexpr (kKept) store(kept + i, value);
    if constexpr (Streamed) {  // then it comes from memory, and what follows is fetched early
      constexpr std::size_t kAhead = (16 << 10) / sizeof(S);
      prefetch_along<V>(x, i, kAhead);
      if constexpr (Added) prefetch_along<V>(residual, i, kAhead);
    }
    return value;
  }
};

template <bool Centred, class T> struct RowConstants;
template <class T> struct RowConstants<true, T> {
  Centre<T> centre;
  T scale;
  template <class V> V xhat(V x) const { return centre(x) * scale; }
};
template <class T> struct RowConstants<false, T> {
  T scale;
  template <class V> V xhat(V x) const { return x * scale; }
};

template <bool Centred, class T> RowConstants<Centred, T> row_constants(double mean, double rstd) {
  if constexpr (Centred)
    return {Centre<T>(mean), static_cast<T>(rstd)};
  else
    return {static_cast<T>(rstd)};
}

/// Calls body(first, n) for parts of a row that a block of sums has room for.
template <class Body> [[gnu::always_inline]] inline void for_parts(std::size_t width, const Body& body) {
  constexpr std::size_t kPart = kBlock * kLanes;
  for (std::size_t first = 0; first < width; first += kPart) body(first, std::min(kPart, width - first));
}

/// The statistics of a row, taken part by part.
template <class Norm, class From> class RowStatistics {
 public:
  using T = typename From::T;

  RowStatistics() = default;
  RowStatistics(const From& from, std::size_t width) : from_(from) {
    if constexpr (Norm::centred)
      near_ = near_mean<T>(width, [&](std::size_t i, auto number) { return from.value(i, number); });
  }

  /// Takes n numbers from number `first` on.  beside(i, V) is called for each of them: work on another row.
  template <class Beside> [[gnu::always_inline]] void take(std::size_t first, std::size_t n, const Beside& beside) {
    add(first, n, [&, from = from_](std::size_t i, auto number) {
      const auto value = from.take(i, number);
      beside(i, number);
      return value;
    });
  }

  /// Mean (0 without a centre) and rstd.
  std::pair<double, double> finish(std::size_t width, double eps) {
    const double n = Norm::averaged ? static_cast<double>(width) : 1;
    const auto sums = fold(lanes_);
    const auto visit = [=, row = from_.row()](const auto& f) {
      for (std::size_t i = 0; i < width; ++i) f(static_cast<double>(row[i]));
    };
    if constexpr (Norm::centred) {
      const auto again = [&](T nearer) {
        near_ = nearer;
        lanes_ = {};
        for_parts(width, [&](std::size_t first, std::size_t part) {
          add(first, part, [row = from_.row()](std::size_t i, auto number) { return load<decltype(number)>(row + i); });
        });
        return fold(lanes_);
      };
      const Moments moments = Moments::around_or_again(near_, sums, n, eps, again, visit);
      return {moments.mean, rstd_of(moments.m2, n, eps)};
    } else {
      return {0, rstd_of(squares_lost<T>(sums[0], n, eps, 0, visit) ? careful_squares(0, visit) : sums[0], n, eps)};
    }
  }

 private:
  static constexpr std::size_t kSums = Norm::centred ? 2 : 1;

  template <class At> [[gnu::always_inline]] void add(std::size_t first, std::size_t n, const At& at) {
    const T near = near_;
    Block<kSums, T> block;
    sum_block(block, first, n / kLanes, n % kLanes, [=, &at](std::size_t i, auto number) {
      const auto value = at(i, number);
      if constexpr (Norm::centred) {
        const auto d = value - near;
        return std::array{d, d * d};
      } else {
        return std::array{value * value};
      }
    });
    add_block(lanes_, block);
  }

  From from_{};
  T near_ = 0;
  Lanes<kSums> lanes_;
};

}  // namespace detail

template <class Norm, class S> void row_norm(const RowNorm<S>& a) {
  using T = Computed<S>;
  const FlushSubnormals environment;
  const std::size_t width = a.rows.width, count = a.rows.count();
  // Factors and summands that change nothing stand for those that there are not.
  const std::vector<T> ones(a.weight || !Norm::weighted ? 0 : width, T{1}),
      zeros(a.bias || !Norm::centred ? 0 : width, -T{});
  const T *weight = a.weight ? a.weight : ones.data(), *bias = a.bias ? a.bias : zeros.data();

  const double bytes = 2.0 * sizeof(S) * static_cast<double>(width * count);
  const auto worth = [&](const S* to) { return worth_streaming(to, width * sizeof(S), 2 * width * count * sizeof(S)); };
  const bool streamed = worth(a.y) && (!a.sum || worth(a.sum));
  const bool contiguous = a.rows.contiguous() && a.residual_rows.contiguous();

  // The statistics of a few rows are taken while the results of those before them are written, so that memory is read
  // and written all the time; part by part, so that a part of weight and bias stays in cache for all of the rows.
  struct Row {
    const T* from;
    detail::RowConstants<Norm::centred, T> constants;
  };
  using Few = std::array<Row, kTogether>;
  constexpr std::size_t kWidest = 256 << 10;  // bytes of a row, of which there is room for a few in cache
  const std::size_t together = width * sizeof(T) <= kWidest ? kTogether : 1;

  const auto pass = [&](auto added, auto past_caches, Range mine) {
    using From = detail::Source<S, added, past_caches>;
    using Statistics = detail::RowStatistics<Norm, From>;
    const std::size_t room = 2 * together * width;  // rows that are read, and rows whose results are written
    const Scratch<T> kept(From::kKept ? room : 0);
    const Scratch<S> packed(contiguous ? 0 : 2 * room);
    const auto source = [&](std::size_t row) -> From {
      const std::size_t at = row % (2 * together) * width;
      const auto input = [&](const S* from, const Rows& rows, std::size_t to) {
        return contiguous ? from + rows.offset(row) : detail::packed_row(from, rows, row, packed.data() + to);
      };
      return {input(a.x, a.rows, at), added ? input(a.residual, a.residual_rows, room + at) : nullptr,
              added ? a.sum + row * width : nullptr, From::kKept ? kept.data() + at : nullptr};
    };
    const auto writing = [&](std::size_t row, const Row& it) {
      return [=, to = a.y + row * width](std::size_t i, auto number) {
        using V = decltype(number);
        V value = it.constants.xhat(load<V>(it.from + i));
        if constexpr (Norm::weighted) value = value * load<V>(weight + i);
        if constexpr (Norm::centred) value = value + load<V>(bias + i);
        put<past_caches>(to + i, value);
      };
    };
    Few rows{}, next{};
    std::size_t written = mine.begin;                                        // rows whose results are there
    for (std::size_t known = mine.begin; written < mine.end; rows = next) {  // rows whose statistics are there
      const std::size_t begin = written, writes = known - written, reads = std::min(together, mine.end - known);
      std::array<Statistics, kTogether> statistics;
      for (std::size_t r = 0; r < reads; ++r) {
        const From from = source(known + r);
        next[r].from = from.row();
        statistics[r] = Statistics(from, width);
      }
      detail::for_parts(width, [&](std::size_t first, std::size_t n) {
        for (std::size_t r = 0; r < std::max(reads, writes); ++r)
          if (r >= writes)
            statistics[r].take(first, n, [](std::size_t, auto) {});
          else if (const auto write = writing(begin + r, rows[r]); r < reads)
            statistics[r].take(first, n, write);
          else
            each<T>(n, [&](std::size_t i, auto number) { write(first + i, number); });
      });
      for (std::size_t r = 0; r < reads; ++r) {
        const auto [mean, rstd] = statistics[r].finish(width, a.eps);
        if constexpr (Norm::centred) a.mean[known + r] = mean;
        a.rstd[known + r] = rstd;
        next[r].constants = detail::row_constants<Norm::centred, T>(mean, rstd);
      }
      written += writes;
      known += reads;
    }
    if constexpr (past_caches) stream_fence();
  };

  parallel(threads_for(bytes / 20), [&](int thread, int threads) {
    const Range mine = share(count, thread, threads);
    with_streaming<S>(streamed, [&](auto past_caches) {
      if constexpr (Norm::weighted)
        with_flag(a.residual != nullptr, [&](auto added) { pass(added, past_caches, mine); });
      else
        pass(std::false_type{}, past_caches, mine);
    });
  });
}

namespace detail {

/// What backward needs to know of one row.
template <bool Centred, class S> struct BackwardRow {
  using T = Computed<S>;
  const T *x, *dy;
  const S *next_x, *next_dy, *dsum;
  S* dx;
  RowConstants<Centred, T> constants;
  T mean_g, mean_gx;
};

/// dx of a few rows, and what they add to dw and db; rows together, so that the sums over rows are loaded and stored
/// once for all of them.
template <class Norm, bool Weighted, bool Added, bool Streamed, std::size_t Few, class S, class T>
void row_norm_backward_rows(const std::array<BackwardRow<Norm::centred, S>, Few>& rows, std::size_t width,
                            const T* weight, T* dweight, T* dbias) {
  each<T>(width, [=](std::size_t i, auto number) {
    using V = decltype(number);
    V w = {}, dw = {}, db = {};
    if constexpr (Weighted) {
      w = load<V>(weight + i);
      dw = load<V>(dweight + i);
      if constexpr (Norm::centred) db = load<V>(dbias + i);
    }
    unroll<Few>([&](auto r) {
      const auto& row = rows[r];
      if constexpr (Streamed) {
        prefetch_along<V>(row.next_x, i);
        prefetch_along<V>(row.next_dy, i);
      }
      const V xhat = row.constants.xhat(load<V>(row.x + i)), dy = load<V>(row.dy + i);
      const V g = Weighted ? dy * w : dy;
      V dx = g;
      if constexpr (Norm::centred) dx = dx - row.mean_g;
      dx = (dx - xhat * row.mean_gx) * row.constants.scale;
      if constexpr (Added) dx = dx + load<V>(row.dsum + i);
      put<Streamed>(row.dx + i, dx);
      if constexpr (Weighted) {
        dw += dy * xhat;
        if constexpr (Norm::centred) db += dy;
      }
    });
    if constexpr (Weighted) {
      store(dweight + i, dw);
      if constexpr (Norm::centred) store(dbias + i, db);
    }
  });
}

}  // namespace detail

template <class Norm, class S> void row_norm_backward(const RowNormBackward<S>& a) {
  using T = Computed<S>;
  const FlushSubnormals environment;
  const std::size_t width = a.rows.width, count = a.rows.count();
  const double n = Norm::averaged ? static_cast<double>(width) : 1;
  constexpr std::size_t kFewest = 2, kMost = 32;  // blocks in a chunk; chunks
  const std::size_t blocks = (count + kBlock - 1) / kBlock;
  const Chunks chunks{count, kBlock * std::max(kFewest, (blocks + kMost - 1) / kMost)};
  const bool summed = a.weight || a.dbias;
  const std::size_t sums = summed ? (Norm::centred ? 2 : 1) * width : 0;  // dw, then db
  const Scratch<double> partial(chunks.count() * sums);                   // of each chunk
  const Scratch<T> ones(summed && !a.weight ? width : 0);
  std::fill_n(ones.data(), summed && !a.weight ? width : 0, T{1});
  const T* const weight = a.weight ? a.weight : ones.data();

  const double bytes = 3.0 * sizeof(S) * static_cast<double>(width * count);
  const bool streamed = worth_streaming(a.dx, width * sizeof(S), 2 * width * count * sizeof(S));
  const bool contiguous = a.rows.contiguous() && a.dy_rows.contiguous() && a.dsum_rows.contiguous();

  const auto few_rows = [&](auto weighted, auto added, auto past_caches, std::size_t first, auto few,
                            const Scratch<T>& kept, const Scratch<S>& packed, T* block) {
    std::array<detail::BackwardRow<Norm::centred, S>, few> group;
    for (std::size_t r = 0; r < few; ++r) {
      const std::size_t row = first + r, next = std::min(row + few, count - 1);
      auto& it = group[r];
      const auto source = [&](std::size_t place, const S* from) -> detail::Source<S, false, false> {
        return {from, nullptr, nullptr, is_16bit<S> ? kept.data() + place * width : nullptr};
      };
      const auto input = [&](const S* from, const Rows& rows, std::size_t array) {
        return contiguous ? from + rows.offset(row)
                          : detail::packed_row(from, rows, row, packed.data() + (array * kTogether + r) * width);
      };
      const auto x = source(2 * r, input(a.x, a.rows, 0)), dy = source(2 * r + 1, input(a.dy, a.dy_rows, 1));
      it.x = x.row();
      it.dy = dy.row();
      it.next_x = contiguous ? a.x + a.rows.offset(next) : x.x;
      it.next_dy = contiguous ? a.dy + a.dy_rows.offset(next) : dy.x;
      it.dsum = added ? input(a.dsum, a.dsum_rows, 2) : nullptr;
      it.dx = a.dx + row * width;
      it.constants = detail::row_constants<Norm::centred, T>(Norm::centred ? a.mean[row] : 0, a.rstd[row]);
      const auto g_of = [=](std::size_t i, auto number) {
        using V = decltype(number);
        V g = dy.take(i, number);
        if constexpr (weighted) g = g * load<V>(weight + i);
        return g;
      };
      if constexpr (Norm::centred) {
        // Σ g x̂ from Σ g (x − high): what the mean has beyond its nearest T is left to double.
        const Centre<T> centre = it.constants.centre;
        const auto [g, gx] = row_sums<2, T>(width, [=](std::size_t i, auto number) {
          const auto value = g_of(i, number);
          return std::array{value, value * (x.take(i, number) - centre.high)};
        });
        it.mean_g = static_cast<T>(g / n);
        it.mean_gx = static_cast<T>((gx - static_cast<double>(centre.low) * g) * a.rstd[row] / n);
      } else {
        const auto [gx] = row_sums<1, T>(
            width, [=](std::size_t i, auto number) { return std::array{g_of(i, number) * x.take(i, number)}; });
        it.mean_gx = static_cast<T>(gx * a.rstd[row] / n);
      }
    }
    detail::row_norm_backward_rows<Norm, weighted, added, past_caches>(group, width, weight, block,
                                                                       weighted ? block + width : nullptr);
  };

  const auto pass = [&](auto weighted, auto added, auto past_caches) {
    parallel(threads_for(bytes / 15), [&](int thread, int threads) {
      const Scratch<T> kept(is_16bit<S> ? 2 * kTogether * width : 0);
      const Scratch<S> packed(contiguous ? 0 : 3 * kTogether * width);
      const Scratch<T> block(sums);
      const Range mine = share(chunks.count(), thread, threads);
      for (std::size_t chunk = mine.begin; chunk < mine.end; ++chunk) {
        double* total = partial.data() + chunk * sums;
        std::fill_n(total, sums, 0.0);
        const std::size_t end = chunks.begin(chunk) + chunks.size(chunk);
        for (std::size_t first = chunks.begin(chunk); first < end; first += kBlock) {
          std::fill_n(block.data(), sums, T{});
          detail::for_few_rows_in_cache(first, std::min(first + kBlock, end), width * sizeof(T),
                                        [&](std::size_t row, auto few) {
                                          few_rows(weighted, added, past_caches, row, few, kept, packed, block.data());
                                        });
          for (std::size_t i = 0; i < sums; ++i) total[i] += static_cast<double>(block.data()[i]);
        }
      }
      if constexpr (past_caches) stream_fence();
    });
  };
  with_streaming<S>(streamed, [&](auto past_caches) {
    if constexpr (!Norm::weighted)
      pass(std::false_type{}, std::false_type{}, past_caches);
    else
      with_flag(summed, [&](auto weighted) {
        with_flag(a.dsum != nullptr, [&](auto added) { pass(weighted, added, past_caches); });
      });
  });

  parallel(threads_for(static_cast<double>(chunks.count() * sums) / 4), [&](int thread, int threads) {
    const Range mine = share(sums, thread, threads, kLanes);
    std::vector<double> total(mine.end - mine.begin);
    for (std::size_t chunk = 0; chunk < chunks.count(); ++chunk)
      for (std::size_t i = mine.begin; i < mine.end; ++i) total[i - mine.begin] += partial.data()[chunk * sums + i];
    for (std::size_t i = mine.begin; i < mine.end; ++i)
      if (T* const to = i < width ? a.dweight : a.dbias) to[i % width] = static_cast<T>(total[i - mine.begin]);
  });
}

}  // namespace fastopt
