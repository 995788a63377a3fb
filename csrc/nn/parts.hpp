/// Rows in parts: what elementwise kernels work on at once, shared by threads.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <tuple>

#include "core/reduce.hpp"
#include "core/rows.hpp"
#include "core/simd.hpp"
#include "core/threads/parallel.hpp"

namespace fastopt {

/// Elements [first, first + n) of row number `row`: where they are, or a copy in `room` if they do not follow one another.
template <class T>
const T* part_of(const T* x, const Rows& rows, std::size_t row, std::size_t first, std::size_t n, T* room) {
  x += rows.offset(row);
  if (rows.contiguous()) return x + first;
  rows.pack(x, first, n, room);
  return room;
}

/// Calls body(row, first, n) for the parts of rows, by all threads; `nanoseconds` are those of one element.
template <class Body> void for_row_parts(std::size_t rows, std::size_t width, double nanoseconds, const Body& body) {
  const std::size_t parts = (width + kPart - 1) / kPart;
  parallel(threads_for(static_cast<double>(rows * width) * nanoseconds), [&](int thread, int threads) {
    const Range mine = share(rows * parts, thread, threads);
    for (std::size_t i = mine.begin; i < mine.end; ++i) {
      const std::size_t first = i % parts * kPart;
      body(i / parts, first, std::min(kPart, width - first));
    }
  });
}

/// Calls f(V of each input) for n elements and stores what it returns, a V for each output.  The last elements are computed
/// in a vector that is filled up with zeros, so that there is one copy of f, which may be long.
template <class T, std::size_t Outputs, std::size_t Inputs, class F>
[[gnu::always_inline]] inline void map_elements(std::size_t n, const std::array<T*, Outputs>& to,
                                                const std::array<const T*, Inputs>& from, const F& f) {
  using V = Vector<T>;
  for (std::size_t i = 0; i < n; i += width<V>) {
    const std::size_t some = std::min(width<V>, n - i);
    std::array<V, Inputs> x = {};
    if (some == width<V>) [[likely]]
      unroll<Inputs>([&](auto k) { x[k] = load<V>(from[k] + i); });
    else
      for (std::size_t k = 0; k < Inputs; ++k) std::memcpy(&x[k], from[k] + i, some * sizeof(T));
    const std::array<V, Outputs> y = std::apply(f, x);
    if (some == width<V>) [[likely]]
      unroll<Outputs>([&](auto k) { store(to[k] + i, y[k]); });
    else
      for (std::size_t k = 0; k < Outputs; ++k) std::memcpy(to[k] + i, &y[k], some * sizeof(T));
  }
}

}  // namespace fastopt
