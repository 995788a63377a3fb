/// exp, log, tanh, erf and the logistic function, the same bits on every instruction set.
///
/// Each is arithmetic of one vector at a time, without tables, branches or fused operations.  `reference/_functions.py` is
/// the same in NumPy, and bench/polynomials.py finds the coefficients.  The largest errors are 1.0 (exp), 2.6 (tanh), 1.6
/// (erf) and 2.5 (logistic) units in the last place; tests/test_functions.py measures them.  Results that would be
/// subnormal are zero.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/simd.hpp"

namespace fastopt {

/// The constants of the functions in one type.
template <class T> struct FunctionConstants;

template <> struct FunctionConstants<float> {
  using Bits = std::uint32_t;
  static constexpr int mantissa = 23;
  static constexpr float rounder = 0x1.8p23f;  ///< x + rounder has the nearest integer to x in its last bits
  static constexpr float inverse_ln2 = 1.442695f, ln2_high = 0x1.62e4p-1f, ln2_low = 1.4286068e-6f;
  static constexpr float lowest = -87.33654f, highest = 88.72283f;  ///< where exp is normal and finite
  static constexpr float exp_rest[]{0.5f, 0.1666652f, 0.041666187f, 0.008368798f, 0.0013951436f};
  static constexpr float tanh_is_1 = 9.1f, erf_is_1 = 4;                  ///< from here on
  static constexpr float erf_slope = 1.1283791f, erf_is_linear = 1e-30f;  ///< below
  static constexpr float erf_below_1[]{0.12837917f,   -0.37612626f,    0.112835996f,  -0.026854428f,
                                       0.0051895054f, -0.00080205954f, 7.8883546e-05f};
  static constexpr float erf_from_1[]{0.00035499295f, 1.1270348f,    0.63823473f,    0.10302916f,
                                      -0.021801168f,  0.0029385001f, -0.00018545233f};
  static constexpr float log[]{0.33333337f, 0.19999446f, 0.14308257f, 0.10715761f, 0.121434964f};
};

template <> struct FunctionConstants<double> {
  using Bits = std::uint64_t;
  static constexpr int mantissa = 52;
  static constexpr double rounder = 0x1.8p52;
  static constexpr double inverse_ln2 = 1.4426950408889634, ln2_high = 0.6931471803691238,
                          ln2_low = 1.908214929270588e-10;
  static constexpr double lowest = -708.3964185322641, highest = 709.782712893384;
  static constexpr double exp_rest[]{0.5,
                                     0.16666666666666685,
                                     0.04166666666666673,
                                     0.008333333333316732,
                                     0.0013888888888857896,
                                     0.00019841269897078877,
                                     2.480158737418005e-05,
                                     2.7557234222474516e-06,
                                     2.7557233286542115e-07,
                                     2.5112241910468827e-08,
                                     2.0926908657235375e-09};
  static constexpr double tanh_is_1 = 19.1, erf_is_1 = 6;
  static constexpr double erf_slope = 1.1283791670955126, erf_is_linear = 1e-290;
  static constexpr double erf_below_1[]{0.1283791670955126,      -0.3761263890318355,    0.11283791670945231,
                                        -0.02686617064327291,    0.005223977607398376,   -0.0008548325988581832,
                                        0.00012055295289481475,  -1.492474410734472e-05, 1.6447511254770074e-06,
                                        -1.6209129709405018e-07, 1.3722787997886972e-08, -7.800856870185169e-10};
  static constexpr double erf_from_1[]{1.0843245415219918e-06, 1.1283685255505025,      0.636668355807504,
                                       0.10263566465203601,    -0.018861901356810068,   -0.0005885138268361865,
                                       0.0021030573497729478,  -0.0009231096664168501,  0.00023246564962041595,
                                       -2.881051332382976e-05, -3.3293642725562735e-06, 2.5981360858398447e-06,
                                       -6.727899289667018e-07, 1.0604604837503004e-07,  -1.0686510503092973e-08,
                                       6.385662296656106e-10,  -1.7330485698814197e-11};
  static constexpr double log[]{0.33333333333333337, 0.19999999999996998, 0.14285714286253626, 0.1111111106284197,
                                0.09090911596896976, 0.07692226085502589, 0.06668400918330859, 0.0585799659115178,
                                0.05486142639980619, 0.03497650333405353, 0.0823296544600561};
};

namespace detail {

/// c₀ + c₁ x + …, from the last coefficient on.
template <class V, class T, std::size_t N> inline V polynomial(V x, const T (&c)[N]) {
  V sum = V{} + c[N - 1];
  unroll<N - 1>([&](auto i) { sum = sum * x + c[N - 2 - i]; });
  return sum;
}

template <class To, class From> inline To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, and e^r − 1.
template <class V> struct Reduced {
  using Bits = typename BitsOf<V>::type;
  Bits exponent;  ///< n, where a number has its exponent
  V rest;         ///< e^r − 1

  explicit Reduced(V x) {
    using C = FunctionConstants<typename Element<V>::type>;
    const V shifted = x * C::inverse_ln2 + C::rounder, n = shifted - C::rounder;
    const V r = (x - n * C::ln2_high) - n * C::ln2_low;
    exponent = same_bits<Bits>(shifted) << C::mantissa;
    rest = r + r * r * polynomial(r, C::exp_rest);
  }
};

}  // namespace detail

/// e^x; +0 where that would be subnormal.
template <class V> inline V exp(V x) {
  using T = typename Element<V>::type;
  using C = FunctionConstants<T>;
  const detail::Reduced<V> reduced(x);
  const V power =
      detail::same_bits<V>(detail::same_bits<decltype(reduced.exponent)>(1 + reduced.rest) + reduced.exponent);
  const V finite = x <= C::highest ? power : V(x + std::numeric_limits<T>::infinity());  // or NaN
  return x < C::lowest ? V{} : finite;
}

/// x with the sign of `of`; x has none.
template <class V> inline V with_sign_of(V x, V of) {
  using Bits = typename BitsOf<V>::type;
  using T = typename Element<V>::type;
  constexpr auto kSign = typename FunctionConstants<T>::Bits{1} << (8 * sizeof(T) - 1);
  return detail::same_bits<V>(detail::same_bits<Bits>(x) | (detail::same_bits<Bits>(of) & kSign));
}

/// tanh x = t/(t + 2) with t = e^{2|x|} − 1, and the sign of x.
template <class V> inline V tanh(V x) {
  using T = typename Element<V>::type;
  using C = FunctionConstants<T>;
  const V magnitude = absolute(x), one = V{} + 1;
  const V bounded = magnitude < C::tanh_is_1 ? magnitude : V{} + C::tanh_is_1;
  const detail::Reduced<V> reduced(bounded + bounded);
  const V power = detail::same_bits<V>(detail::same_bits<decltype(reduced.exponent)>(one) + reduced.exponent);
  const V t = power * reduced.rest + (power - 1);
  const V result = with_sign_of(V(t / (t + 2)), x);
  return x == x ? result : x;
}

/// erf x: |x| + |x| times a polynomial of x² below 1, and 1 − e^{−polynomial of |x|} from there on.
template <class V> inline V erf(V x) {
  using C = FunctionConstants<typename Element<V>::type>;
  const V magnitude = absolute(x);
  const V bounded = magnitude < C::erf_is_1 ? magnitude : V{} + C::erf_is_1;
  // Where |x| is tiny the second term would be subnormal.
  const V more = magnitude + magnitude * detail::polynomial(V(magnitude * magnitude), C::erf_below_1);
  const V below = magnitude < C::erf_is_linear ? V(magnitude * C::erf_slope) : more;
  const V above = 1 - exp(V(-detail::polynomial(bounded, C::erf_from_1)));
  const V result = with_sign_of(V(magnitude < 1 ? below : above), x);
  return x == x ? result : x;
}

namespace detail {

/// log((1 + s)/(1 − s)), |s| ≤ 1/3.
template <class V> inline V log_of_ratio(V s) {
  const V square = s * s;
  return 2 * s + 2 * s * square * polynomial(square, FunctionConstants<typename Element<V>::type>::log);
}

}  // namespace detail

/// log(1 + u), 0 ≤ u ≤ 1.
template <class V> inline V log_above_1(V u) { return detail::log_of_ratio(V(u / (2 + u))); }

/// log x of a positive normal number; infinity and NaN stay what they are.
inline double log(double x) {
  using C = FunctionConstants<double>;
  if (!(x <= std::numeric_limits<double>::max())) return x;
  constexpr std::uint64_t kTwoThirds = 0x3fe5555555555555;  // x = m·2ⁿ with m from 2/3 to 4/3
  const auto bits = std::bit_cast<std::uint64_t>(x);
  const auto n = static_cast<std::int64_t>(bits - kTwoThirds) >> C::mantissa;
  const auto m = std::bit_cast<double>(bits - (static_cast<std::uint64_t>(n) << C::mantissa));
  const auto power = static_cast<double>(n);
  return power * C::ln2_high + (detail::log_of_ratio((m - 1) / (m + 1)) + power * C::ln2_low);
}

/// 1/(1 + e^{−x}).
template <class V> inline V sigmoid(V x) { return 1 / (1 + exp(V(-x))); }

}  // namespace fastopt
