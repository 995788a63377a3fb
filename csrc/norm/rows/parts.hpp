/// The code that both passes of normalizations of rows share: the constants of a row, and its parts.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/codec/half.hpp"
#include "core/reduce.hpp"
#include "core/rows.hpp"
#include "core/simd.hpp"
#include "norm/statistics.hpp"

namespace fastopt {

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

/// Calls body(first, n) for the parts of a row.
template <class Body> [[gnu::always_inline]] inline void for_parts(std::size_t width, const Body& body) {
  for (std::size_t first = 0; first < width; first += kPart) body(first, std::min(kPart, width - first));
}

/// Copies elements [first, first + n) of a row that is not contiguous to `room`, and returns `room`.  It is not inline,
/// so that it takes no registers from the loops around it.
template <class S>
[[gnu::noinline]] const S* copied_part(const S* row, const Rows& rows, std::size_t first, std::size_t n, S* room) {
  rows.pack(row, first, n, room);
  return room;
}

/// Prefetches the elements of `row` that are `ahead` elements after V at i, the current elements of each()'s body.
/// Every cache line is prefetched once.
template <class V, class S>
[[gnu::always_inline]] inline void prefetch_along(const S* row, std::size_t i, std::size_t ahead = 0) {
  constexpr std::size_t kLine = 64 / sizeof(S);
  if (width<V> >= kLine || i % kLine == 0) prefetch(row, i + ahead);
}

}  // namespace fastopt
