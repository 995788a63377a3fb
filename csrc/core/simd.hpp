/// Native vectors: loading, storing, prefetching, and the few operations that plain C++ cannot say.
///
/// Kernels are written once, over a type V: a native vector of the instruction set that this file is compiled for, or a
/// single number.  So the same formula serves the body of an array and its tail.  This is the only file with intrinsics
/// and vector types; each intrinsic has a portable fallback beside it.
#pragma once

#if defined(FASTOPT_BINDINGS)
#error "the bindings are compiled once, for every processor: they know no vectors"
#endif

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

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

/// Whether this is the instruction set for processors from before 2013.  It has no copies of loops for special cases.
#if defined(__x86_64__) && !defined(__AVX__)
inline constexpr bool kBaseline = true;
#else
inline constexpr bool kBaseline = false;
#endif

/// A native vector of numbers of type T, and one of the 16 bytes that every instruction set has, for the tails of
/// arrays.
template <class T> using Vector = typename VectorOf<T, kVectorBytes>::type;
template <class T> using ShortVector = typename VectorOf<T, 16>::type;

/// Native vectors of 32-bit words, signed and unsigned, of 64-bit words, and of 16-bit halves.
typedef std::uint32_t Word __attribute__((vector_size(kVectorBytes)));
typedef std::int32_t Integer __attribute__((vector_size(kVectorBytes)));
typedef std::uint64_t Wide __attribute__((vector_size(kVectorBytes)));
typedef std::uint16_t Halves __attribute__((vector_size(kVectorBytes)));
using Floats = Vector<float>;
using SignedWord = decltype(Floats{} < Floats{});  ///< what a comparison of floats gives

/// Vectors of N words, halves or doubles.
template <std::size_t N> struct Words {
  typedef std::uint32_t type __attribute__((vector_size(4 * N)));
};
template <std::size_t N> struct Shorts {
  typedef std::uint16_t type __attribute__((vector_size(2 * N)));
};
template <std::size_t N> struct Doubles {
  typedef double type __attribute__((vector_size(8 * N)));
};

/// How many numbers V holds: 1 for a number itself.
template <class V> inline constexpr std::size_t width = sizeof(V) / sizeof(typename Element<V>::type);

template <class V> inline constexpr bool is_number = std::is_arithmetic_v<V>;

/// As many unsigned integers as V has numbers, of their size.
template <class V> struct BitsOf {
  using T = typename Element<V>::type;
  typedef std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t> type __attribute__((vector_size(sizeof(V))));
};
template <> struct BitsOf<float> {
  using type = std::uint32_t;
};
template <> struct BitsOf<double> {
  using type = std::uint64_t;
};
/// Calls body(0), …, body(N − 1) with constants.
template <std::size_t N, class Body> [[gnu::always_inline]] inline void unroll(Body&& body) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (body(std::integral_constant<std::size_t, I>{}), ...);
  }(std::make_index_sequence<N>{});
}

