/// AdEMAMix.
#pragma once

#include <array>
#include <cmath>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// AdEMAMix.  Pagliardini, Ablin & Grangier 2025, arXiv:2409.03137, algorithm 1 and appendix A for the warm-ups.
///   m₁ ← β₁ m₁ + (1−β₁) g      m₂ ← β₃(t) m₂ + (1−β₃(t)) g      v ← β₂ v + (1−β₂) g²
///   p ← p − η ((m₁/(1−β₁ᵗ) + α(t) m₂) / (√v/√(1−β₂ᵗ) + ε) + λ p)
/// α grows linearly over alpha_warmup steps; β₃ grows from β₁ over beta3_warmup steps, so that its half-life grows
/// linearly.
template <class T> struct AdEMAMix {
  static constexpr std::array options{"lr",  "beta1",        "beta2",        "beta3",       "alpha",
                                      "eps", "alpha_warmup", "beta3_warmup", "weight_decay"};
  static constexpr std::array state{moment("exp_avg_fast"), moment("exp_avg_slow"), square("exp_avg_sq")};

  T lr, beta1, rest1, beta2, rest2, beta3, rest3, alpha, eps, correction, nu, weight_decay, rate;

  AdEMAMix(const std::array<double, 9>& o, double step)
      : lr(static_cast<T>(o[0])),
        beta1(static_cast<T>(o[1])),
        rest1(static_cast<T>(1 - o[1])),
        beta2(static_cast<T>(o[2])),
        rest2(static_cast<T>(1 - o[2])),
        alpha(static_cast<T>(step < o[6] ? step / o[6] * o[4] : o[4])),
        eps(static_cast<T>(o[5])),
        correction(static_cast<T>(1 / (1 - std::pow(o[1], step)))),
        nu(static_cast<T>(1 / std::sqrt(1 - std::pow(o[2], step)))),
        weight_decay(static_cast<T>(o[8])) {
    double slow = o[3];
    if (step < o[7]) {
      const auto half_life = [](double beta) { return std::log(0.5) / std::log(beta + 1e-8) - 1; };
      const double part = step / o[7];
      slow = std::pow(0.5, 1 / ((1 - part) * half_life(o[1]) + part * half_life(o[3]) + 1));
    }
    beta3 = static_cast<T>(slow);
    rest3 = static_cast<T>(1 - slow);
    rate = static_cast<T>(o[0] * (1 + (step < o[6] ? step / o[6] * o[4] : o[4]) * (1 - std::pow(slow, step))));
  }

  template <class V> void operator()(V& p, V g, V& fast, V& slow, V& v) const {
    fast = beta1 * fast + rest1 * g;
    slow = beta3 * slow + rest3 * g;
    v = beta2 * v + rest2 * g * g;
    p = p - lr * ((correction * fast + alpha * slow) / root(v) + weight_decay * p);
  }
  template <class V> V root(V v) const { return square_root(v) * nu + eps; }
  /// While β₃ warms up, as if it had been what it is now.
  template <class V> V rate_of(V, V, V v) const { return rate / root(v); }
};

}  // namespace fastopt
