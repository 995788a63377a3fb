/// The only element loops and the only reductions.
///
/// Elementwise work runs over native vectors and then single numbers.  Sums run in 64 lanes, whatever the width of a vector:
/// element i of a row goes to lane i mod 64.  A lane adds up to 16 elements in the compute type (a block), and blocks in order
/// in double; lanes are folded in one fixed tree.  So a sum has the same bits on every instruction set, and the error of a
/// float32 sum stays that of 16 additions, however long the row is.  `fastopt.reference._sums` is the same in NumPy.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "core/storage.hpp"

namespace fastopt {

inline constexpr std::size_t kLanes = 64;  ///< elements in a tile
inline constexpr std::size_t kBlock = 16;  ///< tiles that are summed in the compute type

/// A stand-in for K lanes' worth of sums, in double.
template <std::size_t K> struct alignas(64) Lanes {
  double of[K][kLanes] = {};
};

/// Calls body(i, V) for i in [0, n): V is a native vector, and a single number for the tail.
template <class T, class Body> inline void each(std::size_t n, Body&& body) {
  using V = Vector<T>;
  std::size_t i = 0;
  for (; i + width<V> <= n; i += width<V>) body(i, V{});
  for (; i < n; ++i) body(i, T{});
}

namespace detail {

template <std::size_t N, class Body> [[gnu::always_inline]] inline void unroll(Body&& body) {
  [&]<std::size_t... I>(std::index_sequence<I...>) { (body(std::integral_constant<std::size_t, I>{}), ...); }(std::make_index_sequence<N>{});
}

/// The first `count` lanes of a vector of terms; the others are zero, which changes no sum that started from +0.
template <class T, std::size_t K, class Terms>
inline std::array<Vector<T>, K> first_lanes(std::size_t count, std::size_t tile, std::size_t at, const Terms& terms) {
  alignas(kVectorBytes) T part[K][width<Vector<T>>] = {};
  for (std::size_t lane = 0; lane < count; ++lane) {
    const std::array<T, K> term = terms(tile, at + lane, T{});
    for (std::size_t k = 0; k < K; ++k) part[k][lane] = term[k];
  }
  std::array<Vector<T>, K> padded;
  for (std::size_t k = 0; k < K; ++k) padded[k] = load<Vector<T>>(part[k]);
  return padded;
}

}  // namespace detail

/// Adds tiles to K sums in lanes: terms(tile, lane, V) is what the element(s) there add to each of the K sums.
/// The first `edge` lanes have `tiles` tiles, the others `tiles_past_edge` <= tiles.
template <std::size_t K, class T, class Terms>
inline void add_tiles(Lanes<K>& lanes, std::size_t tiles, std::size_t tiles_past_edge, std::size_t edge, const Terms& terms) {
  using V = Vector<T>;
  constexpr std::size_t kAtOnce = 4;  // vectors of lanes at once: enough independent sums to hide the latency of an addition
  constexpr std::size_t kWidth = width<V>;
  const auto end_of = [&](std::size_t lane) { return lane + kWidth <= edge ? tiles : tiles_past_edge; };

  for (std::size_t first = 0; first < tiles; first += kBlock) {
    const std::size_t last = std::min(first + kBlock, tiles);
    for (std::size_t lane = 0; lane < kLanes; lane += kAtOnce * kWidth) {
      if (lane >= edge && first >= tiles_past_edge) break;
      std::array<std::array<V, kAtOnce>, K> sum = {};
      const std::size_t common = std::min(last, end_of(lane + (kAtOnce - 1) * kWidth));
      for (std::size_t tile = first; tile < common; ++tile)
        detail::unroll<kAtOnce>([&](auto u) {
          const std::array<V, K> term = terms(tile, lane + u * kWidth, V{});
          detail::unroll<K>([&](auto k) { sum[k][u] += term[k]; });
        });
      detail::unroll<kAtOnce>([&](auto u) {
        const std::size_t at = lane + u * kWidth, end = std::min(last, end_of(at));
        std::size_t tile = std::max(first, common);
        for (; tile < end; ++tile) {
          const std::array<V, K> term = terms(tile, at, V{});
          detail::unroll<K>([&](auto k) { sum[k][u] += term[k]; });
        }
        if (at < edge && edge < at + kWidth)
          for (; tile < last; ++tile) {
            const std::array<V, K> term = detail::first_lanes<T, K>(edge - at, tile, at, terms);
            detail::unroll<K>([&](auto k) { sum[k][u] += term[k]; });
          }
      });
      detail::unroll<K>([&](auto k) {
        alignas(kVectorBytes) T block[kAtOnce * kWidth];
        detail::unroll<kAtOnce>([&](auto u) { store(block + u * kWidth, sum[k][u]); });
        for (std::size_t i = 0; i < kAtOnce * kWidth; ++i) lanes.of[k][lane + i] += static_cast<double>(block[i]);
      });
    }
  }
}

/// Adds n contiguous elements to K sums in lanes: terms(i, V).
template <std::size_t K, class T, class Terms> inline void add_row(Lanes<K>& lanes, std::size_t n, const Terms& terms) {
  const std::size_t tiles = n / kLanes, rest = n % kLanes;
  add_tiles<K, T>(lanes, tiles + (rest != 0), tiles, rest != 0 ? rest : kLanes,
                  [&](std::size_t tile, std::size_t lane, auto number) { return terms(tile * kLanes + lane, number); });
}

/// The K sums: lane i and lane i + 32, then 16, 8, 4, 2, 1 apart.
template <std::size_t K> inline std::array<double, K> fold(Lanes<K>& lanes) {
  using V = Vector<double>;
  std::array<double, K> sums;
  for (std::size_t k = 0; k < K; ++k) {
    double* lane = lanes.of[k];
    std::size_t half = kLanes / 2;
    for (; half >= width<V>; half /= 2)
      for (std::size_t i = 0; i < half; i += width<V>) store(lane + i, load<V>(lane + i) + load<V>(lane + i + half));
    for (; half > 0; half /= 2)
      for (std::size_t i = 0; i < half; ++i) lane[i] += lane[i + half];
    sums[k] = lane[0];
  }
  return sums;
}

/// K sums over n contiguous elements.
template <std::size_t K, class T, class Terms> inline std::array<double, K> row_sums(std::size_t n, const Terms& terms) {
  Lanes<K> lanes;
  add_row<K, T>(lanes, n, terms);
  return fold(lanes);
}

}  // namespace fastopt