/// V from memory; no alignment is needed.
template <class V, class T> inline V load(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class V, class T> inline void store(T* to, V value) { std::memcpy(to, &value, sizeof value); }

/// A native vector of doubles from as many numbers of T.
template <class T> inline Vector<double> widened(const T* from) {
#if defined(__AVX512F__)  // GCC would convert it in halves
  if constexpr (sizeof(T) == 4) return _mm512_maskz_cvtps_pd(0xff, load<__m256>(from));
#elif defined(__AVX__)
  if constexpr (sizeof(T) == 4) return _mm256_cvtps_pd(load<__m128>(from));
#endif
  return __builtin_convertvector(load<typename VectorOf<T, width<Vector<double>> * sizeof(T)>::type>(from),
                                 Vector<double>);
}

/// Stores past the caches: for results that would be evicted before anybody reads them.  `to` must be aligned to 16
/// bytes.  A cache line that is written in consecutive pieces goes to memory as a whole.
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
/// end does no harm: only its address is computed, never a pointer to it.
template <bool Write = false, class T> inline void prefetch(const T* array, std::size_t at) {
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(array) + at * sizeof(T);
  __builtin_prefetch(reinterpret_cast<const void*>(address), Write ? 1 : 0, 3);
}

/// Brings the beginning of a row closer; the processor follows from there by itself.
template <class T> inline void prefetch_row(const T* row, std::size_t n) {
  constexpr std::size_t kLine = 64 / sizeof(T), kMost = 32 * kLine;
  for (std::size_t i = 0; i < n && i < kMost; i += kLine) prefetch(row, i);
}

// The correctly rounded root of every element, by intrinsics: compilers do not turn a loop of std::sqrt into the vector
// instruction.
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

/// The larger of two; NaN if one of them is NaN, as in numpy.maximum.
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

/// -1, 0 or 1; NaN for NaN, as in numpy.sign.
template <class V> inline V sign(V x) {
  const V zero = {}, one = zero + 1;
  return x > zero ? one : (x < zero ? -one : (x == x ? zero : x));
}

// Integers

inline constexpr std::size_t kWidth = kVectorBytes / 4;  ///< words in a vector
inline constexpr std::size_t kPair = 2 * kWidth;         ///< words whose halves are one vector

/// The 64-bit products of the lower halves.
inline Wide multiply_low_halves(Wide a, Wide b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Wide>(
      _mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Wide>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<Wide>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return (a & 0xffffffff) * (b & 0xffffffff);
#endif
}

inline Word bits_of(Floats x) { return reinterpret_cast<Word>(x); }
inline Floats float_of(Word bits) { return reinterpret_cast<Floats>(bits); }
template <class V> inline V smaller(V a, V b) { return a < b ? a : b; }
template <class V> inline V larger(V a, V b) { return a > b ? a : b; }

// Most of the work is done on the upper halves of words, because a vector holds twice as many of them.  Conversions are
// written as shuffles, because the compilers split conversions of vectors.

/// The halves of two vectors of words: the upper ones, or the lower.
template <std::size_t Which> inline Halves halves_of(Word a, Word b) {
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return __builtin_shufflevector(reinterpret_cast<Halves>(a), reinterpret_cast<Halves>(b), (2 * I + Which)...);
  }(std::make_index_sequence<kPair>{});
}
inline Halves upper(Word a, Word b) { return halves_of<1>(a, b); }
inline Halves lower(Word a, Word b) { return halves_of<0>(a, b); }

/// Words whose upper halves are those of x from number From on, and whose lower halves are zero.
template <std::size_t From> inline Word spread(Halves x) {
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return reinterpret_cast<Word>(__builtin_shufflevector(Halves{}, x, (I % 2 != 0 ? kPair + From + I / 2 : 0)...));
  }(std::make_index_sequence<kPair>{});
}

/// Loads bytes as halves, with their sign if Signed, and stores halves as bytes.
template <bool Signed = false> inline Halves load_bytes(const std::uint8_t* from) {
#if defined(__AVX512BW__)
  const auto bytes = load<__m256i>(from);
  return reinterpret_cast<Halves>(Signed ? _mm512_maskz_cvtepi8_epi16(~0u, bytes)
                                         : _mm512_maskz_cvtepu8_epi16(~0u, bytes));
#elif defined(__AVX2__)
  const auto bytes = load<__m128i>(from);
  return reinterpret_cast<Halves>(Signed ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes));
#elif defined(__SSE4_1__)
  const auto bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return reinterpret_cast<Halves>(Signed ? _mm_cvtepi8_epi16(bytes) : _mm_cvtepu8_epi16(bytes));
#else
  Halves x;
  for (std::size_t i = 0; i < kPair; ++i)
    x[i] = static_cast<std::uint16_t>(Signed ? static_cast<std::int8_t>(from[i]) : from[i]);
  return x;
#endif
}

inline void store_bytes(std::uint8_t* to, Halves x) {
#if defined(__AVX512BW__)
  store(to, _mm512_maskz_cvtepi16_epi8(~0u, reinterpret_cast<__m512i>(x)));
#elif defined(__AVX2__)
  const auto y = reinterpret_cast<__m256i>(x);
  store(to, _mm_packus_epi16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1)));
#elif defined(__SSE4_1__)
  const auto y = reinterpret_cast<__m128i>(x);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(y, y));
#else
  for (std::size_t i = 0; i < kPair; ++i) to[i] = static_cast<std::uint8_t>(x[i]);
#endif
}

