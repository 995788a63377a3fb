/// ScaleNorm.  Nguyen & Salazar 2019, arXiv:1910.05895.  With g = 1 rows have unit length, as in cosine normalization:
/// Luo et al. 2017, arXiv:1702.05870.
///   y = g·x·rnorm,  rnorm = 1/√(Σx² + ε)                               over each row of x, (rows, width); g: one number
///   dx = g·rnorm·(dy − x̂·Σ(dy x̂)),  x̂ = x·rnorm;   dg = Σ dy·x̂        over all elements
#pragma once

#include "norm/rows/arrays.hpp"

namespace fastopt {

struct ScaleNorm {
  static constexpr bool centred = false, averaged = false;
  static constexpr Weights weights = Weights::scalar;
};

}  // namespace fastopt
