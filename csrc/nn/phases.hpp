/// Rows of which every stride-th element lies together, so that windows that move by the stride are vectors.
#pragma once

#include <cstddef>
#include <utility>

#include "core/reduce.hpp"
#include "core/simd.hpp"

namespace fastopt {

/// Every second of 2·width<V> numbers, the first one too (Which = 0) or not; reads none behind the last of them.
template <std::size_t Which, class V, class S> inline V every_second(const S* from) {
  if constexpr (is_number<V>) {
    return load<V>(from + Which);
  } else {
    constexpr std::size_t kN = width<V>;
    const V a = load<V>(from), b = load<V>(from + kN - 1 + Which);
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      return __builtin_shufflevector(a, b, (2 * I < kN ? 2 * I + Which : 2 * I + 1)...);
    }(std::make_index_sequence<kN>{});
  }
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
  if (step == 2) {
    each<T>(count, [&](std::size_t i, auto number) { store(to + i, every_second<0, decltype(number)>(from + 2 * i)); });
    return;
  }
  for (std::size_t i = 0; i < count; ++i) to[i] = load<T>(from + static_cast<std::ptrdiff_t>(i) * step);
}

/// Stores the elements of two vectors, or two numbers, in turn.
template <class V, class S> inline void store_in_turn(S* to, V a, V b) {
  if constexpr (is_number<V>) {
    store(to, a);
    store(to + 1, b);
  } else {
    store(to, in_turn<0>(a, b));
    store(to + width<V>, in_turn<1>(a, b));
  }
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
    for (; i + 2 * width<V> <= count; i += 2 * width<V>)
      store_in_turn(to + i, load<V>(even + i / 2), load<V>(odd + i / 2));
    for (; i < count; ++i) store(to + i, i % 2 == 0 ? even[i / 2] : odd[i / 2]);
    return;
  }
  for (; i < count; ++i) {
    store(to + i, phases[phase * apart + at]);
    if (++phase == stride) phase = 0, ++at;
  }
}

}  // namespace fastopt
