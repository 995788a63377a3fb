/// Losses: the value and the gradient in one pass.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/rows.hpp"

namespace fastopt {

/// Cross entropy of rows of logits x, (rows, width), with labels t or distributions q.
///   p = softmax(x),  L = −Σ_c q_c·w_c·log p_c,  dx_c = (p_c·Σ_k q_k·w_k − q_c·w_c)·factor
/// A label is the distribution with 1 at t; smoothed: q ← (1 − ε)·q + ε/width.  With labels, ε/width·w_c is divided by no
/// other weight, and rows whose label is `ignored` have L = 0 and dx = 0.        Szegedy et al. 2015, arXiv:1512.00567, section 7
template <class T> struct CrossEntropy {
  const T* x;
  Rows rows;
  const std::int64_t* labels = nullptr;  ///< (rows), or null
  std::int64_t ignored = -100;
  const T* targets = nullptr;  ///< distributions, or null
  Rows target_rows = {};
  const T* weight = nullptr;  ///< (width), or null
  double smoothing = 0;       ///< ε
  double factor = 1;          ///< of the gradient
  double* losses = nullptr;   ///< (rows)
  T* dx = nullptr;            ///< (rows, width), contiguous, may be x; or null
};

/// Losses of single elements, of x and t; z = x − t.
///   mse       z²                                                              dx = 2z
///   huber     z²/2 if |z| ≤ δ, otherwise δ(|z| − δ/2)                         dx = clip(z, −δ, δ)     Huber 1964
///   bce       (1 − t)x + (1 + (w⁺ − 1)t)·log(1 + e^{−x})   with logits x      dx = (1 − t) − (1 + (w⁺ − 1)t)·σ(−x)
enum class Loss { mse, huber, bce };

template <class T> struct ElementLoss {
  Loss loss;
  std::size_t size;
  const T* x;
  Rows x_rows;  ///< one row
  const T* target;
  Rows target_rows;
  const T* weight = nullptr;  ///< of the element, or null
  Rows weight_rows = {};
  const T* positive = nullptr;  ///< w⁺, or null
  Rows positive_rows = {};
  double delta = 1, factor = 1;  ///< the factor is that of the gradient
  T* values = nullptr;           ///< (size), or null
  T* dx = nullptr;               ///< (size), contiguous, may be x; or null
};

/// For numbers of type T.
template <class T> struct LossKernels {
  /// The sum of the losses.
  static double cross_entropy(const CrossEntropy<T>& arrays);
  static double element_loss(const ElementLoss<T>& arrays);
};

}  // namespace fastopt
