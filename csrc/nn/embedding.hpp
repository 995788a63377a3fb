/// Rows of a table, as a layer of embeddings takes them, and their gradient.
///   y[i] = weight[indices[i]]                  weight: (rows, width)   indices: (count)   y: (count, width)
///   dweight[r] = Σ dy[i] over indices[i] = r   in the order of i, from 0, in float32 or double
/// Backward sorts the indices by counting, so that each row of dweight is written once and by one thread, whatever the
/// number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/number.hpp"
#include "core/rows.hpp"

namespace fastopt {

/// The position of the first index that is not in [0, rows); `count` if there is none.
std::size_t first_outside(const std::int64_t* indices, std::size_t count, std::size_t rows);

template <class S> struct EmbeddingKernels {
  /// weight: rows of any layout; y: contiguous.
  static void forward(const S* weight, const Rows& rows, const std::int64_t* indices, std::size_t count, S* y);

  /// dy: rows of any layout, as many as there are indices; dweight: contiguous, `rows` rows.  Row `skipped` (none if it
  /// is not in [0, rows)) gets no gradient.
  static void backward(const S* dy, const Rows& dy_rows, const std::int64_t* indices, std::size_t count,
                       std::ptrdiff_t skipped, S* dweight, std::size_t rows);
};

}  // namespace fastopt
