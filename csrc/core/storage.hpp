/// How numbers are kept in memory, and how they get into registers and back.
///
/// Kernels are written once, over a type V that is either a native vector of the instruction set that this file is
/// compiled for or a single number: the same formula serves the body of an array and its tail.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastopt {

#if defined(__AVX512F__)
inline constexpr std::size_t kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr std::size_t kVectorBytes = 32;
#else
inline constexpr std::size_t kVectorBytes = 16;
#endif

namespace detail {
template <class T, std::size_t Bytes> struct VectorOf;
template <std::size_t Bytes> struct VectorOf<float, Bytes> {
  typedef float type __attribute__((vector_size(Bytes)));
};
template <std::size_t Bytes> struct VectorOf<double, Bytes> {
  typedef double type __attribute__((vector_size(Bytes)));
};
template <class V> struct Element {
  using type = std::remove_cvref_t<decltype(std::declval<V>()[0])>;
};
template <> struct Element<float> {
  using type = float;
};
template <> struct Element<double> {
  using type = double;
};
}  // namespace detail

/// A native vector of numbers of type T, and the 16 bytes that every instruction set has, for the tails of arrays.
template <class T> using Vector = typename detail::VectorOf<T, kVectorBytes>::type;
template <class T> using ShortVector = typename detail::VectorOf<T, 16>::type;

/// How many numbers V holds: 1 for a number itself.
template <class V> inline constexpr std::size_t width = sizeof(V) / sizeof(typename detail::Element<V>::type);

template <class V> inline constexpr bool is_number = std::is_arithmetic_v<V>;

/// V from memory; no alignment is needed.
template <class V, class T> inline V load(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class V, class T> inline void store(T* to, V value) { std::memcpy(to, &value, sizeof value); }

/// A native vector of doubles from as many numbers of T.
template <class T> inline Vector<double> widened(const T* from) {
#if defined(__AVX512F__)  // which GCC would convert in halves
  if constexpr (sizeof(T) == 4) return _mm512_maskz_cvtps_pd(0xff, load<__m256>(from));
#elif defined(__AVX__)
  if constexpr (sizeof(T) == 4) return _mm256_cvtps_pd(load<__m128>(from));
#endif
  return __builtin_convertvector(load<typename detail::VectorOf<T, width<Vector<double>> * sizeof(T)>::type>(from),
                                 Vector<double>);
}

/// Stores past the caches: for results that would have been evicted before anybody reads them.  `to` must be aligned to
/// 16 bytes; a line that is written in pieces one after the other leaves in one.
template <class V, class T> inline void stream(T* to, V value) {
#if defined(__SSE2__)
  if constexpr (sizeof(V) % 16 == 0) {
    __m128i pieces[sizeof(V) / 16];
    std::memcpy(pieces, &value, sizeof value);
    for (std::size_t i = 0; i < sizeof(V) / 16; ++i) _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, pieces[i]);
    return;
  }
#endif
  store(to, value);
}

/// Orders what stream() wrote before whatever the thread does next.
inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

/// Brings the cache line of element `at` of an array closer; it is going to be written if Write.  An element past the
/// end does no harm: there is no pointer to it, only its address.
template <bool Write = false, class T> inline void prefetch(const T* array, std::size_t at) {
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(array) + at * sizeof(T);
  __builtin_prefetch(reinterpret_cast<const void*>(address), Write ? 1 : 0, 3);
}

/// Whether prefetching a few streams that are longer than the caches pays.  On Intel's processors it gains up to 30 %
/// (Sapphire Rapids, AdamW); AMD's follow the streams by themselves, and it costs 5 to 20 % (Zen 4).
inline bool prefetching_streams_pays() {
#if defined(__x86_64__)
  static const bool intel = __builtin_cpu_is("intel") != 0;
  return intel;
#else
  return false;
#endif
}

/// Brings the beginning of a row closer; the processor follows from there by itself.
template <class T> inline void prefetch_row(const T* row, std::size_t n) {
  constexpr std::size_t kLine = 64 / sizeof(T), kMost = 32 * kLine;
  for (std::size_t i = 0; i < n && i < kMost; i += kLine) prefetch(row, i);
}

// The correctly rounded root of every element: the compilers do not find the vector instruction behind a loop of
// std::sqrt.
inline float square_root(float x) { return std::sqrt(x); }
inline double square_root(double x) { return std::sqrt(x); }
#if defined(__SSE2__)
inline ShortVector<float> square_root(ShortVector<float> x) { return _mm_sqrt_ps(x); }
inline ShortVector<double> square_root(ShortVector<double> x) { return _mm_sqrt_pd(x); }
#if defined(__AVX512F__)
inline Vector<float> square_root(Vector<float> x) { return _mm512_maskz_sqrt_ps(0xffff, x); }
inline Vector<double> square_root(Vector<double> x) { return _mm512_maskz_sqrt_pd(0xff, x); }
#elif defined(__AVX__)
inline Vector<float> square_root(Vector<float> x) { return _mm256_sqrt_ps(x); }
inline Vector<double> square_root(Vector<double> x) { return _mm256_sqrt_pd(x); }
#endif
#else
template <class V> inline V square_root(V x) {
  for (std::size_t i = 0; i < width<V>; ++i) x[i] = std::sqrt(x[i]);
  return x;
}
#endif

/// The larger of two; NaN if one of them is, as numpy.maximum.
template <class V> inline V maximum(V a, V b) {
  if constexpr (is_number<V>)
    return a >= b || a != a ? a : b;
  else
    return ((a >= b) | (a != a)) ? a : b;
}

/// x without its sign.
template <class V> inline V absolute(V x) {
  if constexpr (is_number<V>) {
    return std::abs(x);
  } else {
    using Bits = decltype(x < x);
    Bits bits;
    std::memcpy(&bits, &x, sizeof x);
    bits &= std::numeric_limits<std::remove_cvref_t<decltype(bits[0])>>::max();
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }
}

/// x, but at least `low` and at most `high`; NaN stays NaN.
template <class V, class T> inline V clamp(V x, T low, T high) {
  const V least = V{} + low, most = V{} + high;
  return x < least ? least : (x > most ? most : x);
}

/// -1, 0 or 1; NaN for NaN, as numpy.sign.
template <class V> inline V sign(V x) {
  const V zero = {}, one = zero + 1;
  return x > zero ? one : (x < zero ? -one : (x == x ? zero : x));
}

}  // namespace fastopt
