/// Rows of unit length, as cosine normalization takes them: Luo et al. 2017, arXiv:1702.05870.
///   y = x·rnorm,  rnorm = 1/√(Σx² + ε)                                 over each row of x, (rows, width)
///   dx = rnorm·(dy − y·Σ(dy y))
#pragma once

#include "norm/rows/arrays.hpp"

namespace fastopt {

struct CosineNorm {
  static constexpr bool centred = false, averaged = false;
  static constexpr Weights weights = Weights::none;
};

}  // namespace fastopt
