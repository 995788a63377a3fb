/// Layer normalization.  Ba, Kiros & Hinton 2016, arXiv:1607.06450.
///   x̂ = (x − mean)·rstd,  rstd = 1/√(var + ε),  y = x̂·w + b         over each row of x, (rows, width)
///   dx = rstd·(g − Σg/width − x̂·Σ(g x̂)/width),  g = dy·w;   dw = Σ dy·x̂,  db = Σ dy   over rows
/// Statistics are float64; backward takes mean and rstd from forward and recomputes x̂.
#pragma once

#include "norm/rows/arrays.hpp"

namespace fastopt {

struct LayerNorm {
  static constexpr bool centred = true, averaged = true;
  static constexpr Weights weights = Weights::columns;
};

}  // namespace fastopt
