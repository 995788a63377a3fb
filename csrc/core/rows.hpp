/// Where the rows of an array lie.
#pragma once

#include <cstddef>
#include <vector>

namespace fastopt {

/// Rows of contiguous elements; rows themselves may lie apart, as those of a slice do.
struct Rows {
  struct Axis {
    std::size_t count, stride;  // stride in elements
  };

  std::size_t width = 0;   ///< elements in a row
  std::vector<Axis> axes;  ///< how rows are counted, outermost axis first

  std::size_t count() const {
    std::size_t rows = 1;
    for (const Axis& axis : axes) rows *= axis.count;
    return rows;
  }

  /// Elements from the first row to row number `row`.
  std::size_t offset(std::size_t row) const {
    std::size_t offset = 0;
    for (std::size_t i = axes.size(); i-- > 1; row /= axes[i].count) offset += row % axes[i].count * axes[i].stride;
    return axes.empty() ? 0 : offset + row * axes[0].stride;
  }
};

}  // namespace fastopt
