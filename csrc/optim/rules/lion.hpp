/// Lion.
#pragma once

#include <array>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// Lion.  Chen et al. 2023, arXiv:2302.06675, algorithm 2.
///   p ← p − η sign(β₁ m + (1−β₁) g)      m ← β₂ m + (1−β₂) g
template <class T> struct Lion {
  static constexpr std::array options{"lr", "beta1", "beta2"};
  static constexpr std::array state{moment("exp_avg")};
  static constexpr bool often_packed = true;

  T lr, beta1, rest1, beta2, rest2;

  Lion(const std::array<double, 3>& o, double)
      : lr(static_cast<T>(o[0])),
        beta1(static_cast<T>(o[1])),
        rest1(static_cast<T>(1 - o[1])),
        beta2(static_cast<T>(o[2])),
        rest2(static_cast<T>(1 - o[2])) {}

  template <class V> void operator()(V& p, V g, V& m) const {
    p = p - lr * sign(beta1 * m + rest1 * g);
    m = beta2 * m + rest2 * g;
  }
};

}  // namespace fastopt
