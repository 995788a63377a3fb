/// Rules with a trust ratio: for each tensor, the norm of the step is proportional to the norm of the parameter.
#pragma once

#include <array>
#include <cmath>
#include <utility>

#include "core/simd.hpp"
#include "optim/rule.hpp"
#include "optim/rules/adam.hpp"

namespace fastopt {

namespace detail {

/// ‖p‖/(‖u‖ + ε) from the squared norms, or 1 where one of the norms is zero.
inline double trust_ratio(const std::array<double, 2>& squares, double coefficient, double eps) {
  if (squares[0] == 0 || squares[1] == 0) return 1;
  return coefficient * std::sqrt(squares[0]) / (std::sqrt(squares[1]) + eps);
}

}  // namespace detail

/// LAMB.  You et al. 2020, arXiv:1904.00962, algorithm 2, with φ(z) = z.
///   m, v as Adam      u = m̂ / (√v̂ + ε) + λ p      p ← p − η ‖p‖/‖u‖ u
template <class T> struct LAMB {
  static constexpr std::array options{"lr", "beta1", "beta2", "eps", "weight_decay"};
  static constexpr std::array state{moment("exp_avg"), square("exp_avg_sq")};
  static constexpr std::size_t sums = 2;

  T beta1, rest1, beta2, rest2, eps, correction, nu, weight_decay, rate;
  double lr;

  LAMB(const std::array<double, 5>& o, double step)
      : beta1(static_cast<T>(o[1])),
        rest1(static_cast<T>(1 - o[1])),
        beta2(static_cast<T>(o[2])),
        rest2(static_cast<T>(1 - o[2])),
        eps(static_cast<T>(o[3])),
        correction(static_cast<T>(1 / (1 - std::pow(o[1], step)))),
        nu(static_cast<T>(1 / std::sqrt(1 - std::pow(o[2], step)))),
        weight_decay(static_cast<T>(o[4])),
        rate(0),
        lr(o[0]) {}

  template <class V> V direction(V p, V g, V& m, V& v) const {
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
    return correction * m / root(v) + weight_decay * p;
  }
  template <class V> V root(V v) const { return square_root(v) * nu + eps; }

  template <class V> std::array<std::pair<V, V>, 2> measure(V p, V g, V m, V v) const {
    const V u = direction(p, g, m, v);
    return {std::pair{p, p}, std::pair{u, u}};
  }
  void conclude(const std::array<double, 2>& squares, double) {
    rate = static_cast<T>(lr * detail::trust_ratio(squares, 1, 0));
  }

  template <class V> void operator()(V& p, V g, V& m, V& v) const { p = p - rate * direction(p, g, m, v); }
  template <class V> V rate_of(V, V v) const { return rate / root(v); }
};

/// LARS.  You, Gitman & Ginsburg 2017, arXiv:1708.03888, algorithm 1, in optax's form.
///   u = g + λ p      b ← μ b + η·c·‖p‖/(‖u‖ + ε)·u      p ← p − b, with Nesterov p ← p − (η·c·‖p‖/(‖u‖ + ε)·u + μ b)
template <class T> struct LARS {
  static constexpr std::array options{"lr", "momentum", "weight_decay", "trust_coefficient", "eps", "nesterov"};
  static constexpr std::array state{moment("momentum_buffer")};
  static constexpr std::size_t sums = 2;

  T momentum, weight_decay, rate;
  bool nesterov;
  double lr, coefficient, eps, local = 0, mu, t;

  LARS(const std::array<double, 6>& o, double step)
      : momentum(static_cast<T>(o[1])),
        weight_decay(static_cast<T>(o[2])),
        rate(0),
        nesterov(o[5] != 0),
        lr(o[0]),
        coefficient(o[3]),
        eps(o[4]),
        mu(o[1]),
        t(step) {}

  template <class V> std::array<std::pair<V, V>, 2> measure(V p, V g, V) const {
    const V u = g + weight_decay * p;
    return {std::pair{p, p}, std::pair{u, u}};
  }
  void conclude(const std::array<double, 2>& squares, double) {
    local = lr * detail::trust_ratio(squares, coefficient, eps);
    rate = static_cast<T>(local);
  }

  template <class V> void operator()(V& p, V g, V& b) const {
    const V u = rate * (g + weight_decay * p);
    b = momentum * b + u;
    p = p - (nesterov ? u + momentum * b : b);
  }
  double rate_of() const { return local * geometric(mu, nesterov ? t + 1 : t); }
};

}  // namespace fastopt
