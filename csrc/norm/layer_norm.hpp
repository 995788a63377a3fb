/// Layer normalization.  Ba, Kiros & Hinton 2016, arXiv:1607.06450.
///   x̂ = (x − mean)·rstd,  rstd = 1/√(var + ε),  y = x̂·w + b         over each row of x, (rows, width)
///   dx = rstd·(g − Σg/width − x̂·Σ(g x̂)/width),  g = dy·w;   dw = Σ dy·x̂,  db = Σ dy   over rows
/// Statistics are float64; backward takes mean and rstd from forward and recomputes x̂.
#pragma once

#include <cstddef>
#include <vector>

#include "core/parallel.hpp"
#include "core/rows.hpp"
#include "core/tile.hpp"
#include "norm/statistics.hpp"

namespace fastopt {

namespace detail {

/// As for_few_rows, but wide rows go one by one, as together they would leave the cache.
template <class Body>
void for_few_rows_in_cache(std::size_t begin, std::size_t end, std::size_t row_bytes, Body&& body) {
  constexpr std::size_t kWide = 8 << 10;
  if (row_bytes <= kWide) return for_few_rows<kTogether>(begin, end, body);
  for (; begin < end; ++begin) body(begin, std::integral_constant<std::size_t, 1>{});
}

}  // namespace detail

/// x: rows of width numbers; weight, bias: (width), or null; y: (rows, width), contiguous; mean, rstd: (rows).
template <class T>
void layer_norm(const T* x, const Rows& rows, const T* weight, const T* bias, double eps, T* y, double* mean,
                double* rstd) {
  const FlushSubnormals environment;
  const std::size_t width = rows.width, count = rows.count();
  const auto n = static_cast<double>(width);

  const bool streamed = worth_streaming(y, width * sizeof(T), count * width * sizeof(T));

  const auto few_rows = [&](std::size_t first, auto few) {
    std::array<const T*, few> from;
    std::array<T, few> near;
    for (std::size_t r = 0; r < few; ++r) {
      from[r] = x + rows.offset(first + r);
      const auto [total] = row_sums<1, T>(
          width, [from = from[r]](std::size_t i, auto number) { return std::array{load<decltype(number)>(from + i)}; });
      near[r] = static_cast<T>(total / n);
    }
    for (std::size_t r = 0; r < few; ++r) {
      const auto [sum, squares] = row_sums<2, T>(width, [from = from[r], near = near[r]](std::size_t i, auto number) {
        const auto d = load<decltype(number)>(from + i) - near;
        return std::array{d, d * d};
      });
      const Moments moments = Moments::around(static_cast<double>(near[r]), sum, squares, n);
      mean[first + r] = moments.mean;
      rstd[first + r] = rstd_of(moments.m2, n, eps);
    }
    with_flag(weight != nullptr, [&](auto weighted) {
      with_flag(bias != nullptr, [&](auto biased) {
        with_flag(streamed, [&](auto past_caches) {
          for (std::size_t r = 0; r < few; ++r) {
            const auto scale = static_cast<T>(rstd[first + r]);
            each<T>(width, [=, from = from[r], to = y + (first + r) * width, centre = Centre<T>(mean[first + r])](
                               std::size_t i, auto number) {
              using V = decltype(number);
              V value = centre(load<V>(from + i)) * scale;
              if constexpr (weighted) value = value * load<V>(weight + i);
              if constexpr (biased) value = value + load<V>(bias + i);
              put<past_caches>(to + i, value);
            });
          }
        });
      });
    });
  };

  const double bytes = 2.0 * sizeof(T) * n * static_cast<double>(count);
  parallel(threads_for(bytes / 20), [&](int thread, int threads) {
    const Range mine = share(count, thread, threads);
    detail::for_few_rows_in_cache(mine.begin, mine.end, width * sizeof(T), few_rows);
    if (streamed) stream_fence();
  });
}

namespace detail {

/// What backward needs to know of one row.
template <class T> struct LayerNormRow {
  const T *x, *dy;
  T* dx;
  Centre<T> centre;
  T scale, mean_g, mean_gx;
};

/// dx of a few rows, and what they add to dw and db; rows together, so that the sums over rows are loaded and stored
/// once for all of them.
template <bool Weighted, bool Streamed, std::size_t Few, class T>
void layer_norm_backward_rows(const std::array<LayerNormRow<T>, Few>& rows, std::size_t width, const T* weight,
                              T* dweight, T* dbias) {
  each<T>(width, [=](std::size_t i, auto number) {
    using V = decltype(number);
    V w = {}, dw = {}, db = {};
    if constexpr (Weighted) {
      w = load<V>(weight + i);
      dw = load<V>(dweight + i);
      db = load<V>(dbias + i);
    }
    unroll<Few>([&](auto r) {
      const auto& row = rows[r];
      const V xhat = row.centre(load<V>(row.x + i)) * row.scale, dy = load<V>(row.dy + i);
      const V g = Weighted ? dy * w : dy;
      put<Streamed>(row.dx + i, (g - row.mean_g - xhat * row.mean_gx) * row.scale);
      if constexpr (Weighted) {
        dw += dy * xhat;
        db += dy;
      }
    });
    if constexpr (Weighted) {
      store(dweight + i, dw);
      store(dbias + i, db);
    }
  });
}

}  // namespace detail

/// dy: rows as x; mean, rstd: (rows), as forward returned them; dx: (rows, width), contiguous; dweight, dbias: (width),
/// null as weight is.
template <class T>
void layer_norm_backward(const T* dy, const Rows& dy_rows, const T* x, const Rows& rows, const double* mean,
                         const double* rstd, const T* weight, T* dx, T* dweight, T* dbias) {
  const FlushSubnormals environment;
  const std::size_t width = rows.width, count = rows.count();
  const auto n = static_cast<double>(width);
  constexpr std::size_t kFewest = 2, kMost = 32;  // blocks in a chunk; chunks
  const std::size_t blocks = (count + kBlock - 1) / kBlock;
  const Chunks chunks{count, kBlock * std::max(kFewest, (blocks + kMost - 1) / kMost)};
  const std::size_t sums = weight ? 2 * width : 0;     // dw, then db
  std::vector<double> partial(chunks.count() * sums);  // of each chunk

  const bool streamed = worth_streaming(dx, width * sizeof(T), count * width * sizeof(T));

  const auto few_rows = [&](auto weighted, std::size_t first, auto few, T* block) {
    std::array<detail::LayerNormRow<T>, few> group;
    for (std::size_t r = 0; r < few; ++r) {
      const std::size_t row = first + r;
      auto& it = group[r] = {x + rows.offset(row),
                             dy + dy_rows.offset(row),
                             dx + row * width,
                             Centre<T>(mean[row]),
                             static_cast<T>(rstd[row]),
                             0,
                             0};
      // Σ g x̂ from Σ g (x − high): what the mean has beyond its nearest T is left to double.
      const auto [g, gx] =
          row_sums<2, T>(width, [=, x = it.x, dy = it.dy, high = it.centre.high](std::size_t i, auto number) {
            using V = decltype(number);
            V g = load<V>(dy + i);
            if constexpr (weighted) g = g * load<V>(weight + i);
            return std::array{g, g * (load<V>(x + i) - high)};
          });
      it.mean_g = static_cast<T>(g / n);
      it.mean_gx = static_cast<T>((gx - static_cast<double>(it.centre.low) * g) * rstd[row] / n);
    }
    with_flag(streamed, [&](auto past_caches) {
      detail::layer_norm_backward_rows<weighted, past_caches>(group, width, weight, block, block + width);
    });
  };

  const double bytes = 3.0 * sizeof(T) * n * static_cast<double>(count);
  parallel(threads_for(bytes / 15), [&](int thread, int threads) {
    std::vector<T> block(sums);
    const Range mine = share(chunks.count(), thread, threads);
    for (std::size_t chunk = mine.begin; chunk < mine.end; ++chunk) {
      double* total = partial.data() + chunk * sums;
      const std::size_t end = chunks.begin(chunk) + chunks.size(chunk);
      for (std::size_t first = chunks.begin(chunk); first < end; first += kBlock) {
        std::fill(block.begin(), block.end(), T{});
        with_flag(weight != nullptr, [&](auto weighted) {
          detail::for_few_rows_in_cache(first, std::min(first + kBlock, end), width * sizeof(T),
                                        [&](std::size_t row, auto few) { few_rows(weighted, row, few, block.data()); });
        });
        for (std::size_t i = 0; i < sums; ++i) total[i] += static_cast<double>(block[i]);
      }
    }
    if (streamed) stream_fence();
  });

  parallel(threads_for(static_cast<double>(partial.size()) / 4), [&](int thread, int threads) {
    const Range mine = share(sums, thread, threads, kLanes);
    std::vector<double> total(mine.end - mine.begin);
    for (std::size_t chunk = 0; chunk < chunks.count(); ++chunk)
      for (std::size_t i = mine.begin; i < mine.end; ++i) total[i - mine.begin] += partial[chunk * sums + i];
    for (std::size_t i = mine.begin; i < mine.end; ++i)
      (i < width ? dweight[i] : dbias[i - width]) = static_cast<T>(total[i - mine.begin]);
  });
}

}  // namespace fastopt
