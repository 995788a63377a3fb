/// Schedule-free learning: Defazio et al. 2024, arXiv:2405.15682, in the form of the authors' code.
///
/// The parameter holds y, where gradients are taken; z is the plain iterate.  The average x, which is for use after
/// training, is never stored: x = y + (1 − 1/β)(z − y).
///   z = y before the first step;   η_t = η·min(1, t/warmup_steps);   w_t = tʳ·(max η)^weight_lr_power;   c = w_t/Σw
///   y ← y + c (z − y) + η_t (β(1−c) − 1) u;   z ← z − η_t u
#pragma once

#include <algorithm>
#include <array>
#include <cmath>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

namespace detail {

/// The rate and the weight of a step; `n` holds Σw and the largest rate so far.
struct ScheduleFreeStep {
  double lr, c;

  ScheduleFreeStep(double rate, double warmup_steps, double r, double weight_lr_power, double step,
                   std::array<double, 2>& n)
      : lr(step < warmup_steps ? rate * (step / warmup_steps) : rate) {
    if (step == 1) n = {0, 0};
    n[1] = std::max(lr, n[1]);
    const double weight = std::pow(step, r) * std::pow(n[1], weight_lr_power);
    n[0] += weight;
    c = n[0] == 0 ? 0 : weight / n[0];
  }
};

}  // namespace detail

/// u = g
template <class T> struct ScheduleFreeSGD {
  static constexpr std::array options{"lr", "momentum", "warmup_steps", "r", "weight_lr_power"};
  static constexpr std::array state{exact("z")};
  static constexpr std::array numbers{"weight_sum", "lr_max"};

  T lr, c, rate;
  bool first;

  ScheduleFreeSGD(const std::array<double, 5>& o, double step, std::array<double, 2>& n) : first(step == 1) {
    const detail::ScheduleFreeStep now(o[0], o[2], o[3], o[4], step, n);
    lr = static_cast<T>(now.lr);
    c = static_cast<T>(now.c);
    rate = static_cast<T>(now.lr * (o[1] * (1 - now.c) - 1));
  }

  template <class V> void operator()(V& y, V g, V& z) const {
    const V from = first ? y : z;
    y = y + c * (from - y) + rate * g;
    z = from - lr * g;
  }
};

/// v ← β₂ v + (1−β₂) g²      u = g / (√v/√(1−β₂ᵗ) + ε) + λ y
template <class T> struct ScheduleFreeAdamW {
  static constexpr std::array options{"lr",           "beta1", "beta2",           "eps",
                                      "warmup_steps", "r",     "weight_lr_power", "weight_decay"};
  static constexpr std::array state{exact("z"), square("exp_avg_sq")};
  static constexpr std::array numbers{"weight_sum", "lr_max"};

  T lr, c, rate, beta2, rest2, eps, nu, weight_decay;
  bool first;

  ScheduleFreeAdamW(const std::array<double, 8>& o, double step, std::array<double, 2>& n)
      : beta2(static_cast<T>(o[2])),
        rest2(static_cast<T>(1 - o[2])),
        eps(static_cast<T>(o[3])),
        nu(static_cast<T>(1 / std::sqrt(1 - std::pow(o[2], step)))),
        weight_decay(static_cast<T>(o[7])),
        first(step == 1) {
    const detail::ScheduleFreeStep now(o[0], o[4], o[5], o[6], step, n);
    lr = static_cast<T>(now.lr);
    c = static_cast<T>(now.c);
    rate = static_cast<T>(now.lr * (o[1] * (1 - now.c) - 1));
  }

  template <class V> void operator()(V& y, V g, V& z, V& v) const {
    v = beta2 * v + rest2 * g * g;
    const V u = g / (square_root(v) * nu + eps) + weight_decay * y, from = first ? y : z;
    y = y + c * (from - y) + rate * u;
    z = from - lr * u;
  }
};

}  // namespace fastopt
