/// The only element loops and the only reductions.
///
/// Elementwise work runs over native vectors and then single numbers.  Sums run in 64 lanes, whatever the width of a
/// vector: element i of a row goes to lane i mod 64.  A lane adds up to 16 elements in the compute type (a block),
/// which then become 16 sums of four lanes each.  Blocks are added in order in double, and the 16 sums are folded in
/// one fixed tree.  So a sum has the same bits on every instruction set, and the error of a float32 sum stays that of
/// 18 additions, however long the row is.  `fastopt.reference._sums` is the same in NumPy.  Norms of whole tensors are
/// summed in double from the start, in the same lanes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "core/codec/half.hpp"
#include "core/cost.hpp"
#include "core/simd.hpp"

namespace fastopt {

inline constexpr std::size_t kLanes = 64;              ///< elements in a tile
inline constexpr std::size_t kBlock = 16;              ///< tiles that are summed in the compute type
inline constexpr std::size_t kPart = kBlock * kLanes;  ///< elements of a row that are worked on at once: a block
inline constexpr std::size_t kFolds = 16;              ///< sums of four lanes each

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
template <bool Streamed, class V, class S> inline void put(S* to, V value) {
  if constexpr (Streamed)
    stream(to, value);
  else
    store(to, value);
}

/// Calls body with std::true_type or std::false_type, so that its loops are compiled once for each, without a branch
/// inside.
template <class Body> inline void with_flag(bool flag, Body&& body) {
  flag ? body(std::true_type{}) : body(std::false_type{});
}

/// The same for the flag that says whether results are stored past the caches.  Only float32 and bfloat16 have both
/// copies: large arrays of the other types are rare, and the copies would double their kernels.
template <class S, class Body> inline void with_streaming(bool streamed, Body&& body) {
  if constexpr (!kBaseline && (std::is_same_v<S, float> || std::is_same_v<S, bfloat16>))
    with_flag(streamed, body);
  else
    body(std::false_type{});
}

/// K reductions: kFolds partial sums in double for each, one per four lanes.
template <std::size_t K> struct alignas(64) Lanes {
  double of[K][kFolds] = {};
};

/// The sums of one block of tiles, by lane.
template <std::size_t K, class T> struct alignas(64) LaneBlock {
  T of[K][kLanes];
};

/// Sums the tiles of some rows, in AtOnce vectors of lanes from `lane` on.  The sums stay in registers.
template <class V, std::size_t AtOnce, std::size_t K, class T, class Terms>
[[gnu::always_inline]] inline void sum_tiles(LaneBlock<K, T>& block, std::size_t lane, std::size_t rows,
                                             std::size_t tiles, const Terms& terms) {
  std::array<std::array<V, AtOnce>, K> sum = {};
  for (std::size_t row = 0; row < rows; ++row) {
    const auto of_row = terms(row);
    for (std::size_t tile = 0; tile < tiles; ++tile)
      unroll<AtOnce>([&](auto u) {
        const std::array<V, K> term = of_row(tile * kLanes + lane + u * width<V>, V{});
        unroll<K>([&](auto k) { sum[k][u] += term[k]; });
      });
  }
  unroll<K>([&](auto k) { unroll<AtOnce>([&](auto u) { store(block.of[k] + lane + u * width<V>, sum[k][u]); }); });
}

/// Adds a block to the sums.  Lanes that are 32 apart are added first, then those 16 apart.
template <std::size_t K, class T>
[[gnu::always_inline]] inline void add_block(Lanes<K>& lanes, const LaneBlock<K, T>& block) {
  using V = Vector<T>;
  using D = Vector<double>;
  unroll<K>([&](auto k) {
    alignas(64) T sums[kFolds];
    unroll<kFolds / width<V>>([&](auto u) {
      const auto at = [&](std::size_t lane) { return load<V>(block.of[k] + lane + u * width<V>); };
      store(sums + u * width<V>, (at(0) + at(32)) + (at(16) + at(48)));
    });
    unroll<kFolds / width<D>>([&](auto u) {
      double* const to = lanes.of[k] + u * width<D>;
      store(to, load<D>(to) + widened(sums + u * width<D>));
    });
  });
}

/// Vectors of lanes at once: enough independent sums to hide the latency of an addition.
inline constexpr std::size_t kAtOnce = 4;

/// Σ of the N numbers in a vector: adds the upper half to the lower one until one number is left.
template <std::size_t N> [[gnu::always_inline]] inline double fold_vector(typename Doubles<N>::type v) {
  if constexpr (N == 2) {
    return v[0] + v[1];
  } else {
    const auto [low, high] = [&]<std::size_t... I>(std::index_sequence<I...>) {
      return std::pair(__builtin_shufflevector(v, v, I...), __builtin_shufflevector(v, v, (I + N / 2)...));
    }(std::make_index_sequence<N / 2>{});
    return fold_vector<N / 2>(low + high);
  }
}

template <std::size_t N, class V> [[gnu::always_inline]] inline double fold_vectors(const std::array<V, N>& v) {
  if constexpr (N == 1) {
    return fold_vector<width<V>>(v[0]);
  } else {
    std::array<V, N / 2> half;
    unroll<N / 2>([&](auto i) { half[i] = v[i] + v[i + N / 2]; });
    return fold_vectors(half);
  }
}

/// Σ of N numbers: adds those N/2 apart, then N/4, …, 1.
template <std::size_t N> [[gnu::always_inline]] inline double fold_doubles(const double* from) {
  using V = Vector<double>;
  std::array<V, N / width<V>> v;
  unroll<N / width<V>>([&](auto i) { v[i] = load<V>(from + i * width<V>); });
  return fold_vectors(v);
}

/// Adds `rows` rows of n contiguous elements to K sums in lanes: terms(row)(i, V) is what element(s) i add to each.
/// Short rows share a block, which takes the full tiles of all of them first and then their tails.  ahead(row) is
/// called in time to prefetch a row.
template <std::size_t K, class T, class Terms, class Ahead>
inline void add_rows(Lanes<K>& lanes, std::size_t rows, std::size_t n, const Terms& terms, const Ahead& ahead) {
  using V = Vector<T>;
  constexpr std::size_t kStep = kAtOnce * width<V>;
  const std::size_t tiles = n / kLanes, rest = n % kLanes, all = tiles + (rest != 0);
  if (all == 0) return;
  const std::size_t together = std::max<std::size_t>(1, kBlock / all);  // rows in a block
  for (std::size_t row = 0; row < rows; row += together) {
    const std::size_t count = std::min(together, rows - row);
    for (std::size_t next = row + count; next < std::min(row + 2 * together, rows); ++next) ahead(next);
    for (std::size_t first = 0; first < all; first += kBlock) {
      const std::size_t last = std::min(first + kBlock, tiles), full = last - first;
      LaneBlock<K, T> block;
      for (std::size_t lane = 0; lane < kLanes; lane += kStep)
        sum_tiles<V, kAtOnce>(block, lane, count, full, [&](std::size_t r) {
          return [of_row = terms(row + r), skipped = first * kLanes](std::size_t i, auto number) {
            return of_row(skipped + i, number);
          };
        });
      if (rest != 0 && full < kBlock)
        for (std::size_t r = 0; r < count; ++r)
          each<T>(rest, [&block, of_row = terms(row + r), skipped = tiles * kLanes](std::size_t lane, auto number) {
            using U = decltype(number);
            const std::array<U, K> term = of_row(skipped + lane, number);
            for (std::size_t k = 0; k < K; ++k) store(block.of[k] + lane, load<U>(block.of[k] + lane) + term[k]);
          });
      add_block(lanes, block);
    }
  }
}

/// How `total` rows are cut for sums over rows: into chunks of whole blocks; only the last chunk may be shorter.  The
/// number of chunks depends on `total` only.
struct Chunks {
  std::size_t total, rows;

