/// Rows of which every stride-th element lies together, so that windows that move by the stride are vectors.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/reduce.hpp"
#include "core/simd.hpp"

namespace fastopt {

/// Elements 0, 2, 4, … of two vectors (Which = 0), or 1, 3, 5, ….
template <std::size_t Which, class V> inline V every_second(V a, V b) {
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, (2 * I + Which)...);
  }(std::make_index_sequence<width<V>>{});
}

/// The elements of two vectors in turn: the first half of the result (Which = 0), or the second.
template <std::size_t Which, class V> inline V in_turn(V a, V b) {
  constexpr std::size_t kN = width<V>;
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, (Which * kN / 2 + I / 2 + I % 2 * kN)...);
  }(std::make_index_sequence<kN>{});
}

/// to[i] = from[i·step], i < count.
template <class T, class S> inline void take_every(const S* from, std::ptrdiff_t step, std::size_t count, T* to) {
  if (step == 1) {
    each<T>(count, [&](std::size_t i, auto number) { store(to + i, load<decltype(number)>(from + i)); });
    return;
  }
  std::size_t i = 0;
  if (step == 2) {
    using V = Vector<T>;
    for (; i + width<V> < count; i += width<V>)  // both vectors end before the last element's neighbour
      store(to + i, every_second<0>(load<V>(from + 2 * i), load<V>(from + 2 * i + width<V>)));
  }
  for (; i < count; ++i) to[i] = load<T>(from + static_cast<std::ptrdiff_t>(i) * step);
}

/// The opposite: to[i·stride] = from[i] of each of `stride` rows, that lie `apart`, up to to[count − 1].  Element `first`
/// of row 0 is the one before to[0], if that is not in row 0.
template <class T, class S>
inline void merge_phases(const T* phases, std::size_t apart, std::size_t stride, std::size_t first, std::size_t count,
                         S* to) {
  std::size_t i = 0;
  if (stride == 1) {
    each<T>(count, [&](std::size_t k, auto number) { store(to + k, load<decltype(number)>(phases + first + k)); });
    return;
  }
  std::size_t phase = first % stride, at = first / stride;
  if (stride == 2) {
    using V = Vector<T>;
    const T *even = phases + phase * apart + at, *odd = phases + (1 - phase) * apart + at + phase;
    for (; i + 2 * width<V> <= count; i += 2 * width<V>) {
      const V a = load<V>(even + i / 2), b = load<V>(odd + i / 2);
      store(to + i, in_turn<0>(a, b));
      store(to + i + width<V>, in_turn<1>(a, b));
    }
    for (; i < count; ++i) store(to + i, i % 2 == 0 ? even[i / 2] : odd[i / 2]);
    return;
  }
  for (; i < count; ++i) {
    store(to + i, phases[phase * apart + at]);
    if (++phase == stride) phase = 0, ++at;
  }
}

}  // namespace fastopt
