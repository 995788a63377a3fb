/// Normalizations of rows: LayerNorm, RMSNorm, cosine normalization and ScaleNorm, alone or behind the addition of a
/// residual.
///   s = x, or x + residual;   x̂ = (s − mean)·rstd;   y = x̂·w + b            over each row, (rows, width)
///   dx = rstd·(g − Σg/n − x̂·Σ(g x̂)/n) [+ ds],  g = dy·w
///   dw = Σ dy·x̂,  db = Σ dy                                                  over rows
///
/// A norm is a policy of constants:
///   centred    rows have a mean, and the norm a bias b; without it there is no mean, no Σg and no b
///   averaged   n is the width; without it n is 1
///   weights    none, one for each column, or one number for all of them
#pragma once

#include <array>
#include <cstddef>

#include "core/codec/half.hpp"
#include "core/rows.hpp"
#include "core/simd.hpp"
#include "norm/statistics.hpp"

namespace fastopt {

enum class Weights { none, columns, scalar };

/// The arrays of a forward pass; x, residual, sum and y are stored as S.
template <class S> struct RowNorm {
  using T = Computed<S>;

  const S* x;
  Rows rows;               ///< of x
  const T *weight, *bias;  ///< (width), or null; a scalar weight is `gain`
  double eps;
  S* y;                         ///< (rows, width), contiguous
  double *mean, *rstd;          ///< (rows); mean only with a centre
  const S* residual = nullptr;  ///< or null
  Rows residual_rows = {};
  S* sum = nullptr;         ///< (rows, width), contiguous, where there is a residual
  const T* gain = nullptr;  ///< the scalar weight
};

/// The arrays of a backward pass.
template <class S> struct RowNormBackward {
  using T = Computed<S>;

  const S* dy;
  Rows dy_rows;
  const S* x;  ///< the array that was normalized: with a residual, the sum
  Rows rows;
  const double *mean, *rstd;  ///< (rows), as forward returned them
  const T* weight;            ///< (width), or null
  S* dx;                      ///< (rows, width), contiguous
  T *dweight, *dbias;         ///< (width), or null where they are not wanted; dbias only with a centre
  const S* dsum = nullptr;    ///< what reaches the sum from elsewhere, or null
  Rows dsum_rows = {};
  const T* gain = nullptr;  ///< the scalar weight
  T* dgain = nullptr;       ///< of a scalar weight
};

/// The constants of one row: x̂ = (x − mean)·rstd.
template <bool Centred, class T> struct RowConstants;
template <class T> struct RowConstants<true, T> {
  Centre<T> centre;
  T scale;

  RowConstants() = default;
  RowConstants(double mean, double rstd) : centre(mean), scale(static_cast<T>(rstd)) {}
  template <class V> V xhat(V x) const { return centre(x) * scale; }
};
template <class T> struct RowConstants<false, T> {
  T scale;

  RowConstants() = default;
  RowConstants(double, double rstd) : scale(static_cast<T>(rstd)) {}
  template <class V> V xhat(V x) const { return x * scale; }
};

/// Elements of a row that are worked on at once: a block of sums.
inline constexpr std::size_t kPart = kBlock * kLanes;

/// Calls body(first, n) for the parts of a row.
template <class Body> [[gnu::always_inline]] inline void for_parts(std::size_t width, const Body& body) {
  for (std::size_t first = 0; first < width; first += kPart) body(first, std::min(kPart, width - first));
}

/// Copies elements [first, first + n) of a row that is not contiguous to `room`, and returns that.  Not inline, so that
/// it takes no registers from the loops around it.
template <class S>
[[gnu::noinline]] const S* copied_part(const S* row, const Rows& rows, std::size_t first, std::size_t n, S* room) {
  rows.pack(row, first, n, room);
  return room;
}

/// Prefetches the elements of `row` that are `ahead` elements behind those that the body of each() is at work with, V at
/// i: every line once.
template <class V, class S>
[[gnu::always_inline]] inline void prefetch_along(const S* row, std::size_t i, std::size_t ahead = 0) {
  constexpr std::size_t kLine = 64 / sizeof(S);
  if (width<V> >= kLine || i % kLine == 0) prefetch(row, i + ahead);
}

}  // namespace fastopt