  std::size_t count() const { return (total + rows - 1) / rows; }
  std::size_t begin(std::size_t chunk) const { return chunk * rows; }
  std::size_t size(std::size_t chunk) const { return std::min(rows, total - chunk * rows); }
};

/// How rows are cut into chunks: each has enough rows to be worth its share of the statistics, and few
/// enough to stay in cache.
inline Chunks chunks_of_columns(std::size_t rows, std::size_t columns) {
  constexpr std::size_t kFewest = 4 * kBlock;
  return {rows, std::max(kFewest, kColumnChunk / std::max<std::size_t>(columns, 1) / kBlock * kBlock)};
}

/// K sums of each of up to kColumns columns.
template <std::size_t K> struct ColumnSums {
  double of[K][kColumns] = {};
};

/// Calls body(column, V, count) for strips of `count` (a constant) vectors of columns.  Most of them begin where the
/// cache lines of `like` do: memory that is read and written beside it, row after row, usually begins there too.
template <class T, class S, class Body> inline void for_strips(const S* like, std::size_t columns, const Body& body) {
  using V = Vector<T>;
  constexpr std::integral_constant<std::size_t, 1> kOne;
  constexpr std::integral_constant<std::size_t, kAtOnce> kMany;
  const std::size_t past_line = reinterpret_cast<std::uintptr_t>(like) % 64 / sizeof(S);
  std::size_t column = past_line == 0 ? 0 : std::min(64 / sizeof(S) - past_line, columns);
  each<T>(column, [&](std::size_t i, auto number) { body(i, number, kOne); });
  for (; column + kMany * width<V> <= columns; column += kMany * width<V>) body(column, V{}, kMany);
  each<T>(columns - column, [&](std::size_t i, auto number) { body(column + i, number, kOne); });
}

/// Adds `rows` rows to the sums of `columns` columns: terms(row)(column, V).  Each column is summed in the compute type
/// over blocks of 16 rows, and the blocks are added in order in double.  The sums of a strip of columns stay in
/// registers, and the 16 rows in L1.
template <std::size_t K, class T, class S, class Terms>
inline void add_columns(ColumnSums<K>& sums, const S* like, std::size_t rows, std::size_t columns, const Terms& terms) {
  for (std::size_t first = 0; first < rows; first += kBlock) {
    const std::size_t count = std::min(kBlock, rows - first);
    alignas(64) T block[K][kColumns];
    for_strips<T>(like, columns,
                  [&]<class U, std::size_t AtOnce>(std::size_t column, U, std::integral_constant<std::size_t, AtOnce>) {
                    std::array<std::array<U, AtOnce>, K> total = {};
                    for (std::size_t row = first; row < first + count; ++row)
                      unroll<AtOnce>([&, of_row = terms(row)](auto u) {
                        const std::array<U, K> term = of_row(column + u * width<U>, U{});
                        unroll<K>([&](auto k) { total[k][u] += term[k]; });
                      });
                    unroll<K>([&](auto k) {
                      unroll<AtOnce>([&](auto u) { store(block[k] + column + u * width<U>, total[k][u]); });
                    });
                  });
    for (std::size_t k = 0; k < K; ++k) {
#pragma omp simd
      for (std::size_t column = 0; column < columns; ++column)
        sums.of[k][column] += static_cast<double>(block[k][column]);
    }
  }
}

/// The K sums: adds the partial sums 8, 4, 2 and 1 apart.
template <std::size_t K> [[gnu::always_inline]] inline std::array<double, K> fold(const Lanes<K>& lanes) {
  std::array<double, K> sums;
  unroll<K>([&](auto k) { sums[k] = fold_doubles<kFolds>(lanes.of[k]); });
  return sums;
}

/// Sums `tiles` full tiles of a row, and the `rest` numbers behind them, by lane.
template <std::size_t K, class T, class Terms>
[[gnu::always_inline]] inline void sum_block(LaneBlock<K, T>& block, std::size_t first, std::size_t tiles,
                                             std::size_t rest, const Terms& terms) {
  using V = Vector<T>;
  constexpr std::size_t kStep = kAtOnce * width<V>;
  for (std::size_t lane = 0; lane < kLanes; lane += kStep)
    sum_tiles<V, kAtOnce>(block, lane, 1, tiles, [&](std::size_t) {
      return [&terms, first](std::size_t i, auto number) { return terms(first + i, number); };
    });
  each<T>(rest, [&](std::size_t lane, auto number) {
    using U = decltype(number);
    const std::array<U, K> term = terms(first + tiles * kLanes + lane, number);
    for (std::size_t k = 0; k < K; ++k) store(block.of[k] + lane, load<U>(block.of[k] + lane) + term[k]);
  });
}

/// K sums over n contiguous elements: terms(i, V) is what element(s) i add to each.
template <std::size_t K, class T, class Terms>
[[gnu::always_inline]] inline std::array<double, K> row_sums(std::size_t n, const Terms& terms) {
  Lanes<K> lanes;
  for (std::size_t first = 0; first < n; first += kBlock * kLanes) {
    const std::size_t some = std::min(kBlock * kLanes, n - first);
    LaneBlock<K, T> block;
    sum_block(block, first, some / kLanes, some % kLanes, terms);
    add_block(lanes, block);
  }
  return fold(lanes);
}

/// The sum of `count` numbers, at most 16; at(i, V) returns number(s) i.
template <class T, class At> [[gnu::always_inline]] inline double sum_of_few(std::size_t count, const At& at) {
  constexpr std::size_t kFew = 16;
  using D = Vector<double>;
  alignas(64) T few[kFew] = {};
  each<T>(count, [&](std::size_t i, auto number) { store(few + i, at(i, number)); });
  std::array<D, kFew / width<D>> v;
  unroll<kFew / width<D>>([&](auto i) { v[i] = widened(few + i * width<D>); });
  return fold_vectors(v);
}

inline constexpr std::size_t kNear = 16;

/// The mean of the first kNear of `count` numbers, which is usually close to the mean of all; at(i, V) returns
/// number(s) i.
template <class T, class At> [[gnu::always_inline]] inline T near_mean(std::size_t count, const At& at) {
  if (count == 0) return 0;
  if (count >= kNear) return static_cast<T>(sum_of_few<T>(kNear, at) * (1.0 / kNear));
  return static_cast<T>(sum_of_few<T>(count, at) / static_cast<double>(count));
}

/// 64 lanes of one sum of products in double, in which the product of two float32 numbers is exact.  Norms of whole
/// tensors use it, because a square must not overflow there.
struct DoubleLanes {
  alignas(64) double of[kLanes] = {};

