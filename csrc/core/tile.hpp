/// The only element loops and the only reductions.
///
/// Elementwise work runs over native vectors and then single numbers.  Sums run in 64 lanes, whatever the width of a
/// vector: element i of a row goes to lane i mod 64.  A lane adds up to 16 elements in the compute type (a block), and
/// blocks in order in double; lanes are folded in one fixed tree.  So a sum has the same bits on every instruction set,
/// and the error of a float32 sum stays that of 16 additions, however long the row is.  `fastopt.reference._sums` is
/// the same in NumPy.  Norms of whole tensors are summed in double from the start, in the same lanes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "core/storage.hpp"

namespace fastopt {

inline constexpr std::size_t kLanes = 64;  ///< elements in a tile
inline constexpr std::size_t kBlock = 16;  ///< tiles that are summed in the compute type

/// Calls body(i, V) for i in [0, n): V is a native vector, a short one and a single number for the tail.
template <class T, class Body> inline void each(std::size_t n, Body&& body) {
  using V = Vector<T>;
  using S = ShortVector<T>;
  std::size_t i = 0;
  for (const std::size_t end = n - n % width<V>; i != end; i += width<V>) body(i, V{});
  if constexpr (width<S> < width<V>)
    for (const std::size_t end = n - n % width<S>; i != end; i += width<S>) body(i, S{});
  for (; i != n; ++i) body(i, T{});
}

/// Stores V, past the caches if Streamed.
template <bool Streamed, class V, class T> inline void put(T* to, V value) {
  if constexpr (Streamed)
    stream(to, value);
  else
    store(to, value);
}

/// Whether results of so many bytes at `to`, in rows of so many, are better stored past the caches.
inline bool worth_streaming(const void* to, std::size_t row_bytes, std::size_t bytes) {
  constexpr std::size_t kCached = 8 << 20;
  return bytes > kCached && reinterpret_cast<std::uintptr_t>(to) % 16 == 0 && row_bytes % 16 == 0;
}

/// As each, but native vectors begin where the cache lines of `like` do: memory that is read and written beside it, row
/// after row, usually begins there too.
template <class T, class Body> inline void each_from_line(const T* like, std::size_t n, Body&& body) {
  const std::size_t past_line = reinterpret_cast<std::uintptr_t>(like) % 64 / sizeof(T);
  const std::size_t head = past_line == 0 ? 0 : std::min(64 / sizeof(T) - past_line, n);
  each<T>(head, body);
  each<T>(n - head, [&](std::size_t i, auto number) { body(head + i, number); });
}

/// Calls body with std::true_type or std::false_type: one copy of its loops for each, without the question inside.
template <class Body> inline void with_flag(bool flag, Body&& body) {
  flag ? body(std::true_type{}) : body(std::false_type{});
}

/// The lanes of K sums, in double.
template <std::size_t K> struct alignas(64) Lanes {
  double of[K][kLanes];
  bool empty = true;
};

namespace detail {

template <std::size_t N, class Body> [[gnu::always_inline]] inline void unroll(Body&& body) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (body(std::integral_constant<std::size_t, I>{}), ...);
  }(std::make_index_sequence<N>{});
}

/// What the tiles of one block add to each lane.
template <std::size_t K, class T> struct alignas(64) Block {
  T of[K][kLanes];
};

/// Σ over the tiles of some rows in AtOnce vectors of lanes from `lane` on, which stay in registers.
template <class V, std::size_t AtOnce, std::size_t K, class T, class Terms>
[[gnu::always_inline]] inline void sum_tiles(Block<K, T>& block, std::size_t lane, std::size_t rows, std::size_t tiles,
                                             const Terms& terms) {
  std::array<std::array<V, AtOnce>, K> sum = {};
  for (std::size_t row = 0; row < rows; ++row)
    for (std::size_t tile = 0; tile < tiles; ++tile)
      unroll<AtOnce>([&](auto u) {
        const std::array<V, K> term = terms(row, tile, lane + u * width<V>, V{});
        unroll<K>([&](auto k) { sum[k][u] += term[k]; });
      });
  unroll<K>([&](auto k) { unroll<AtOnce>([&](auto u) { store(block.of[k] + lane + u * width<V>, sum[k][u]); }); });
}

/// Adds a block to the lanes, which begin at +0.
template <std::size_t K, class T> inline void add_block(Lanes<K>& lanes, const Block<K, T>& block) {
  for (std::size_t k = 0; k < K; ++k)
    if (lanes.empty)
      for (std::size_t i = 0; i < kLanes; ++i) lanes.of[k][i] = 0.0 + static_cast<double>(block.of[k][i]);
    else
      for (std::size_t i = 0; i < kLanes; ++i) lanes.of[k][i] += static_cast<double>(block.of[k][i]);
  lanes.empty = false;
}

/// Vectors of lanes at once: enough independent sums to hide the latency of an addition.
inline constexpr std::size_t kAtOnce = 4;

template <std::size_t N> struct Doubles {
  typedef double type __attribute__((vector_size(N * sizeof(double))));
};

