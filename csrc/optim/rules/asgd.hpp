/// Averaged stochastic gradient descent.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// ASGD.  Polyak & Juditsky 1992, with the rates of Bottou's sgd, as in torch.
///   p ← (1 − λη_t) p − η_t g      a ← a + μ_t (p − a)
///   η₁ = η, η_{t+1} = η/(1 + ληt)^α      μ₁ = 1, μ_{t+1} = 1/max(1, t − t₀)
template <class T> struct ASGD {
  static constexpr std::array options{"lr", "lambd", "alpha", "t0"};
  static constexpr std::array state{exact("ax")};
  static constexpr std::array numbers{"eta", "mu"};

  T shrink, eta, mu;
  bool copies;
  double rate;

  ASGD(const std::array<double, 4>& o, double step, std::array<double, 2>& n) {
    if (step == 1) n = {o[0], 1};
    shrink = static_cast<T>(1 - o[1] * n[0]);
    rate = n[0];
    eta = static_cast<T>(rate);
    mu = static_cast<T>(n[1]);
    copies = n[1] == 1;
    n[0] = o[0] / std::pow(1 + o[1] * o[0] * step, o[2]);
    n[1] = 1 / std::max(1.0, step - o[3]);
  }

  template <class V> void operator()(V& p, V g, V& a) const {
    p = p * shrink - eta * g;
    a = copies ? p : a + mu * (p - a);
  }
  double rate_of() const { return rate; }
};

}  // namespace fastopt