  /// Adds a·b to the lanes from `lane` on; the product is exact for float32.
  template <class V> void add(std::size_t lane, V a, V b) {
    if constexpr (is_number<V>) {
      of[lane] += static_cast<double>(a) * static_cast<double>(b);
    } else {
      using D = Vector<double>;
      using Half = std::conditional_t<width<V> <= width<D>, V, typename VectorOf<float, width<D> * 4>::type>;
      for (std::size_t i = 0; i < width<V>; i += width<Half>) {
        Half x, y;
        std::memcpy(&x, reinterpret_cast<const char*>(&a) + i * (sizeof(V) / width<V>), sizeof x);
        std::memcpy(&y, reinterpret_cast<const char*>(&b) + i * (sizeof(V) / width<V>), sizeof y);
        using Wide = typename VectorOf<double, width<Half> * 8>::type;
        const Wide product = __builtin_convertvector(x, Wide) * __builtin_convertvector(y, Wide);
        store(of + lane + i, load<Wide>(of + lane + i) + product);
      }
    }
  }

  double total() const { return fold_doubles<kLanes>(of); }
};

/// Adds the squares of n numbers to the lanes, from the first one on, and to the first n columns.
template <class T> void add_squares(const T* x, std::size_t n, DoubleLanes& lanes, double* columns) {
  using D = Vector<double>;
  constexpr std::size_t kVectors = kLanes / width<D>;
  std::array<D, kVectors> sum;
  unroll<kVectors>([&](auto k) { sum[k] = load<D>(lanes.of + k * width<D>); });
  std::size_t at = 0;
  for (; at + kLanes <= n; at += kLanes)
    unroll<kVectors>([&](auto k) {
      const std::size_t i = at + k * width<D>;
      const D value = widened(x + i), square = value * value;
      sum[k] += square;
      store(columns + i, load<D>(columns + i) + square);
    });
  unroll<kVectors>([&](auto k) { store(lanes.of + k * width<D>, sum[k]); });
  for (std::size_t lane = 0; at < n; ++at, ++lane) {
    const double value = static_cast<double>(x[at]);
    lanes.of[lane] += value * value;
    columns[at] += value * value;
  }
}

}  // namespace fastopt
