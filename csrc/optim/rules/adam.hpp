/// Adam and AMSGrad.  AdamW is Adam with the decoupled weight decay that every rule can have.
#pragma once

#include <array>
#include <cmath>
#include <utility>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// Adam.  Kingma & Ba 2015, arXiv:1412.6980, algorithm 1.  With the decay p ← (1−ηλ) p before it, this is AdamW:
/// Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2.
///   m ← β₁ m + (1−β₁) g      v ← β₂ v + (1−β₂) g²
///   p ← p − α m / (√v·ν + ε),  α = η/(1−β₁ᵗ), ν = 1/√(1−β₂ᵗ)
/// eps_hat is the paper's "more efficient" order, with ε̂ beside the uncorrected √v: α = η √(1−β₂ᵗ)/(1−β₁ᵗ), ν = 1.
template <class T> struct Adam {
  static constexpr std::array options{"lr", "beta1", "beta2", "eps", "eps_hat"};
  static constexpr std::array state{moment("exp_avg"), square("exp_avg_sq")};
  static constexpr bool lazy = true;
  static constexpr bool often_packed = true;

  T beta1, rest1, beta2, rest2, alpha, nu, eps, rate;

  Adam(const std::array<double, 5>& o, double step)
      : beta1(static_cast<T>(o[1])),
        rest1(static_cast<T>(1 - o[1])),
        beta2(static_cast<T>(o[2])),
        rest2(static_cast<T>(1 - o[2])),
        eps(static_cast<T>(o[3])) {
    const bool eps_hat = o[4] != 0;
    const double correction1 = 1 - std::pow(o[1], step), root2 = std::sqrt(1 - std::pow(o[2], step));
    alpha = static_cast<T>(eps_hat ? o[0] * root2 / correction1 : o[0] / correction1);
    rate = static_cast<T>(eps_hat ? o[0] * root2 : o[0]);
    nu = static_cast<T>(eps_hat ? 1 : 1 / root2);
  }

  template <class V> void moments(V g, V& m, V& v) const {
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
  }
  template <class V> V root(V v) const { return square_root(v) * nu + eps; }
  template <class V> V direction(V m, V v) const { return alpha * m / root(v); }

  template <class V> void operator()(V& p, V g, V& m, V& v) const {
    moments(g, m, v);
    p = p - direction(m, v);
  }
  template <class V> V rate_of(V, V v) const { return rate / root(v); }
};

/// Adam that also measures the learning rate at which SGD could take over.  Keskar & Socher 2017, arXiv:1712.07628,
/// algorithm 1: γ = dᵀd / dᵀg, where d is Adam's step.  The two products are summed over all parameters.
template <class T> struct AdamProjected : Adam<T> {
  static constexpr std::size_t sums = 2;
  static constexpr bool often_packed = false;
  static constexpr bool lazy = false;
  using Adam<T>::Adam;

  template <class V> std::array<std::pair<V, V>, 2> measure(V, V g, V m, V v) const {
    this->moments(g, m, v);
    const V d = this->direction(m, v);
    return {std::pair{d, d}, std::pair{d, g}};
  }
  void conclude(const std::array<double, 2>&, double) {}
};

/// AMSGrad.  Reddi, Kale & Kumar 2018, arXiv:1904.09237, algorithm 2, with Adam's bias correction.  The maximum is
/// taken of the uncorrected v, as in torch and Keras.
///   m, v as Adam      v̂ ← max(v̂, v)      p ← p − α m / (√v̂·ν + ε)
template <class T> struct AMSGrad : Adam<T> {
  static constexpr std::array state{moment("exp_avg"), square("exp_avg_sq"), square("max_exp_avg_sq")};
  static constexpr bool often_packed = false;
  using Adam<T>::Adam;

  template <class V> void operator()(V& p, V g, V& m, V& v, V& v_max) const {
    this->moments(g, m, v);
    v_max = maximum(v_max, v);
    p = p - this->direction(m, v_max);
  }
  template <class V> V rate_of(V, V, V v_max) const { return this->rate / this->root(v_max); }
};

}  // namespace fastopt
