/// Root mean square layer normalization.  Zhang & Sennrich 2019, arXiv:1910.07467.
///   x̂ = x·rstd,  rstd = 1/√(Σx²/width + ε),  y = x̂·w                  over each row of x, (rows, width)
///   dx = rstd·(g − x̂·Σ(g x̂)/width),  g = dy·w;   dw = Σ dy·x̂           over rows
#pragma once

#include "norm/rows/arrays.hpp"

namespace fastopt {

struct RmsNorm {
  static constexpr bool centred = false, averaged = true;
  static constexpr Weights weights = Weights::columns;
};

}  // namespace fastopt
