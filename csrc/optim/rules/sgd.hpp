/// Stochastic gradient descent, plain and with the two usual forms of momentum.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>

#include "optim/rule.hpp"

namespace fastopt {

/// Gradient descent.  Robbins & Monro 1951.
///   p ← p − η g
template <class T> struct SGD {
  static constexpr std::array options{"lr"};
  static constexpr std::array<State, 0> state{};
  static constexpr bool lazy = true;

  T lr;
  double eta;

  SGD(const std::array<double, 1>& o, double) : lr(static_cast<T>(o[0])), eta(o[0]) {}

  template <class V> void operator()(V& p, V g) const { p = p - lr * g; }
  double rate_of() const { return eta; }
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
  double eta, mu, tau, t;

  SGDMomentum(const std::array<double, 4>& o, double step)
      : lr(static_cast<T>(o[0])),
        momentum(static_cast<T>(o[1])),
        undampened(static_cast<T>(1 - o[2])),
        nesterov(o[3] != 0),
        first(step == 1),
        eta(o[0]),
        mu(o[1]),
        tau(o[2]),
        t(step) {}

  template <class V> void operator()(V& p, V g, V& b) const {
    b = first ? g : momentum * b + undampened * g;
    p = p - lr * (nesterov ? g + momentum * b : b);
  }
  /// Too much dampening turns the step round; then there is nothing to be in balance with.
  double rate_of() const {
    const double b = std::pow(mu, t - 1) + (1 - tau) * geometric(mu, t - 1);
    return eta * std::max(nesterov ? 1 + mu * b : b, 0.0);
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
  double eta, mu, t;

  SGDVelocity(const std::array<double, 3>& o, double step)
      : lr(static_cast<T>(o[0])), momentum(static_cast<T>(o[1])), nesterov(o[2] != 0), eta(o[0]), mu(o[1]), t(step) {}

  template <class V> void operator()(V& p, V g, V& v) const {
    v = momentum * v - lr * g;
    p = p + (nesterov ? momentum * v - lr * g : v);
  }
  double rate_of() const { return eta * geometric(mu, nesterov ? t + 1 : t); }
};

}  // namespace fastopt
