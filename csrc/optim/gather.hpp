/// Gradients that are not contiguous, as contiguous numbers: those that lie in rows, and those of few rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/codec/codec.hpp"
#include "core/cost.hpp"
#include "core/reduce.hpp"
#include "core/rows.hpp"
#include "core/simd.hpp"
#include "optim/sparse.hpp"
#include "optim/tensor.hpp"

namespace fastopt {

/// Calls body(from, count, done) for the parts of rows that elements [at, at + n) are: `count` elements, rows.step
/// apart, of which the first one lies `from` elements behind the array's.
template <class Body> void for_runs(const Rows& rows, std::size_t at, std::size_t n, Body&& body) {
  for (std::size_t done = 0; done < n;) {
    const std::size_t row = (at + done) / rows.width, column = (at + done) % rows.width;
    const std::size_t count = std::min(n - done, rows.width - column);
    body(rows.offset(row) + static_cast<std::ptrdiff_t>(column) * rows.step, count, done);
    done += count;
  }
}

/// Copies elements [at, at + n) of rows to `to`, where they are contiguous.
template <class T> void gather(const T* x, const Rows& rows, std::size_t at, std::size_t n, T* to) {
  for_runs(rows, at, n, [&](std::ptrdiff_t from, std::size_t count, std::size_t done) {
    if (rows.step == 1)
      std::memcpy(to + done, x + from, count * sizeof(T));
    else
      for (std::size_t i = 0; i < count; ++i) to[done + i] = x[from + static_cast<std::ptrdiff_t>(i) * rows.step];
  });
}

/// The rows that occur in a sparse gradient, in the type in which they are computed: the sums of their values, in the
/// order in which these came.
template <class T> class RowReader {
 public:
  static constexpr std::size_t kMost = kPiece;  ///< elements at once

  explicit RowReader(const SparseRows& sparse) : sparse_(sparse) {}

  /// Elements [begin, begin + n) of number k of the rows that occur: as they lie, or until the next call.
  const T* read(std::size_t k, std::size_t begin, std::size_t n) {
    const std::size_t end = sparse_.first[k + 1];
    std::size_t place = sparse_.first[k];
    const T* const first = values(place, begin, n, sum_);
    if (++place == end) return first;
    for (const T* so_far = first; place < end; ++place, so_far = sum_) {
      const T* const more = values(place, begin, n, more_);
      each<T>(n, [so_far, more, to = sum_](std::size_t i, auto number) {
        using V = decltype(number);
        store(to + i, load<V>(so_far + i) + load<V>(more + i));
      });
    }
    return sum_;
  }

  /// Copies elements [at, at + n) of all rows that occur, one row after the other.
  void copy(std::size_t at, std::size_t n, T* to) {
    for (std::size_t done = 0, some; done < n; done += some) {
      const std::size_t k = (at + done) / sparse_.width, begin = (at + done) % sparse_.width;
      some = std::min({kMost, n - done, sparse_.width - begin});
      std::memcpy(to + done, read(k, begin, some), some * sizeof(T));
    }
  }

  /// Elements [at, at + n) of the whole gradient, with zeros where rows do not occur.
  void spread(std::size_t at, std::size_t n, T* to) {
    std::fill_n(to, n, T{});
    std::size_t low = 0, high = sparse_.count();  // the first one that ends behind `at`
    while (low < high) {
      const std::size_t middle = (low + high) / 2;
      if ((sparse_.row(middle) + 1) * sparse_.width <= at)
        low = middle + 1;
      else
        high = middle;
    }
    for (std::size_t k = low; k < sparse_.count() && sparse_.row(k) * sparse_.width < at + n; ++k) {
      const std::size_t row = sparse_.row(k) * sparse_.width;
      for (std::size_t i = std::max(at, row), end = std::min(at + n, row + sparse_.width), some; i < end; i += some) {
        some = std::min(kMost, end - i);
        std::memcpy(to + (i - at), read(k, i - row, some), some * sizeof(T));
      }
    }
  }

 private:
  /// The values at a place: as they lie, or decoded or gathered to `room`.
  const T* values(std::size_t place, std::size_t begin, std::size_t n, T* room) const {
    const std::size_t at = sparse_.places[place].at * sparse_.width + begin;
    if (sparse_.format == Format::exact) {
      const T* const from = static_cast<const T*>(sparse_.values);
      if (sparse_.layout == nullptr) return from + at;
      gather(from, *sparse_.layout, at, n, room);
    } else if constexpr (std::is_same_v<T, float>) {
      const auto* const from = static_cast<const std::uint16_t*>(sparse_.values);
      std::uint16_t halves[kScaleBlock] = {};
      const Codec codec({sparse_.format, halves}, Rounding::nearest);
      for (std::size_t i = 0; i < n; i += kScaleBlock) {
        const std::size_t few = std::min(kScaleBlock, n - i);
        if (sparse_.layout == nullptr)
          std::memcpy(halves, from + at + i, few * sizeof *halves);
        else
          gather(from, *sparse_.layout, at + i, few, halves);
        codec.decode(0, few, room + i);
      }
    }
    return room;
  }

  const SparseRows& sparse_;
  alignas(64) T sum_[kMost + kScaleBlock];  // decoding writes whole blocks
  alignas(64) T more_[kMost + kScaleBlock];
};

/// Elements [at, at + n) of a gradient of which blocks have nothing.
template <class T> void gather_gradient(const Tensor& tensor, std::size_t at, std::size_t n, T* to) {
  if (tensor.sparse != nullptr)
    RowReader<T>(*tensor.sparse).spread(at, n, to);
  else
    gather(static_cast<const T*>(tensor.grad), *tensor.rows, at, n, to);
}

}  // namespace fastopt
