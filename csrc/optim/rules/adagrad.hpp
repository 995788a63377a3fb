/// Adagrad.
#pragma once

#include <array>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// Adagrad.  Duchi, Hazan & Singer 2011, JMLR 12, 2121-2159.
///   s ← s + g²      p ← p − η/(1 + (t−1)·lr_decay) · g / (√s + ε)
/// eps_in_sqrt is Keras's and optax's order: √(s + ε).  One of `inside` and `outside` is ε, the other 0.
template <class T> struct Adagrad {
  static constexpr std::array options{"lr", "lr_decay", "eps", "eps_in_sqrt"};
  static constexpr std::array state{square("sum")};
  static constexpr bool lazy = true;

  T rate, inside, outside;

  Adagrad(const std::array<double, 4>& o, double step)
      : rate(static_cast<T>(o[0] / (1 + (step - 1) * o[1]))),
        inside(static_cast<T>(o[3] != 0 ? o[2] : 0)),
        outside(static_cast<T>(o[3] != 0 ? 0 : o[2])) {}

  template <class V> void operator()(V& p, V g, V& s) const {
    s = s + g * g;
    p = p - rate * g / root(s);
  }
  template <class V> V root(V s) const { return square_root(s + inside) + outside; }
  template <class V> V rate_of(V s) const { return rate / root(s); }
};

}  // namespace fastopt