/// Σ of N numbers in a vector: the upper half onto the lower one, until one is left.
template <std::size_t N> inline double fold_vector(typename Doubles<N>::type v) {
  if constexpr (N == 2) {
    return v[0] + v[1];
  } else {
    typename Doubles<N / 2>::type low, high;
    std::memcpy(&low, &v, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
    return fold_vector<N / 2>(low + high);
  }
}

template <std::size_t N, class V> inline double fold_vectors(const std::array<V, N>& v) {
  if constexpr (N == 1) {
    return fold_vector<width<V>>(v[0]);
  } else {
    std::array<V, N / 2> half;
    unroll<N / 2>([&](auto i) { half[i] = v[i] + v[i + N / 2]; });
    return fold_vectors(half);
  }
}

}  // namespace detail

/// Adds `rows` rows of n contiguous elements to K sums in lanes: terms(row, i, V) is what element(s) i add to each.
/// Short rows share a block: it has first the full tiles of each of them, then the rests.  ahead(row) is called in time
/// to prefetch a row.
template <std::size_t K, class T, class Terms, class Ahead>
inline void add_rows(Lanes<K>& lanes, std::size_t rows, std::size_t n, const Terms& terms, const Ahead& ahead) {
  using V = Vector<T>;
  constexpr std::size_t kStep = detail::kAtOnce * width<V>;
  const std::size_t tiles = n / kLanes, rest = n % kLanes, all = tiles + (rest != 0);
  if (all == 0) return;
  const std::size_t together = std::max<std::size_t>(1, kBlock / all);  // rows in a block
  for (std::size_t row = 0; row < rows; row += together) {
    const std::size_t count = std::min(together, rows - row);
    for (std::size_t next = row + count; next < std::min(row + 2 * together, rows); ++next) ahead(next);
    for (std::size_t first = 0; first < all; first += kBlock) {
      const std::size_t last = std::min(first + kBlock, tiles), full = last - first;
      detail::Block<K, T> block;
      for (std::size_t lane = 0; lane < kLanes; lane += kStep)
        detail::sum_tiles<V, detail::kAtOnce>(block, lane, count, full,
                                              [&](std::size_t r, std::size_t tile, std::size_t at, auto number) {
                                                return terms(row + r, (first + tile) * kLanes + at, number);
                                              });
      if (rest != 0 && full < kBlock)
        for (std::size_t r = 0; r < count; ++r)
          each<T>(rest, [&](std::size_t lane, auto number) {
            using U = decltype(number);
            const std::array<U, K> term = terms(row + r, tiles * kLanes + lane, number);
            for (std::size_t k = 0; k < K; ++k) store(block.of[k] + lane, load<U>(block.of[k] + lane) + term[k]);
          });
      detail::add_block(lanes, block);
    }
  }
}

/// Columns that are summed or mapped at once: enough for the processor to follow the rows, few enough for L1.
inline constexpr std::size_t kColumns = 256;

/// Rows that are worked on together.
inline constexpr std::size_t kTogether = 4;

/// Calls body(row, count), with Together or 1 as a constant count, for rows [begin, end).
template <std::size_t Together, class Body> inline void for_few_rows(std::size_t begin, std::size_t end, Body&& body) {
  for (; begin + Together <= end; begin += Together) body(begin, std::integral_constant<std::size_t, Together>{});
  for (; begin < end; ++begin) body(begin, std::integral_constant<std::size_t, 1>{});
}

/// K sums of each of up to kColumns columns.
template <std::size_t K> struct ColumnSums {
  double of[K][kColumns] = {};
};

/// Adds `rows` rows to the sums of `columns` columns: terms(row, column, V).  A column adds up in the compute type over
/// blocks of 16 rows, and blocks in order in double.  The sums of few columns stay in registers; those of many are in
/// L1, so that memory is read row by row.
template <std::size_t K, class T, class Terms>
inline void add_columns(ColumnSums<K>& sums, const T* like, std::size_t rows, std::size_t columns, const Terms& terms) {
  using V = Vector<T>;
  for (std::size_t first = 0; first < rows; first += kBlock) {
    const std::size_t count = std::min(kBlock, rows - first);
    alignas(64) T block[K][kColumns];
    if (columns <= kLanes) {
      const auto sum = [&]<class U, std::size_t AtOnce>(U, std::size_t column,
                                                        std::integral_constant<std::size_t, AtOnce>) {
        std::array<std::array<U, AtOnce>, K> total = {};
        for (std::size_t row = first; row < first + count; ++row)
          detail::unroll<AtOnce>([&](auto u) {
            const std::array<U, K> term = terms(row, column + u * width<U>, U{});
            detail::unroll<K>([&](auto k) { total[k][u] += term[k]; });
          });
        detail::unroll<K>([&](auto k) {
          detail::unroll<AtOnce>([&](auto u) { store(block[k] + column + u * width<U>, total[k][u]); });
        });
      };
      constexpr std::integral_constant<std::size_t, detail::kAtOnce> kMany;
      std::size_t column = 0;
      for (; column + kMany * width<V> <= columns; column += kMany * width<V>) sum(V{}, column, kMany);
      each<T>(columns - column,
              [&](std::size_t i, auto number) { sum(number, column + i, std::integral_constant<std::size_t, 1>{}); });
    } else {
      for (std::size_t k = 0; k < K; ++k) std::fill_n(block[k], columns, T{});
      for_few_rows<2>(first, first + count, [&](std::size_t row, auto few) {
        each_from_line<T>(like, columns, [&, terms](std::size_t column, auto number) {
          using U = decltype(number);
          std::array<U, K> sum;
          detail::unroll<K>([&](auto k) { sum[k] = load<U>(block[k] + column); });
          detail::unroll<few>([&](auto r) {
            const std::array<U, K> term = terms(row + r, column, number);
            detail::unroll<K>([&](auto k) { sum[k] += term[k]; });
          });
          detail::unroll<K>([&](auto k) { store(block[k] + column, sum[k]); });
        });
      });
    }
    for (std::size_t k = 0; k < K; ++k)
      for (std::size_t column = 0; column < columns; ++column)
        sums.of[k][column] += static_cast<double>(block[k][column]);
  }
}