/// a − b, or 0 where that is negative.
inline Halves minus_or_0(Halves a, Halves b) {
#if defined(__AVX512BW__)
  return reinterpret_cast<Halves>(_mm512_subs_epu16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Halves>(_mm256_subs_epu16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<Halves>(_mm_subs_epu16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return (a > b ? a : b) - b;
#endif
}

inline std::uint32_t largest_of(Halves x) {
#if defined(__SSE4_1__)
#if defined(__AVX512BW__)
  __m256i part[2];
  std::memcpy(part, &x, sizeof x);
  const __m256i y = _mm256_max_epu16(part[0], part[1]);
  const __m128i z = _mm_max_epu16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
#elif defined(__AVX2__)
  const auto y = reinterpret_cast<__m256i>(x);
  const __m128i z = _mm_max_epu16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
#else
  const auto z = reinterpret_cast<__m128i>(x);
#endif
  return static_cast<std::uint16_t>(~_mm_cvtsi128_si32(_mm_minpos_epu16(~z)));
#else
  std::uint32_t most = 0;
  for (std::size_t i = 0; i < kPair; ++i) most = std::max<std::uint32_t>(most, x[i]);
  return most;
#endif
}

/// Whether the condition holds for all elements of a vector.
inline bool all_of(Integer condition) {
#if defined(__AVX512DQ__)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(condition)) == 0xffff;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8(reinterpret_cast<__m256i>(condition)) == -1;
#elif defined(__SSE2__)
  return _mm_movemask_epi8(reinterpret_cast<__m128i>(condition)) == 0xffff;
#else
  bool all = true;
  for (std::size_t k = 0; k < kWidth; ++k) all = all && condition[k] != 0;
  return all;
#endif
}

/// N numbers of 16 bits as words, and the lower halves of words.
template <std::size_t N> inline typename Words<N>::type widened_halves(const void* from) {
  const auto x = load<typename Shorts<N>::type>(static_cast<const std::uint16_t*>(from));
#if defined(__AVX512F__)
  if constexpr (N == 16)
    return reinterpret_cast<typename Words<N>::type>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(x)));
#endif
#if defined(__AVX2__)
  if constexpr (N == 8)
    return reinterpret_cast<typename Words<N>::type>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(x)));
#endif
#if defined(__SSE4_1__)
  if constexpr (N == 4)
    return reinterpret_cast<typename Words<N>::type>(
        _mm_cvtepu16_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(from))));
#endif
  return __builtin_convertvector(x, typename Words<N>::type);
}
template <std::size_t N> inline typename Shorts<N>::type narrowed_words(typename Words<N>::type words) {
#if defined(__AVX512F__)
  if constexpr (N == 16)
    return reinterpret_cast<typename Shorts<N>::type>(
        _mm512_maskz_cvtepi32_epi16(0xffff, reinterpret_cast<__m512i>(words)));
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) {
    const auto x = reinterpret_cast<__m256i>(words);
    return reinterpret_cast<typename Shorts<N>::type>(
        _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
  }
#endif
#if defined(__SSE4_1__)
  if constexpr (N == 4) {
    const auto x = reinterpret_cast<__m128i>(words);
    return load<typename Shorts<N>::type>(std::bit_cast<std::array<std::uint16_t, 8>>(_mm_packus_epi32(x, x)).data());
  }
#endif
  return __builtin_convertvector(words, typename Shorts<N>::type);
}

// float16: all but the oldest processors have instructions for it

#if defined(__F16C__)
inline constexpr bool kHasFloat16 = true;
inline constexpr int kFloat16Rounding = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// V of float32 from as many float16 numbers, and back, rounded to the nearest.
template <class V> inline V float16_to_float(const void* from) {
#if defined(__AVX512F__)
  if constexpr (width<V> == 16) return _mm512_maskz_cvtph_ps(0xffff, load<__m256i>(static_cast<const char*>(from)));
#endif
  if constexpr (width<V> == 8) return _mm256_cvtph_ps(load<__m128i>(static_cast<const char*>(from)));
  if constexpr (width<V> == 4) return _mm_cvtph_ps(_mm_loadl_epi64(static_cast<const __m128i*>(from)));
}
template <class V> inline typename Shorts<width<V>>::type float_to_float16(V x) {
  using Encoded = typename Shorts<width<V>>::type;
#if defined(__AVX512F__)
  if constexpr (width<V> == 16) return reinterpret_cast<Encoded>(_mm512_maskz_cvtps_ph(0xffff, x, kFloat16Rounding));
#endif
  if constexpr (width<V> == 8) return reinterpret_cast<Encoded>(_mm256_cvtps_ph(x, kFloat16Rounding));
  if constexpr (width<V> == 4)
    return load<Encoded>(std::bit_cast<std::array<std::uint16_t, 8>>(_mm_cvtps_ph(x, kFloat16Rounding)).data());
}
#else
inline constexpr bool kHasFloat16 = false;
template <class V> inline V float16_to_float(const void*);  // never called
template <class V> inline typename Shorts<width<V>>::type float_to_float16(V);
#endif

}  // namespace fastopt
