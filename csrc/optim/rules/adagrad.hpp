/// Adagrad.
#pragma once

#include <array>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// Adagrad.  Duchi, Hazan & Singer 2011, JMLR 12, 2121-2159.
///   s ← s + g²      p ← p − η/(1 + (t−1)·lr_decay) · g / (√s + ε)
template <class T> struct Adagrad {
  static constexpr std::array options{"lr", "lr_decay", "eps"};
  static constexpr std::array state{square("sum")};
  static constexpr bool lazy = true;

  T rate, eps;

  Adagrad(const std::array<double, 3>& o, double step)
      : rate(static_cast<T>(o[0] / (1 + (step - 1) * o[1]))), eps(static_cast<T>(o[2])) {}

  template <class V> void operator()(V& p, V g, V& s) const {
    s = s + g * g;
    p = p - rate * g / (square_root(s) + eps);
  }
};

}  // namespace fastopt
