/// The largest element of a row, and the sum of its exponentials.
#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <limits>

#include "core/functions.hpp"
#include "core/reduce.hpp"
#include "nn/parts.hpp"

namespace fastopt {

/// The largest of n numbers; NaN if one of them is.
template <class T> T largest(const T* x, std::size_t n) {
  using V = Vector<T>;
  constexpr std::size_t kVectors = 4, kStep = kVectors * width<V>;
  constexpr T kLeast = -std::numeric_limits<T>::infinity();
  std::array<V, kVectors> most;
  for (V& one : most) one = V{} + kLeast;
  std::size_t i = 0;
  for (; i + kStep <= n; i += kStep)
    unroll<kVectors>([&](auto k) { most[k] = maximum(load<V>(x + i + k * width<V>), most[k]); });
  const V all = maximum(maximum(most[0], most[1]), maximum(most[2], most[3]));
  T result = kLeast;
  for (std::size_t k = 0; k < width<V>; ++k) result = maximum(T(all[k]), result);
  for (; i < n; ++i) result = maximum(x[i], result);
  return result;
}

/// e = e^{scale·x − most} of n numbers, and Σ e.
template <class T> double exp_sum(const T* x, T scale, T most, std::size_t n, T* e) {
  Lanes<1> lanes;
  for (std::size_t first = 0; first < n; first += kPart) {
    const std::size_t some = std::min(kPart, n - first);
    map_elements<T, 1, 1>(some, {e + first}, {x + first},
                          [=](Vector<T> v) { return std::array{exp(Vector<T>(v * scale - most))}; });
    LaneBlock<1, T> block;
    sum_block(block, 0, some / kLanes, some % kLanes,
              [from = e + first](std::size_t i, auto number) { return std::array{load<decltype(number)>(from + i)}; });
    add_block(lanes, block);
  }
  return fold(lanes)[0];
}

}  // namespace fastopt
