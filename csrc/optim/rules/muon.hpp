/// The elementwise part of Muon.
#pragma once

#include <array>

#include "core/simd.hpp"
#include "optim/rule.hpp"

namespace fastopt {

/// The momentum of Muon.  Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/, in torch's form:
///   b ← μ b + (1−μ) g      u = b, with Nesterov u = (1−μ) g + μ b
/// The result u is the matrix that is then orthogonalized; the parameter is updated later.
template <class T> struct MuonMomentum {
  static constexpr std::array options{"momentum", "nesterov"};
  static constexpr std::array state{moment("momentum_buffer"), exact("update")};

  T momentum, rest;
  bool nesterov;

  MuonMomentum(const std::array<double, 2>& o, double)
      : momentum(static_cast<T>(o[0])), rest(static_cast<T>(1 - o[0])), nesterov(o[1] != 0) {}

  template <class V> void operator()(V&, V g, V& b, V& u) const {
    b = momentum * b + rest * g;
    u = nesterov ? rest * g + momentum * b : b;
  }
};

}  // namespace fastopt
