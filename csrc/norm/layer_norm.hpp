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

/// x: rows of width numbers; weight, bias: (width), or null; y: (rows, width), contiguous; mean, rstd: (rows).
template <class T>
void layer_norm(const T* x, const Rows& rows, const T* weight, const T* bias, double eps, T* y, double* mean, double* rstd) {
  const FlushSubnormals environment;
  const std::size_t width = rows.width, count = rows.count();
  const auto n = static_cast<double>(width);

  const auto normalize = [&](std::size_t row) {
    const T* from = x + rows.offset(row);
    T* to = y + row * width;
    const auto [total] = row_sums<1, T>(width, [&](std::size_t i, auto number) { return std::array{load<decltype(number)>(from + i)}; });
    const auto near = static_cast<T>(total / n);
    const auto [sum, squares] = row_sums<2, T>(width, [&](std::size_t i, auto number) {
      const auto d = load<decltype(number)>(from + i) - near;
      return std::array{d, d * d};
    });
    const Moments moments = Moments::around(static_cast<double>(near), sum, squares, n);
    mean[row] = moments.mean;
    rstd[row] = rstd_of(moments.m2 / n, eps);

    const Centre<T> centre(moments.mean);
    const auto scale = static_cast<T>(rstd[row]);
    each<T>(width, [&](std::size_t i, auto number) {
      using V = decltype(number);
      V value = centre(load<V>(from + i)) * scale;
      if (weight) value = value * load<V>(weight + i);
      if (bias) value = value + load<V>(bias + i);
      store(to + i, value);
    });
  };

  const double bytes = 2.0 * sizeof(T) * n * static_cast<double>(count);
  parallel(threads_for(bytes / 20), [&](int thread, int threads) {
    const Range mine = share(count, thread, threads);
    for (std::size_t row = mine.begin; row < mine.end; ++row) normalize(row);
  });
}

namespace detail {

/// What backward needs to know of one row.
template <class T> struct LayerNormRow {
  const T *x, *dy;
  T* dx;
  Centre<T> centre;
  T scale, mean_g, mean_gx;

  template <class V> V xhat(std::size_t i) const { return centre(load<V>(x + i)) * scale; }
};

/// dx of a few rows, and what they add to dw and db, each of which may be null; rows together, so that the sums over rows are
/// loaded and stored once for all of them.
template <std::size_t Count, class T>
void layer_norm_backward_rows(const std::array<LayerNormRow<T>, 4>& rows, std::size_t width, const T* weight, T* dweight, T* dbias) {
  each<T>(width, [&](std::size_t i, auto number) {
    using V = decltype(number);
    V dw = {}, db = {};
    if (dweight) dw = load<V>(dweight + i);
    if (dbias) db = load<V>(dbias + i);
    unroll<Count>([&](auto r) {
      const auto& row = rows[r];
      const V xhat = row.template xhat<V>(i), dy = load<V>(row.dy + i);
      V g = dy;
      if (weight) g = g * load<V>(weight + i);
      store(row.dx + i, (g - row.mean_g - xhat * row.mean_gx) * row.scale);
      dw += dy * xhat;
      db += dy;
    });
    if (dweight) store(dweight + i, dw);
    if (dbias) store(dbias + i, db);
  });
}

}  // namespace detail

/// dy: rows as x; mean, rstd: (rows), as forward returned them; dx: (rows, width), contiguous; dweight, dbias: (width), or null.
template <class T>
void layer_norm_backward(const T* dy, const Rows& dy_rows, const T* x, const Rows& rows, const double* mean, const double* rstd, const T* weight,
                         T* dx, T* dweight, T* dbias) {
  const FlushSubnormals environment;
  const std::size_t width = rows.width, count = rows.count();
  const auto n = static_cast<double>(width);
  constexpr std::size_t kFewest = 2, kMost = 32;  // blocks in a chunk; chunks
  const std::size_t blocks = (count + kBlock - 1) / kBlock;
  const Chunks chunks{count, kBlock * std::max(kFewest, (blocks + kMost - 1) / kMost)};
  const std::size_t sums = (dweight ? width : 0) + (dbias ? width : 0);
  std::vector<double> partial(chunks.count() * sums);  // for each chunk dw, then db

  const auto row_of = [&](std::size_t row) {
    detail::LayerNormRow<T> r{x + rows.offset(row), dy + dy_rows.offset(row), dx + row * width, Centre<T>(mean[row]), static_cast<T>(rstd[row]), 0, 0};
    const auto [g, gx] = row_sums<2, T>(width, [&](std::size_t i, auto number) {
      using V = decltype(number);
      V g = load<V>(r.dy + i);
      if (weight) g = g * load<V>(weight + i);
      return std::array{g, g * r.template xhat<V>(i)};
    });
    r.mean_g = static_cast<T>(g / n);
    r.mean_gx = static_cast<T>(gx / n);
    return r;
  };

  const double bytes = 3.0 * sizeof(T) * n * static_cast<double>(count);
  parallel(threads_for(bytes / 15), [&](int thread, int threads) {
    std::vector<T> block(sums);
    T* block_dw = dweight ? block.data() : nullptr;
    T* block_db = dbias ? block.data() + (sums - width) : nullptr;
    const Range mine = share(chunks.count(), thread, threads);
    for (std::size_t chunk = mine.begin; chunk < mine.end; ++chunk) {
      double* total = partial.data() + chunk * sums;
      const std::size_t end = chunks.begin(chunk) + chunks.size(chunk);
      for (std::size_t first = chunks.begin(chunk); first < end; first += kBlock) {
        std::fill(block.begin(), block.end(), T{});
        const std::size_t last = std::min(first + kBlock, end);
        std::array<detail::LayerNormRow<T>, 4> few;
        std::size_t row = first;
        for (; row + 4 <= last; row += 4) {
          for (std::size_t r = 0; r < 4; ++r) few[r] = row_of(row + r);
          detail::layer_norm_backward_rows<4>(few, width, weight, block_dw, block_db);
        }
        for (; row < last; ++row) {
          few[0] = row_of(row);
          detail::layer_norm_backward_rows<1>(few, width, weight, block_dw, block_db);
        }
        for (std::size_t i = 0; i < sums; ++i) total[i] += static_cast<double>(block[i]);
      }
    }
  });

  parallel(threads_for(static_cast<double>(partial.size()) / 4), [&](int thread, int threads) {
    const Range mine = share(sums, thread, threads, kLanes);
    std::vector<double> total(mine.end - mine.begin);
    for (std::size_t chunk = 0; chunk < chunks.count(); ++chunk)
      for (std::size_t i = mine.begin; i < mine.end; ++i) total[i - mine.begin] += partial[chunk * sums + i];
    for (std::size_t i = mine.begin; i < mine.end; ++i) {
      T* to = dweight && i < width ? dweight + i : dbias + (i - (sums - width));
      *to = static_cast<T>(total[i - mine.begin]);
    }
  });
}

}  // namespace fastopt
