/// Adan.
#pragma once

#include <array>
#include <cmath>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// Adan.  Xie et al. 2024, arXiv:2208.06677, algorithm 1, with the coefficients of the authors' code (1 − the paper's).
///   d = g − g_prev, 0 at the first step
///   m ← β₁ m + (1−β₁) g      v ← β₂ v + (1−β₂) d      n ← β₃ n + (1−β₃) (g + β₂ d)²
///   p ← (p − η (m/(1−β₁ᵗ) + β₂ v/(1−β₂ᵗ)) / (√n/√(1−β₃ᵗ) + ε)) / (1 + ηλ)
template <class T> struct Adan {
  static constexpr std::array options{"lr", "beta1", "beta2", "beta3", "eps", "weight_decay"};
  static constexpr std::array state{moment("exp_avg"), moment("exp_avg_diff"), square("exp_avg_sq"),
                                    exact("neg_pre_grad")};

  T beta1, rest1, beta2, rest2, beta3, rest3, eps, alpha, alpha_diff, nu, shrink, rate;
  bool first;

  Adan(const std::array<double, 6>& o, double step)
      : beta1(static_cast<T>(o[1])),
        rest1(static_cast<T>(1 - o[1])),
        beta2(static_cast<T>(o[2])),
        rest2(static_cast<T>(1 - o[2])),
        beta3(static_cast<T>(o[3])),
        rest3(static_cast<T>(1 - o[3])),
        eps(static_cast<T>(o[4])),
        alpha(static_cast<T>(o[0] / (1 - std::pow(o[1], step)))),
        alpha_diff(static_cast<T>(o[0] * o[2] / (1 - std::pow(o[2], step)))),
        nu(static_cast<T>(1 / std::sqrt(1 - std::pow(o[3], step)))),
        shrink(static_cast<T>(1 / (1 + o[0] * o[5]))),
        rate(static_cast<T>(o[0] * (1 / (1 + o[0] * o[5])))),
        first(step == 1) {}

  template <class V> void operator()(V& p, V g, V& m, V& v, V& n, V& negative) const {
    const V difference = first ? g - g : negative + g, ahead = g + beta2 * difference;
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * difference;
    n = beta3 * n + rest3 * ahead * ahead;
    p = (p - (alpha * m + alpha_diff * v) / root(n)) * shrink;
    negative = -g;
  }
  template <class V> V root(V n) const { return square_root(n) * nu + eps; }
  template <class V> V rate_of(V, V, V n, V) const { return rate / root(n); }
};

}  // namespace fastopt
