/// Stochastic gradient descent, plain and with the two usual forms of momentum.
#pragma once

#include <array>

#include "optim/rule.hpp"

namespace fastopt {

/// Gradient descent.  Robbins & Monro 1951.
///   p ← p − η g
template <class T> struct SGD {
  static constexpr std::array options{"lr"};
  static constexpr std::array<State, 0> state{};
  static constexpr bool lazy = true;

  T lr;

  SGD(const std::array<double, 1>& o, double) : lr(static_cast<T>(o[0])) {}

  template <class V> void operator()(V& p, V g) const { p = p - lr * g; }
};

/// Momentum as in torch.  Polyak 1964; Nesterov 1983 in the form of Sutskever et al. 2013.
///   b ← g at the first step, μ b + (1−τ) g later      p ← p − η b, with Nesterov p ← p − η (g + μ b)
template <class T> struct SGDMomentum {
  static constexpr std::array options{"lr", "momentum", "dampening", "nesterov"};
  static constexpr std::array state{moment("momentum_buffer")};
  static constexpr bool lazy = true;
  static constexpr bool often_packed = true;

  T lr, momentum, undampened;
  bool nesterov, first;

  SGDMomentum(const std::array<double, 4>& o, double step)
      : lr(static_cast<T>(o[0])),
        momentum(static_cast<T>(o[1])),
        undampened(static_cast<T>(1 - o[2])),
        nesterov(o[3] != 0),
        first(step == 1) {}

  template <class V> void operator()(V& p, V g, V& b) const {
    b = first ? g : momentum * b + undampened * g;
    p = p - lr * (nesterov ? g + momentum * b : b);
  }
};

/// Momentum as a velocity in the units of p, as in Keras and scikit-learn.
///   v ← μ v − η g      p ← p + v, with Nesterov p ← p + μ v − η g
template <class T> struct SGDVelocity {
  static constexpr std::array options{"lr", "momentum", "nesterov"};
  static constexpr std::array state{moment("velocity_buffer")};
  static constexpr bool lazy = true;

  T lr, momentum;
  bool nesterov;

  SGDVelocity(const std::array<double, 3>& o, double)
      : lr(static_cast<T>(o[0])), momentum(static_cast<T>(o[1])), nesterov(o[2] != 0) {}

  template <class V> void operator()(V& p, V g, V& v) const {
    v = momentum * v - lr * g;
    p = p + (nesterov ? momentum * v - lr * g : v);
  }
};

}  // namespace fastopt
