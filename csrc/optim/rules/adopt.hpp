/// ADOPT.
#pragma once

#include <array>
#include <cmath>
#include <limits>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// ADOPT: Adam that divides by the second moment of earlier gradients.  Taniguchi et al. 2024, arXiv:2411.02853,
/// algorithm 2, with the clipping of the authors' code.
///   first step    v ← g²
///   later         m ← β₁ m + (1−β₁) clip(g / max(√v, ε), (t−1)^clip_exponent)      p ← p − η m
///                 v ← β₂ v + (1−β₂) g²
template <class T> struct ADOPT {
  static constexpr std::array options{"lr", "beta1", "beta2", "eps", "clip_exponent"};
  static constexpr std::array state{moment("exp_avg"), square("exp_avg_sq")};

  T lr, beta1, rest1, beta2, rest2, eps, most, rate;
  bool first;

  /// A negative clip_exponent means no clipping.
  ADOPT(const std::array<double, 5>& o, double step)
      : lr(static_cast<T>(o[0])),
        beta1(static_cast<T>(o[1])),
        rest1(static_cast<T>(1 - o[1])),
        beta2(static_cast<T>(o[2])),
        rest2(static_cast<T>(1 - o[2])),
        eps(static_cast<T>(o[3])),
        most(o[4] < 0 ? std::numeric_limits<T>::infinity() : static_cast<T>(std::pow(step - 1, o[4]))),
        rate(static_cast<T>(o[0] * (1 - std::pow(o[1], step - 1)))),
        first(step == 1) {}

  template <class V> void operator()(V& p, V g, V& m, V& v) const {
    if (first) {
      v = g * g;
      return;
    }
    m = beta1 * m + rest1 * clamp(g / root(v), -most, most);
    p = p - lr * m;
    v = beta2 * v + rest2 * g * g;
  }
  template <class V> V root(V v) const { return maximum(square_root(v), V{} + eps); }
  /// 0 at the first step, which does not move p.
  template <class V> V rate_of(V, V v) const { return first ? V{} : rate / root(v); }
};

}  // namespace fastopt
