/// Resilient propagation.
#pragma once

#include <array>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// Rprop.  Riedmiller & Braun 1993; the variant without weight backtracking (iRprop⁻, Igel & Hüsken 2000), as in torch.
///   s = η before the first step
///   where g has kept its sign:     s ← min(η⁺ s, s_max)
///   where it has changed:          s ← max(η⁻ s, s_min), g ← 0
///   p ← p − sign(g) s      g_prev ← g
/// The signs are compared instead of multiplying gradients, because the product may underflow.
template <class T> struct Rprop {
  static constexpr std::array options{"lr", "etaminus", "etaplus", "step_size_min", "step_size_max"};
  static constexpr std::array state{exact("prev"), exact("step_size")};

  T lr, etaminus, etaplus, least, most;
  bool first;

  Rprop(const std::array<double, 5>& o, double step)
      : lr(static_cast<T>(o[0])),
        etaminus(static_cast<T>(o[1])),
        etaplus(static_cast<T>(o[2])),
        least(static_cast<T>(o[3])),
        most(static_cast<T>(o[4])),
        first(step == 1) {}

  template <class V> void operator()(V& p, V g, V& previous, V& size) const {
    const V zero = {}, agreement = sign(g) * sign(previous);
    const V factor = agreement > zero ? V{} + etaplus : (agreement < zero ? V{} + etaminus : agreement + T{1});
    size = clamp((first ? V{} + lr : size) * factor, least, most);
    previous = agreement < zero ? zero : g;
    p = p - sign(previous) * size;
  }
};

}  // namespace fastopt
