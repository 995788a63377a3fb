/// A gradient of a few rows of a tensor: rows of values, and the tensor's row to which each belongs.
#pragma once

#include <cstddef>
#include <vector>

#include "core/codec/stored.hpp"
#include "core/rows.hpp"

namespace fastopt {

/// Values for rows of a tensor.  Rows may come in any order and more than once: their values are added.
struct SparseRows {
  /// A row of the tensor, and which row of the values belongs to it.
  struct Place {
    std::size_t row, at;
  };

  std::size_t width = 0;  ///< elements in a row
  const void* values = nullptr;
  Format format = Format::exact;
  const Rows* layout = nullptr;    ///< where the values lie, if they are not contiguous
  bool lazy = true;                ///< rows that do not occur are left alone; otherwise their gradient is zero
  std::vector<Place> places;       ///< of all rows of values; by group() brought into the order of the tensor's rows
  std::vector<std::size_t> first;  ///< after group(): the first place of each row that occurs, and the number of places

  /// Brings places that belong to one row together, in the order in which they came.
  void group();

  // After group().
  std::size_t count() const { return first.size() - 1; }                 ///< rows that occur
  std::size_t size() const { return count() * width; }                   ///< their elements
  std::size_t row(std::size_t k) const { return places[first[k]].row; }  ///< number k of those that occur

 private:
  std::vector<Place> spare_;
};

}  // namespace fastopt
