/// RMSprop, plain, centered, and with the two momenta.
#pragma once

#include <array>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// RMSprop.  Tieleman & Hinton 2012, lecture 6.5 of "Neural networks for machine learning".
///   v ← α v + (1−α) g²      p ← p − η g / (√v + ε)
/// eps_in_sqrt is Keras's and optax's order: √(v + ε).  One of `inside` and `outside` is ε, the other 0.
template <class T> struct RMSprop {
  static constexpr std::array options{"lr", "alpha", "eps", "momentum", "eps_in_sqrt"};
  static constexpr std::array state{square("square_avg")};
  static constexpr bool lazy = true;

  T lr, alpha, rest, inside, outside, momentum, rate;

  RMSprop(const std::array<double, 5>& o, double step)
      : lr(static_cast<T>(o[0])),
        alpha(static_cast<T>(o[1])),
        rest(static_cast<T>(1 - o[1])),
        inside(static_cast<T>(o[4] != 0 ? o[2] : 0)),
        outside(static_cast<T>(o[4] != 0 ? 0 : o[2])),
        momentum(static_cast<T>(o[3])),
        rate(static_cast<T>(o[0] * (o[3] == 0 ? 1 : geometric(o[3], step)))) {}

  template <class V> V direction(V g, V& v) const {
    v = alpha * v + rest * g * g;
    return g / root(v);
  }
  template <class V> V root(V v) const { return square_root(v + inside) + outside; }
  template <class V> void descend(V& p, V direction, V& b) const {
    b = momentum * b + direction;
    p = p - lr * b;
  }
  template <class V> void move(V& p, V direction, V& velocity) const {
    velocity = momentum * velocity - lr * direction;
    p = p + velocity;
  }

  template <class V> void operator()(V& p, V g, V& v) const { p = p - lr * direction(g, v); }
  template <class V, class... More> V rate_of(V v, More...) const { return rate / root(v); }
};

/// With momentum: b ← μ b + g / (√v + ε)      p ← p − η b
template <class T> struct RMSpropMomentum : RMSprop<T> {
  static constexpr std::array state{square("square_avg"), moment("momentum_buffer")};
  using RMSprop<T>::RMSprop;

  template <class V> void operator()(V& p, V g, V& v, V& b) const { this->descend(p, this->direction(g, v), b); }
};

/// With momentum as a velocity in the units of p, as Keras and optax mean it: u ← μ u − η g / (√v + ε)      p ← p + u
template <class T> struct RMSpropVelocity : RMSprop<T> {
  static constexpr std::array state{square("square_avg"), moment("velocity_buffer")};
  using RMSprop<T>::RMSprop;

  template <class V> void operator()(V& p, V g, V& v, V& u) const { this->move(p, this->direction(g, v), u); }
};

/// Centered: Graves 2013, arXiv:1308.0850, eq. 38-43.
///   v as before      ḡ ← α ḡ + (1−α) g      p ← p − η g / (√(v − ḡ²) + ε)
/// Rounding cannot make the variance negative: it is at least 0.
template <class T> struct RMSpropCentered : RMSprop<T> {
  static constexpr std::array state{exact("square_avg"), exact("grad_avg")};
  using RMSprop<T>::RMSprop;

  template <class V> V centered(V g, V& v, V& mean) const {
    v = this->alpha * v + this->rest * g * g;
    mean = this->alpha * mean + this->rest * g;
    return g / spread(v, mean);
  }
  template <class V> V spread(V v, V mean) const { return this->root(maximum(v - mean * mean, V{})); }

  template <class V> void operator()(V& p, V g, V& v, V& mean) const { p = p - this->lr * centered(g, v, mean); }
  template <class V, class... More> V rate_of(V v, V mean, More...) const { return this->rate / spread(v, mean); }
};

template <class T> struct RMSpropCenteredMomentum : RMSpropCentered<T> {
  static constexpr std::array state{exact("square_avg"), exact("grad_avg"), moment("momentum_buffer")};
  using RMSpropCentered<T>::RMSpropCentered;

  template <class V> void operator()(V& p, V g, V& v, V& mean, V& b) const {
    this->descend(p, this->centered(g, v, mean), b);
  }
};

template <class T> struct RMSpropCenteredVelocity : RMSpropCentered<T> {
  static constexpr std::array state{exact("square_avg"), exact("grad_avg"), moment("velocity_buffer")};
  using RMSpropCentered<T>::RMSpropCentered;

  template <class V> void operator()(V& p, V g, V& v, V& mean, V& u) const {
    this->move(p, this->centered(g, v, mean), u);
  }
};

}  // namespace fastopt
