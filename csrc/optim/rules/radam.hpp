/// RAdam.
#pragma once

#include <array>
#include <cmath>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// RAdam.  Liu et al. 2020, arXiv:1908.03265, algorithm 2, with torch's threshold and its ε beside the uncorrected √v.
///   ρ_∞ = 2/(1−β₂) − 1, ρ_t = ρ_∞ − 2tβ₂ᵗ/(1−β₂ᵗ)      m, v as Adam
///   where ρ_t > 5:  p ← p − η/(1−β₁ᵗ) · r_t √(1−β₂ᵗ) · m / (√v + ε),
///                   r_t = √((ρ_t−4)(ρ_t−2)ρ_∞ / ((ρ_∞−4)(ρ_∞−2)ρ_t))
///   otherwise:      p ← p − η/(1−β₁ᵗ) · m
template <class T> struct RAdam {
  static constexpr std::array options{"lr", "beta1", "beta2", "eps"};
  static constexpr std::array state{moment("exp_avg"), square("exp_avg_sq")};

  T beta1, rest1, beta2, rest2, eps, alpha, rate;
  bool rectified;

  RAdam(const std::array<double, 4>& o, double step)
      : beta1(static_cast<T>(o[1])),
        rest1(static_cast<T>(1 - o[1])),
        beta2(static_cast<T>(o[2])),
        rest2(static_cast<T>(1 - o[2])),
        eps(static_cast<T>(o[3])) {
    const double power = std::pow(o[2], step), correction2 = 1 - power, most = 2 / (1 - o[2]) - 1;
    const double rho = most - 2 * step * power / correction2;
    rectified = rho > 5;
    double eta = o[0] / (1 - std::pow(o[1], step)), factor = 1;
    if (rectified)
      factor = std::sqrt(correction2) * std::sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho));
    alpha = static_cast<T>(eta * factor);
    rate = static_cast<T>(o[0] * factor);
  }

  template <class V> void operator()(V& p, V g, V& m, V& v) const {
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
    p = p - (rectified ? alpha * m / (square_root(v) + eps) : alpha * m);
  }
  template <class V> V rate_of(V, V v) const { return rectified ? rate / (square_root(v) + eps) : V{} + rate; }
};

}  // namespace fastopt
