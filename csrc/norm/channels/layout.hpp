/// Where the channels of arrays lie in memory.
///
/// A channel's values lie in one of two ways, and sums are taken in the order of memory:
///   planes   channel c of sample s is a contiguous row       (N, C, H, W)
///   columns  the channels of one place are a contiguous row  (N, H, W, C) and (N, C)
/// Inputs may have any other layout.  Each pass then copies them to a scratch buffer piece by piece: planes one block
/// of sums at a time, columns one task at a time.
#pragma once

#include <cstddef>
#include <vector>

#include "core/cost.hpp"
#include "core/rows.hpp"

namespace fastopt {

/// Where the values of each channel of an array are.
struct Channels {
  std::size_t count;
  bool columns;
  Rows rows;              ///< planes: one for each sample, of one channel; columns: one for each place, of all channels
  std::ptrdiff_t stride;  ///< planes: elements from a channel to the next one in the same sample

  std::size_t values() const { return rows.count() * (columns ? 1 : rows.width); }  ///< in a channel
  std::size_t total() const { return count * values(); }
};

/// An array and where its channels are.
template <class S> struct ChannelArray {
  S* data = nullptr;
  const Channels* in = nullptr;

  S* at(std::size_t row, std::size_t channel) const {
    return data ? data + (in->rows.offset(row) + static_cast<std::ptrdiff_t>(channel) * in->stride) : nullptr;
  }
  /// The layout of the rows if they have to be copied; null where they are contiguous.
  const Rows* scattered() const { return data && !in->rows.contiguous() ? &in->rows : nullptr; }
  /// Lists the beginnings of `count` rows, from number `first` on.
  void list(std::size_t first, std::size_t count, S** to) const {
    if (!data) return;
    if (in->rows.axes.size() > 1) {
      for (std::size_t row = 0; row < count; ++row) to[row] = at(first + row, 0);
    } else {
      const std::ptrdiff_t stride = in->rows.axes.empty() ? 0 : in->rows.axes[0].stride;
      S* at = data + static_cast<std::ptrdiff_t>(first) * stride;
#pragma omp simd linear(at : stride)
      for (std::size_t row = 0; row < count; ++row) {
        to[row] = at;
        at += stride;
      }
    }
  }
};

/// The beginning of one row in each array of a pass; null where there is no such array.
template <class S> struct RowPointers {
  const S *x, *dy, *more;
  S *to, *also_to;
};

/// The same for several rows.
template <class S> class RowList {
 public:
  explicit RowList(std::size_t most) : x(most), dy(most), more(most), to(most), also_to(most) {}

  std::vector<const S*> x, dy, more;
  std::vector<S*> to, also_to;
  std::size_t size = 0;

  RowPointers<S> operator[](std::size_t i) const { return {x[i], dy[i], more[i], to[i], also_to[i]}; }
  void set(std::size_t i, const RowPointers<S>& row) {
    x[i] = row.x;
    dy[i] = row.dy;
    more[i] = row.more;
    to[i] = row.to;
    also_to[i] = row.also_to;
  }
};

/// The operation that follows a normalization in the same pass.
enum class After {
  nothing,
  relu,      ///< y = max(·, 0)
  add_relu,  ///< y = max(· + residual, 0)
};

/// The arrays of one pass; all but x may be missing.  Each sample has the same number of rows and is normalized by
/// itself; in a BatchNorm all rows belong to one sample.
template <class S> struct ChannelBatch {
  const Channels& in;
  ChannelArray<const S> x;
  std::size_t samples = 1;
  ChannelArray<const S> dy = {}, more = {};  ///< more: the residual, or forward's y
  ChannelArray<S> to = {}, also_to = {};

  std::size_t rows() const { return samples ? in.rows.count() / samples : 0; }  ///< in a sample
  std::size_t sets() const { return samples * in.count; }                       ///< channels in all samples
  std::size_t values_of_set() const { return rows() * (in.columns ? 1 : in.rows.width); }
  bool scattered() const { return x.scattered() || dy.scattered() || more.scattered(); }

  RowPointers<S> row(std::size_t row, std::size_t channel) const {
    return {x.at(row, channel), dy.at(row, channel), more.at(row, channel), to.at(row, channel),
            also_to.at(row, channel)};
  }
  /// Lists `count` rows of columns, from number `first` on.
  void list(RowList<S>& rows, std::size_t first, std::size_t count) const {
    x.list(first, count, rows.x.data());
    dy.list(first, count, rows.dy.data());
    more.list(first, count, rows.more.data());
    to.list(first, count, rows.to.data());
    also_to.list(first, count, rows.also_to.data());
    rows.size = count;
  }
  /// Whether a pass over so many arrays should store `to` past the caches.
  bool streamed(std::size_t arrays) const {
    return worth_streaming(to.data, sizeof(S) * (in.columns ? in.count : in.rows.width),
                           arrays * sizeof(S) * in.total(), in.columns);
  }
  /// Nanoseconds that one thread takes for a pass over so many arrays.
  double cost(std::size_t arrays) const {
    return static_cast<double>(arrays * sizeof(S) * in.total()) * kChannelPerByte;
  }
};

}  // namespace fastopt
