/// Rows of a table and their gradient, for every type.
#include "nn/embedding.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "core/codec/half.hpp"
#include "core/cost.hpp"
#include "core/reduce.hpp"
#include "core/threads/parallel.hpp"

namespace fastopt {

std::size_t first_outside(const std::int64_t* indices, std::size_t count, std::size_t rows) {
  const auto outside = [&](std::size_t i) { return static_cast<std::uint64_t>(indices[i]) >= rows; };
  constexpr std::size_t kAtOnce = 64;
  std::size_t i = 0;
  for (; i + kAtOnce <= count; i += kAtOnce) {
    bool any = false;
    for (std::size_t k = 0; k < kAtOnce; ++k) any |= outside(i + k);
    if (any) break;
  }
  while (i < count && !outside(i)) ++i;
  return i;
}

template <class S>
void EmbeddingKernels<S>::forward(const S* weight, const Rows& rows, const std::int64_t* indices, std::size_t count,
                                  S* y) {
  const std::size_t width = rows.width, bytes = count * width * sizeof(S);
  if (bytes == 0) return;
  const bool plain = rows.contiguous();
  const auto at = [&](std::size_t i) { return weight + rows.offset(static_cast<std::size_t>(indices[i])); };
  with_flag(plain && worth_streaming(y, width * sizeof(S), 2 * bytes), [&](auto streamed) {
    parallel(threads_for(static_cast<double>(2 * bytes) * kRowCopyPerByte), [&](int thread, int threads) {
      const Range mine = share(count, thread, threads);
      for (std::size_t i = mine.begin; i < mine.end; ++i) {
        if (plain && i + kLookupsAhead < mine.end) prefetch_row(at(i + kLookupsAhead), width);
        S* const to = y + i * width;
        if (!plain) {
          rows.pack(at(i), 0, width, to);
        } else if constexpr (streamed) {
          const auto* from = reinterpret_cast<const float*>(at(i));  // moved as they are, whatever they are
          each<float>(width * sizeof(S) / sizeof(float), [&](std::size_t k, auto number) {
            using V = decltype(number);
            stream(reinterpret_cast<float*>(to) + k, load<V>(from + k));
          });
        } else {
          std::memcpy(to, at(i), width * sizeof(S));
        }
      }
      if (streamed) stream_fence();
    });
  });
}

/// The positions of indices in the order of the rows that they name, and where those of each row begin.
struct Sorted {
  std::vector<std::size_t> begin;  // of each row, and behind the last one
  std::vector<std::uint32_t> position;
  std::size_t most = 0;  // indices that name one row

