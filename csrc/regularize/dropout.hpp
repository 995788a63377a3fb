/// Dropout and its variants.  The random numbers are a function of a seed, a step and the element's position.
///   dropout:          y = x/(1 − p) with probability 1 − p, otherwise 0     Srivastava et al. 2014, JMLR 15, 1929–1958
///   gaussian dropout: y = x·(1 + √(p/(1 − p))·n),  n ~ N(0, 1)              the same, section 10
///   channel dropout:  dropout of whole channels of a sample                 Tompson et al. 2015, arXiv:1411.4280
/// Backward is the same map, applied to dy; no mask is stored.  y may be x.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/number.hpp"
#include "core/rows.hpp"

namespace fastopt {

/// The source of a call's random numbers.
struct Draw {
  std::uint64_t seed;
  std::uint32_t step;
};

/// The decision: an element is dropped if its number of 32 bits is below p·2³².
struct Drops {
  std::uint64_t below;
  double scale;  ///< the factor of elements that are kept

  explicit Drops(double p) : below(static_cast<std::uint64_t>(std::nearbyint(p * 0x1p32))), scale(1 / (1 - p)) {}

  bool everything() const { return below >> 32 != 0; }
};

/// Which random number an element of x gets: the one of its sample and channel.
struct Sets {
  std::size_t samples, channels;
  bool channels_first;  ///< whether the table has the numbers of a channel side by side, and not those of a sample
  Rows rows;            ///< where each row of x begins in the table
  std::size_t step;     ///< from one element of a row to the next, in the table: 0 or 1
};

/// For numbers that are stored as S.
template <class S> struct DropoutKernels {
  /// y = x; x: one row; y: as many elements, contiguous.
  static void copy(const S* x, const Rows& row, S* y);

  /// x: one row, whose elements are counted; y: as many elements, contiguous.
  static void dropout(const S* x, const Rows& row, const Drops& drops, const Draw& draw, S* y);

  /// x and y as in dropout.
  static void gaussian_dropout(const S* x, const Rows& row, double p, const Draw& draw, S* y);

  /// x: rows; y: as many elements, contiguous.  Channel c of sample n has word number n·channels + c.
  static void channel_dropout(const S* x, const Rows& rows, const Sets& sets, const Drops& drops, const Draw& draw,
                              S* y);
};

}  // namespace fastopt
