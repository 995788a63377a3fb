/// Pooling of images: the largest element of each window, or the mean.
///   max:      y[o] = max over k of x[o·stride − padding + k·dilation];  NaN if one of them is
///   mean:     y[o] = Σ over k of x[…] / divisor[o]                      in the order of k, from 0
///   backward: dx[i] = Σ dy[o]             over the windows whose largest element is i     in the order of o, from 0
///             dx[i] = Σ dy[o]/divisor[o]  over the windows that contain i
/// in two dimensions.  Sums are float32 or double.  indices[o] is the place of the largest element in its plane, row·W +
/// column: the first one of several, the last one of NaNs.  Each element of dx is written by one thread: backward
/// gathers, or goes plane by plane and adds where the indices say.
///
/// Images lie in memory as planes, or as columns, where the channels of one place are a row.  Vectors run along rows of
/// planes, of which every stride-th element lies together in scratch memory, or along channels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/number.hpp"
#include "nn/windows.hpp"

namespace fastopt {

struct Pool {
  Windows y, x;  ///< along rows and along columns
  bool columns;  ///< how all arrays lie

  std::ptrdiff_t plane() const { return y.in * x.in; }
  std::ptrdiff_t pooled() const { return y.out * x.out; }
};

/// By what sums are divided.
struct Divisors {
  bool padding = true;  ///< whether padding counts
  double always = 0;    ///< instead of the number of elements, if not 0
  double operator()(const Pool& pool, std::ptrdiff_t oy, std::ptrdiff_t ox) const;
};

/// The number, in C order of (sample, channel, row, column), of the first index that is not in its window; -1 if all
/// are.
std::ptrdiff_t first_misplaced(const Pool& pool, const std::int32_t* indices, const Images& in);

template <class S> struct PoolKernels {
  /// x: images of any layout; y and indices (may be null): as `in` says, rows of planes or channels contiguous.
  static void max(const Pool& pool, const S* x, const Images& x_in, S* y, std::int32_t* indices, const Images& in);
  static void mean(const Pool& pool, const Divisors& divisors, const S* x, const Images& x_in, S* y, const Images& in);

  /// dy: of any layout; indices: rows of planes or channels contiguous; dx likewise.
  static void max_backward(const Pool& pool, const S* dy, const Images& dy_in, const std::int32_t* indices,
                           const Images& indices_in, S* dx, const Images& in);
  static void mean_backward(const Pool& pool, const Divisors& divisors, const S* dy, const Images& dy_in, S* dx,
                            const Images& in);
};

}  // namespace fastopt
