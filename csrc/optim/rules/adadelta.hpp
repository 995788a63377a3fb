/// Adadelta.
#pragma once

#include <array>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// Adadelta.  Zeiler 2012, arXiv:1212.5701, algorithm 1; η = 1 there.
///   v ← ρ v + (1−ρ) g²      Δ = √(u + ε) / √(v + ε) · g      u ← ρ u + (1−ρ) Δ²      p ← p − η Δ
template <class T> struct Adadelta {
  static constexpr std::array options{"lr", "rho", "eps"};
  static constexpr std::array state{square("square_avg"), square("acc_delta")};

  T lr, rho, rest, eps;

  Adadelta(const std::array<double, 3>& o, double)
      : lr(static_cast<T>(o[0])),
        rho(static_cast<T>(o[1])),
        rest(static_cast<T>(1 - o[1])),
        eps(static_cast<T>(o[2])) {}

  template <class V> void operator()(V& p, V g, V& v, V& u) const {
    v = rho * v + rest * g * g;
    const V delta = square_root(u + eps) / square_root(v + eps) * g;
    u = rho * u + rest * delta * delta;
    p = p - lr * delta;
  }
  template <class V> V rate_of(V v, V u) const { return lr * (square_root(u + eps) / square_root(v + eps)); }
};

}  // namespace fastopt
