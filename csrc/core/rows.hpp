/// Where the rows of an array lie.
#pragma once

#include <cstddef>
#include <vector>

namespace fastopt {

/// Rows of elements that are `step` apart, contiguous where that is 1.  Rows themselves may lie apart, as those of a
/// slice do, in either direction, or at the same place, as those of a broadcast array do.
struct Rows {
  struct Axis {
    std::size_t count;
    std::ptrdiff_t stride;  ///< in elements
  };

  std::size_t width = 0;    ///< elements in a row
  std::ptrdiff_t step = 1;  ///< from one element of a row to the next, in elements
  std::vector<Axis> axes;   ///< how rows are counted, outermost axis first

  std::size_t count() const {
    std::size_t rows = 1;
    for (const Axis& axis : axes) rows *= axis.count;
    return rows;
  }

  /// Elements from the first row to row number `row`.
  std::ptrdiff_t offset(std::size_t row) const {
    std::ptrdiff_t offset = 0;
    for (std::size_t i = axes.size(); i-- > 1; row /= axes[i].count)
      offset += static_cast<std::ptrdiff_t>(row % axes[i].count) * axes[i].stride;
    return axes.empty() ? 0 : offset + static_cast<std::ptrdiff_t>(row) * axes[0].stride;
  }
};

}  // namespace fastopt
