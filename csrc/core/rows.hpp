/// Where the rows of an array lie.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

namespace fastopt {

/// Rows of elements that are `step` apart, or that `inner` counts.  The rows may lie apart in either direction, as in a
/// slice, or all at the same place, as in a broadcast array; so may the elements of a row.
struct Rows {
  struct Axis {
    std::size_t count;
    std::ptrdiff_t stride;  ///< in elements
    bool operator==(const Axis&) const = default;
  };

  std::size_t width = 0;    ///< elements in a row
  std::ptrdiff_t step = 1;  ///< from one element of a row to the next, in elements
  std::vector<Axis> axes;   ///< how rows are counted, outermost axis first
  std::vector<Axis> inner;  ///< how a row's elements are counted where one step does not suffice; otherwise empty

  bool operator==(const Rows&) const = default;

  std::size_t count() const {
    std::size_t rows = 1;
    for (const Axis& axis : axes) rows *= axis.count;
    return rows;
  }

  /// The distance from the first row to row number `row`, in elements.
  std::ptrdiff_t offset(std::size_t row) const { return offset_in(axes, row); }

  /// Whether each row is contiguous.
  bool contiguous() const { return step == 1 && inner.empty(); }

  /// Copies `count` elements, from number `first` on, of the row that begins at `row`.
  template <class S> [[gnu::noinline]] void pack(const S* row, std::size_t first, std::size_t count, S* to) const {
    if (inner.empty()) return copy(row + static_cast<std::ptrdiff_t>(first) * step, step, count, to);
    const Axis& run = inner.back();
    while (count > 0) {
      const std::size_t some = std::min(count, run.count - first % run.count);
      copy(row + offset_in(inner, first), run.stride, some, to);
      first += some;
      to += some;
      count -= some;
    }
  }

 private:
  static std::ptrdiff_t offset_in(const std::vector<Axis>& axes, std::size_t number) {
    std::ptrdiff_t offset = 0;
    for (std::size_t i = axes.size(); i-- > 1; number /= axes[i].count)
      offset += static_cast<std::ptrdiff_t>(number % axes[i].count) * axes[i].stride;
    return axes.empty() ? 0 : offset + static_cast<std::ptrdiff_t>(number) * axes[0].stride;
  }

  template <class S> static void copy(const S* from, std::ptrdiff_t step, std::size_t count, S* to) {
    if (step == 1) {
      std::memcpy(to, from, count * sizeof(S));
      return;
    }
    if (step == -1) {  // flipped images; a constant step lets the compiler reverse vectors
#pragma omp simd
      for (std::size_t i = 0; i < count; ++i) to[i] = from[-static_cast<std::ptrdiff_t>(i)];
    } else {
      for (std::size_t i = 0; i < count; ++i) to[i] = from[static_cast<std::ptrdiff_t>(i) * step];
    }
  }
};

}  // namespace fastopt
