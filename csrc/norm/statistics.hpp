/// What the normalizations share: means that keep their precision, and how rows are cut for sums over rows.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "core/tile.hpp"

namespace fastopt {

/// Subtracts a mean that is more precise than T: its nearest T first, which is exact for numbers near the mean, then
/// the rest. So x − mean keeps all its digits where the mean is a million times the spread.
template <class T> struct Centre {
  T high, low;

  Centre() = default;
  explicit Centre(double mean) : high(static_cast<T>(mean)), low(static_cast<T>(mean - static_cast<double>(high))) {}

  template <class V> V operator()(V x) const { return x - high - low; }
};

/// The mean of n numbers, and the sum of the squares around it.
struct Moments {
  double mean, m2;

  /// From the sums of d = x − centre and of d², where centre is close to the mean.
  static Moments around(double centre, double sum, double squares, double n) {
    const double shift = sum / n, m2 = squares - sum * shift;
    return {centre + shift, m2 < 0 ? 0 : m2};
  }
};

inline double rstd_of(double m2, double n, double eps) { return 1 / std::sqrt(m2 / n + eps); }

/// How M rows are cut for sums over rows: into chunks of whole blocks, the last one shorter, and their number depends
/// on M only.
struct Chunks {
  std::size_t total, rows;

  std::size_t count() const { return (total + rows - 1) / rows; }
  std::size_t begin(std::size_t chunk) const { return chunk * rows; }
  std::size_t size(std::size_t chunk) const { return std::min(rows, total - chunk * rows); }
};

}  // namespace fastopt
