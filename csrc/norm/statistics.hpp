/// Statistics that all normalizations share: means that keep their precision, and the chunks of sums over rows.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <type_traits>

namespace fastopt {

/// Subtracts a mean that is more precise than T: first its nearest T, which is exact for numbers near the mean, then
/// the remainder.  So x − mean keeps all its digits even where the mean is a million times the spread.
template <class T> struct Centre {
  T high, low;

  Centre() = default;
  explicit Centre(double mean) : high(static_cast<T>(mean)), low(static_cast<T>(mean - static_cast<double>(high))) {}

  template <class V> V operator()(V x) const { return x - high - low; }
};

/// The difference between a mean and its nearest T.
template <class T> double low_of(double mean) { return static_cast<double>(Centre<T>(mean).low); }

/// Whether Σ(x − middle)² over n numbers may be wrong because squares left float32's range.  Large squares overflow;
/// squares below 2⁻¹²⁶ become zero, which matters if neither the sum nor eps is large compared with them.
template <class T> bool squares_suspect(double squares, double n, double eps) {
  return std::is_same_v<T, float> && ((squares > 0x1p127) | (squares < n * (0x1p-100 - eps)));
}

/// The same, without the sums that are right because all numbers equal `middle`.  visit(f) calls f for each number.
template <class T, class Visit>
bool squares_lost(double squares, double n, double eps, double middle, const Visit& visit) {
  if (!squares_suspect<T>(squares, n, eps)) [[likely]]
    return false;
  if (squares != 0) return true;
  bool constant = true;
  visit([&](double x) { constant &= x == middle; });
  return !constant;
}

/// Σ(x − middle)² in double, one number after the other.
template <class Visit> double careful_squares(double middle, const Visit& visit) {
  double squares = 0;
  visit([&](double x) {
    const double d = x - middle;
    squares += d * d;
  });
  return squares;
}

/// The mean of n numbers, and the sum of the squares around it.
struct Moments {
  double mean, m2;

  /// From the sums of d = x − centre and of d², where centre is close to the mean.
  static Moments around(double centre, double sum, double squares, double n) {
    if (n == 0) return {0, 0};
    const double shift = sum / n, m2 = squares - sum * shift;
    return {centre + shift, m2 < 0 ? 0 : m2};
  }

  /// The same in double, one number after the other.
  template <class Visit> static Moments carefully(double n, const Visit& visit) {
    if (n == 0) return {0, 0};
    double sum = 0;
    visit([&](double x) { sum += x; });
    return {sum / n, careful_squares(sum / n, visit)};
  }

  /// From `sums` around `near`.  Where `near` is so far from the mean that digits may be lost, from the sums that
  /// again(nearer) returns; where squares were lost, by carefully().
  template <class T, class Again, class Visit>
  static Moments around_or_again(T near, const std::array<double, 2>& sums, double n, double eps, const Again& again,
                                 const Visit& visit) {
    if (squares_lost<T>(sums[1], n, eps, static_cast<double>(near), visit)) [[unlikely]]
      return carefully(n, visit);
    const Moments moments = around(static_cast<double>(near), sums[0], sums[1], n);
    if (!(sums[1] > 4 * moments.m2)) [[likely]]
      return moments;
    const auto nearer = static_cast<T>(moments.mean);
    const std::array<double, 2> closer = again(nearer);
    return around(static_cast<double>(nearer), closer[0], closer[1], n);
  }
};

/// 1/√(m2/n + eps).  Without numbers the variance counts as 0, so that nothing computed from the result becomes NaN.
inline double rstd_of(double m2, double n, double eps) { return 1 / std::sqrt((n == 0 ? 0 : m2 / n) + eps); }

}  // namespace fastopt
