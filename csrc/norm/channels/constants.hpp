/// The constants of each channel for the passes over memory, and the formulas of these passes.
///
/// Numbers that are constant in a channel are computed once, in double.  The passes are then
///   y  = (x − high)·scale + shift                      high the T nearest to the mean
///   dx = dy·scale + offset − (x − high)·slope
#pragma once

#include <array>
#include <cstddef>
#include <type_traits>

#include "core/codec/half.hpp"
#include "core/scratch.hpp"
#include "core/simd.hpp"
#include "norm/channels/layout.hpp"
#include "norm/statistics.hpp"

namespace fastopt {

/// Calls body with an integral constant of `after`.
template <class Body> void with_after(After after, Body&& body) {
  if (after == After::nothing) return body(std::integral_constant<After, After::nothing>{});
  if (after == After::relu) return body(std::integral_constant<After, After::relu>{});
  body(std::integral_constant<After, After::add_relu>{});
}

/// The constants of every set: a row of numbers for each constant.
template <class T> class Constants {
 public:
  enum Name : std::size_t { high, scale, shift, slope, offset, names };

  explicit Constants(std::size_t sets) : sets_(sets), table_(names * sets) {}

  T* at(Name name) const { return table_.data() + name * sets_; }

  /// Pointers to the row of each constant.  Hold it by value: the compiler must know that no store changes it.
  struct Rows {
    const T *high, *scale, *shift, *slope, *offset;
  };
  Rows rows(std::size_t set) const {
    return {at(high) + set, at(scale) + set, at(shift) + set, at(slope) + set, at(offset) + set};
  }

  /// The rows that y = (x − mean)·factor + bias needs.  Hold them by value, for the same reason.
  struct ForwardRows {
    T *high, *scale, *shift;

    void set(std::size_t set, double mean, double factor, double bias) const {
      const Centre<T> centre(mean);
      high[set] = centre.high;
      scale[set] = static_cast<T>(factor);
      shift[set] = static_cast<T>(bias - static_cast<double>(centre.low) * factor);
    }
  };
  ForwardRows forward_rows() const { return {at(high), at(scale), at(shift)}; }
  void set_forward(std::size_t set, double mean, double factor, double bias) const {
    forward_rows().set(set, mean, factor, bias);
  }
  /// dx = dy·factor − mean_g − (x − mean)·slope, with set_forward's mean and factor.
  struct BackwardRows {
    T *slope, *offset;

    void set(std::size_t set, double low, double slope_, double mean_g) const {
      slope[set] = static_cast<T>(slope_);
      offset[set] = static_cast<T>(low * slope_ - mean_g);
    }
  };
  BackwardRows backward_rows() const { return {at(slope), at(offset)}; }
  void set_backward(std::size_t set, double low, double slope_, double mean_g) const {
    backward_rows().set(set, low, slope_, mean_g);
  }

 private:
  std::size_t sets_;
  Scratch<T> table_;
};

/// The constants of one set, or of as many as V holds.
template <class V> struct Constant {
  V high, scale, shift, slope, offset;

  template <class Rows> static Constant of(const Rows& rows, std::size_t i) {
    const auto get = [&](const auto* row) { return load<V>(row + i); };
    return {get(rows.high), get(rows.scale), get(rows.shift), get(rows.slope), get(rows.offset)};
  }

  template <class X> X y(X x) const { return (x - high) * scale + shift; }
  template <class X> X dx(X dy, X x) const { return dy * scale + offset - (x - high) * slope; }
};

// The formulas for element(s) i of a row, with the constants c of its set.

/// 0 where `by` is not positive, otherwise x.
template <class V> inline V rectified(V x, V by) { return by <= 0 ? V{} : x; }

/// y.
template <After after>
inline constexpr auto forward_formula = [](const auto& row, std::size_t i, const auto& c, auto number) {
  using V = decltype(number);
  V y = c.y(load<V>(row.x + i));
  if constexpr (after == After::add_relu) y = y + load<V>(row.more + i);
  return after == After::nothing ? y : rectified(y, y);
};

/// The gradient that reaches the normalization itself.  Behind a ReLU it is 0 where y was 0; relu recomputes that from
/// x, and add_relu reads it from y.
template <After after>
inline constexpr auto reaching_formula = [](const auto& row, std::size_t i, const auto& c, auto number) {
  using V = decltype(number);
  const V dy = load<V>(row.dy + i);
  if constexpr (after == After::relu) return rectified(dy, V(c.y(load<V>(row.x + i))));
  if constexpr (after == After::add_relu) return rectified(dy, load<V>(row.more + i));
  return dy;
};

/// dx; without `training` the statistics are constants.
template <After after, bool training>
inline constexpr auto backward_formula = [](const auto& row, std::size_t i, const auto& c, auto number) {
  using V = decltype(number);
  const V dy = reaching_formula<after>(row, i, c, number);
  if constexpr (training)
    return c.dx(dy, load<V>(row.x + i));
  else
    return V(dy * c.scale);
};

/// The terms of Σ g and Σ g (x − high); g is the gradient that reaches the normalization.  In add_relu g is also the
/// gradient of the residual, so it is stored.
template <After after>
inline constexpr auto gradient_terms = [](const auto& row, std::size_t i, const auto& c, auto number) {
  using V = decltype(number);
  const V g = reaching_formula<after>(row, i, c, number);
  if constexpr (after == After::add_relu) store(row.also_to + i, g);
  return std::array<V, 2>{g, V(g * (load<V>(row.x + i) - c.high))};
};

}  // namespace fastopt
