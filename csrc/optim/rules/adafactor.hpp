/// Adafactor.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// Adafactor for vectors, whose second moment is not factored.  Shazeer & Stern 2018, arXiv:1804.04235, algorithm 5, in
/// torch's form.
///   ω = t^beta2_decay, ρ = min(η, 1/√t)      v ← (1−ω) v + ω g²      u = g / √max(v, ε₁²)
///   p ← p − max(ε₂, ‖p‖/√n) ρ / max(1, ‖u‖/(√n·d)) · u
template <class T> struct Adafactor {
  static constexpr std::array options{"lr", "beta2_decay", "eps1", "eps2", "d"};
  static constexpr std::array state{exact("variance")};
  static constexpr std::size_t sums = 2;

  double rho, eps1, eps2, d;
  T fresh, kept, least, rate;

  /// A negative ε₁ stands for the epsilon of T.
  Adafactor(const std::array<double, 5>& o, double step)
      : rho(std::min(o[0], 1 / std::sqrt(step))),
        eps1(o[2] < 0 ? static_cast<double>(std::numeric_limits<T>::epsilon()) : o[2]),
        eps2(o[3]),
        d(o[4]),
        fresh(static_cast<T>(std::pow(step, o[1]))),
        kept(static_cast<T>(1 - std::pow(step, o[1]))),
        least(static_cast<T>(eps1 * eps1)),
        rate(0) {}

  template <class V> V direction(V g, V& v) const {
    v = kept * v + fresh * g * g;
    return g / root(v);
  }
  template <class V> V root(V v) const { return square_root(maximum(v, V{} + least)); }

  template <class V> std::array<std::pair<V, V>, 2> measure(V p, V g, V v) const {
    const V u = direction(g, v);
    return {std::pair{p, p}, std::pair{u, u}};
  }
  void conclude(const std::array<double, 2>& squares, double size) {
    const double root = std::sqrt(size);
    // If a norm is NaN, the maximum is its other argument, as in torch: the elements that made the norm NaN are NaN
    // anyway.
    rate = static_cast<T>(std::max(eps2, std::sqrt(squares[0]) / root) * rho /
                          std::max(1.0, std::sqrt(squares[1]) / (root * d)));
  }

  template <class V> void operator()(V& p, V g, V& v) const { p = p - rate * direction(g, v); }
  template <class V> V rate_of(V v) const { return rate / root(v); }
};

}  // namespace fastopt