  Sorted(const std::int64_t* indices, std::size_t count, std::ptrdiff_t skipped, std::size_t rows)
      : begin(rows + 1), position(count) {
    for (std::size_t i = 0; i < count; ++i) ++begin[static_cast<std::size_t>(indices[i])];
    if (skipped >= 0 && skipped < static_cast<std::ptrdiff_t>(rows)) begin[static_cast<std::size_t>(skipped)] = 0;
    std::size_t before = 0;
    for (std::size_t row = 0; row < rows; ++row) {
      most = std::max(most, begin[row]);
      begin[row] = std::exchange(before, before + begin[row]);
    }
    begin[rows] = before;
    for (std::size_t i = 0; i < count; ++i)  // leaves in each place where the next row begins
      if (indices[i] != skipped)
        position[begin[static_cast<std::size_t>(indices[i])]++] = static_cast<std::uint32_t>(i);
    std::move_backward(begin.begin(), begin.end() - 1, begin.end());
    begin[0] = 0;
  }
};

template <class S>
void EmbeddingKernels<S>::backward(const S* dy, const Rows& dy_rows, const std::int64_t* indices, std::size_t count,
                                   std::ptrdiff_t skipped, S* dweight, std::size_t rows) {
  using T = Computed<S>;
  const std::size_t width = dy_rows.width;
  if (rows == 0 || width == 0) return;
  const Sorted sorted(indices, count, skipped, rows);

  // The columns [first, last) of one row of dweight: a few vectors at a time, which stay in registers.
  const auto sum = [&](std::size_t row, std::size_t first, std::size_t last, S* packed) {
    const std::size_t begin = sorted.begin[row], end = sorted.begin[row + 1];
    S* const to = dweight + row * width;
    if (begin == end) {
      std::memset(static_cast<void*>(to + first), 0, (last - first) * sizeof(S));
      return;
    }
    const auto from = [&](std::size_t i) { return dy + dy_rows.offset(sorted.position[i]); };
    if (!dy_rows.contiguous()) {
      alignas(64) T total[kLookupColumns];
      for (std::size_t c = first; c < last; c += kLookupColumns) {
        const std::size_t n = std::min(kLookupColumns, last - c);
        std::fill_n(total, n, T{});
        for (std::size_t i = begin; i < end; ++i) {
          dy_rows.pack(from(i), c, n, packed);
          each<T>(n, [&](std::size_t k, auto number) {
            using V = decltype(number);
            store(total + k, load<V>(total + k) + load<V>(packed + k));
          });
        }
        each<T>(n, [&](std::size_t k, auto number) { store(to + c + k, load<decltype(number)>(total + k)); });
      }
      return;
    }
    using V = Vector<T>;
    constexpr std::size_t kTile = 8;  // vectors
    std::size_t c = first;
    for (; c + kTile * fastopt::width<V> <= last; c += kTile * fastopt::width<V>) {
      std::array<V, kTile> total{};
      for (std::size_t i = begin; i < end; ++i) {
        const S* const row_of = from(i) + c;
        unroll<kTile>([&](auto u) { total[u] += load<V>(row_of + u * fastopt::width<V>); });
      }
      unroll<kTile>([&](auto u) { store(to + c + u * fastopt::width<V>, total[u]); });
    }
    each<T>(last - c, [&](std::size_t k, auto number) {
      using W = decltype(number);
      W total{};
      for (std::size_t i = begin; i < end; ++i) total += load<W>(from(i) + c + k);
      store(to + c + k, total);
    });
  };

  // Rows cost what is read for them and what is written.  Threads share them, but where one row would be a thread's
  // work and more, they share the columns.
  const std::size_t read = sorted.begin[rows], work = read + rows;
  parallel(threads_for(static_cast<double>(work * width * sizeof(S)) * kRowCopyPerByte), [&](int thread, int threads) {
    alignas(64) std::array<S, kLookupColumns> packed;
    if (threads > 1 && (sorted.most + 1) * static_cast<std::size_t>(threads) > work) {
      const Range columns = share(width, thread, threads, 64 / sizeof(S));
      if (columns.begin == columns.end) return;
      for (std::size_t row = 0; row < rows; ++row) sum(row, columns.begin, columns.end, packed.data());
      return;
    }
    const Range mine = share(work, thread, threads);
    // Row r begins at begin[r] + r in the work.
    const auto row_at = [&](std::size_t at) {
      std::size_t low = 0, high = rows;
      while (low < high) {
        const std::size_t middle = (low + high) / 2;
        sorted.begin[middle] + middle < at ? low = middle + 1 : high = middle;
      }
      return low;
    };
    const std::size_t last = row_at(mine.end);
    for (std::size_t row = row_at(mine.begin); row < last; ++row) {
      const std::size_t next = sorted.begin[row] + kLookupsAhead;
      if (sorted.begin[row] != sorted.begin[row + 1] && dy_rows.contiguous() && next < read)
        prefetch_row(dy + dy_rows.offset(sorted.position[next]), width);
      sum(row, 0, width, packed.data());
    }
  });
}

template struct EmbeddingKernels<float>;
template struct EmbeddingKernels<double>;
template struct EmbeddingKernels<float16>;
template struct EmbeddingKernels<bfloat16>;

}  // namespace fastopt
