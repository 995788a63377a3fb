/// NAdam.
#pragma once

#include <array>
#include <cmath>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// NAdam.  Dozat 2016, "Incorporating Nesterov momentum into Adam", with torch's ε and schedule of momenta.
///   μ_t = β₁(1 − ½·0.96^(t·ψ)), Π_t = μ₁⋯μ_t      m, v as Adam
///   p ← p − η ((1−μ_t)/(1−Π_t)·g + μ_{t+1}/(1−Π_t·μ_{t+1})·m) / (√v/√(1−β₂ᵗ) + ε)
template <class T> struct NAdam {
  static constexpr std::array options{"lr", "beta1", "beta2", "eps", "momentum_decay"};
  static constexpr std::array state{moment("exp_avg"), square("exp_avg_sq")};
  static constexpr std::array numbers{"mu_product"};

  T beta1, rest1, beta2, rest2, eps, nu, of_grad, of_average, rate;

  NAdam(const std::array<double, 5>& o, double step, std::array<double, 1>& product)
      : beta1(static_cast<T>(o[1])),
        rest1(static_cast<T>(1 - o[1])),
        beta2(static_cast<T>(o[2])),
        rest2(static_cast<T>(1 - o[2])),
        eps(static_cast<T>(o[3])),
        nu(static_cast<T>(1 / std::sqrt(1 - std::pow(o[2], step)))) {
    const auto momentum = [&](double t) { return o[1] * (1 - 0.5 * std::pow(0.96, t * o[4])); };
    const double mu = momentum(step), next = momentum(step + 1);
    product[0] = step == 1 ? mu : product[0] * mu;
    const double grad = o[0] * (1 - mu) / (1 - product[0]), average = o[0] * next / (1 - product[0] * next);
    of_grad = static_cast<T>(grad);
    of_average = static_cast<T>(average);
    rate = static_cast<T>(grad + average * (1 - std::pow(o[1], step)));
  }

  template <class V> void operator()(V& p, V g, V& m, V& v) const {
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
    p = p - (of_grad * g + of_average * m) / root(v);
  }
  template <class V> V root(V v) const { return square_root(v) * nu + eps; }
  template <class V> V rate_of(V, V v) const { return rate / root(v); }
};

}  // namespace fastopt
