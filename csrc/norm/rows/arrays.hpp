/// Normalizations of rows: LayerNorm, RMSNorm, cosine normalization and ScaleNorm, alone or after the addition of a
/// residual.
///   s = x, or x + residual;   x̂ = (s − mean)·rstd;   y = x̂·w + b            over each row, (rows, width)
///   dx = rstd·(g − Σg/n − x̂·Σ(g x̂)/n) [+ ds],  g = dy·w
///   dw = Σ dy·x̂,  db = Σ dy                                                  over rows
///
/// A norm is a policy with three constants:
///   centred    rows have a mean, and the norm has a bias b; otherwise there is no mean, no Σg and no b
///   averaged   n is the width; otherwise n is 1
///   weights    one for each column, or one number for all of them
#pragma once

#include "core/number.hpp"
#include "core/rows.hpp"

namespace fastopt {

enum class Weights { columns, scalar };

/// The arrays of a forward pass; x, residual, sum and y are stored as S.
template <class S> struct RowNorm {
  using T = Computed<S>;

  const S* x;
  Rows rows;               ///< of x
  const T *weight, *bias;  ///< (width), or null; a scalar weight is `gain`
  double eps;
  S* y;                         ///< (rows, width), contiguous
  double *mean, *rstd;          ///< (rows); mean only if centred
  const S* residual = nullptr;  ///< or null
  Rows residual_rows = {};
  S* sum = nullptr;         ///< (rows, width), contiguous, where there is a residual
  const T* gain = nullptr;  ///< the scalar weight
};

/// The arrays of a backward pass.
template <class S> struct RowNormBackward {
  using T = Computed<S>;

  const S* dy;
  Rows dy_rows;
  const S* x;  ///< the array that was normalized: the sum, if there is a residual
  Rows rows;
  const double *mean, *rstd;  ///< (rows), as forward returned them
  const T* weight;            ///< (width), or null
  S* dx;                      ///< (rows, width), contiguous
  T *dweight, *dbias;         ///< (width), or null where they are not wanted; dbias only if centred
  const S* dsum = nullptr;    ///< the gradient that reaches the sum from elsewhere, or null
  Rows dsum_rows = {};
  const T* gain = nullptr;  ///< the scalar weight
  T* dgain = nullptr;       ///< the gradient of a scalar weight
};

}  // namespace fastopt
