/// Adamax.
#pragma once

#include <array>
#include <cmath>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// Adamax.  Kingma & Ba 2015, arXiv:1412.6980, algorithm 2, with torch's ε.
///   m ← β₁ m + (1−β₁) g      u ← max(β₂ u, |g| + ε)      p ← p − η/(1−β₁ᵗ) · m / u
template <class T> struct Adamax {
  static constexpr std::array options{"lr", "beta1", "beta2", "eps"};
  static constexpr std::array state{moment("exp_avg"), square("exp_inf")};

  T lr, beta1, rest1, beta2, eps, alpha;

  Adamax(const std::array<double, 4>& o, double step)
      : lr(static_cast<T>(o[0])),
        beta1(static_cast<T>(o[1])),
        rest1(static_cast<T>(1 - o[1])),
        beta2(static_cast<T>(o[2])),
        eps(static_cast<T>(o[3])),
        alpha(static_cast<T>(o[0] / (1 - std::pow(o[1], step)))) {}

  template <class V> void operator()(V& p, V g, V& m, V& u) const {
    m = beta1 * m + rest1 * g;
    u = maximum(beta2 * u, absolute(g) + eps);
    p = p - alpha * m / u;
  }
  template <class V> V rate_of(V, V u) const { return lr / u; }
};

}  // namespace fastopt