/// The K sums: lane i and lane i + 32, then 16, 8, 4, 2, 1 apart.  Without any numbers, 0.
template <std::size_t K> inline std::array<double, K> fold(const Lanes<K>& lanes) {
  using V = Vector<double>;
  std::array<double, K> sums = {};
  if (!lanes.empty)
    for (std::size_t k = 0; k < K; ++k) {
      std::array<V, kLanes / width<V>> v;
      detail::unroll<kLanes / width<V>>([&](auto i) { v[i] = load<V>(lanes.of[k] + i * width<V>); });
      sums[k] = detail::fold_vectors(v);
    }
  return sums;
}

/// K sums over n contiguous elements.
template <std::size_t K, class T, class Terms>
inline std::array<double, K> row_sums(std::size_t n, const Terms& terms) {
  Lanes<K> lanes;
  add_rows<K, T>(
      lanes, 1, n, [&](std::size_t, std::size_t i, auto number) { return terms(i, number); }, [](std::size_t) {});
  return fold(lanes);
}

/// 64 lanes of one sum of products that are taken in double, which has them exactly for float32: for norms of whole
/// tensors, where a square must not overflow.
struct DoubleLanes {
  alignas(64) double of[kLanes] = {};

  /// Adds a·b, exact for float32, to the lanes from `lane` on.
  template <class V> void add(std::size_t lane, V a, V b) {
    if constexpr (is_number<V>) {
      of[lane] += static_cast<double>(a) * static_cast<double>(b);
    } else {
      using D = Vector<double>;
      using Half = std::conditional_t<width<V> <= width<D>, V, typename detail::VectorOf<float, width<D> * 4>::type>;
      for (std::size_t i = 0; i < width<V>; i += width<Half>) {
        Half x, y;
        std::memcpy(&x, reinterpret_cast<const char*>(&a) + i * (sizeof(V) / width<V>), sizeof x);
        std::memcpy(&y, reinterpret_cast<const char*>(&b) + i * (sizeof(V) / width<V>), sizeof y);
        using Wide = typename detail::VectorOf<double, width<Half> * 8>::type;
        const Wide product = __builtin_convertvector(x, Wide) * __builtin_convertvector(y, Wide);
        store(of + lane + i, load<Wide>(of + lane + i) + product);
      }
    }
  }

  double total() const {
    Lanes<1> lanes;
    std::copy_n(of, kLanes, lanes.of[0]);
    lanes.empty = false;
    return fold(lanes)[0];
  }
};

/// A native vector of doubles from as many numbers of T.
template <class T> inline Vector<double> widened(const T* from) {
  return __builtin_convertvector(load<typename detail::VectorOf<T, width<Vector<double>> * sizeof(T)>::type>(from),
                                 Vector<double>);
}

/// Adds the squares of n numbers to lanes, from the first lane on, and to as many columns.
template <class T> void add_squares(const T* x, std::size_t n, DoubleLanes& lanes, double* columns) {
  using D = Vector<double>;
  constexpr std::size_t kVectors = kLanes / width<D>;
  std::array<D, kVectors> sum;
  detail::unroll<kVectors>([&](auto k) { sum[k] = load<D>(lanes.of + k * width<D>); });
  std::size_t at = 0;
  for (; at + kLanes <= n; at += kLanes)
    detail::unroll<kVectors>([&](auto k) {
      const std::size_t i = at + k * width<D>;
      const D value = widened(x + i), square = value * value;
      sum[k] += square;
      store(columns + i, load<D>(columns + i) + square);
    });
  detail::unroll<kVectors>([&](auto k) { store(lanes.of + k * width<D>, sum[k]); });
  for (std::size_t lane = 0; at < n; ++at, ++lane) {
    const double value = static_cast<double>(x[at]);
    lanes.of[lane] += value * value;
    columns[at] += value * value;
  }
}

}  // namespace fastopt
