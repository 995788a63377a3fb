/// Activations, with the addition of a bias before them in the same pass.
///   y = f(z),  z = x + b                                     x: (rows, width), b: (width)
///   dx = dy·f'(z),  db = Σ dx over rows
///
///   relu       max(z, 0)
///   gelu       z·Φ(z),  Φ(z) = (1 + erf(z/√2))/2                                   Hendrycks & Gimpel 2016, arXiv:1606.08415
///   gelu_tanh  z·(1 + tanh(√(2/π)(z + 0.044715 z³)))/2                             the same, section 2
///   silu       z·σ(z),  σ(z) = 1/(1 + e⁻ᶻ)                                         Elfwing et al. 2017, arXiv:1702.03118
///   tanh, sigmoid
/// Backward reuses y where f' is a function of it (relu: y > 0; tanh: 1 − y²; sigmoid: y(1 − y)), and z otherwise.
#pragma once

#include "core/rows.hpp"

namespace fastopt {

enum class Activation { identity, relu, gelu, gelu_tanh, silu, tanh, sigmoid };

/// Whether backward needs z, and not y.
inline bool saves_input(Activation f) {
  return f == Activation::gelu || f == Activation::gelu_tanh || f == Activation::silu;
}

/// For numbers of type T.
template <class T> struct ActivationKernels {
  /// y, and z where it is not null; y and z: (rows, width), contiguous; either may be x.  bias: null where there is none.
  static void forward(Activation f, const T* x, const Rows& rows, const T* bias, T* y, T* z);

  /// dx, contiguous, may be dy or `saved`; dbias: (width), or null.  dx may be null for the identity, where it is dy.
  static void backward(Activation f, const T* dy, const Rows& dy_rows, const T* saved, const Rows& saved_rows, T* dx,
                       T* dbias);
};

}  // namespace fastopt
