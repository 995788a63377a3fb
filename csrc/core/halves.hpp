/// Numbers of 16 bits in memory, one vector at a time: load() makes float32 of them, store() rounds to the nearest.
/// (NaN stays NaN; which bits it has is not promised.)
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/formats.hpp"
#include "core/storage.hpp"

namespace fastopt {

struct float16 {
  std::uint16_t bits;
};
struct bfloat16 {
  std::uint16_t bits;
};

template <class S> inline constexpr bool is_16bit = std::is_same_v<S, float16> || std::is_same_v<S, bfloat16>;

/// What numbers that are stored as S are computed with.
template <class S> using Computed = std::conditional_t<is_16bit<S>, float, S>;

namespace detail {

template <std::size_t N> struct Words {
  typedef std::uint32_t type __attribute__((vector_size(4 * N)));
};
template <std::size_t N> struct Shorts {
  typedef std::uint16_t type __attribute__((vector_size(2 * N)));
};

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

template <class V> inline V decoded(const bfloat16* from) {
  return reinterpret_cast<V>(widened_halves<width<V>>(from) << 16);
}
template <class V> inline typename Shorts<width<V>>::type encoded(V x, bfloat16) {
  const auto bits = reinterpret_cast<typename Words<width<V>>::type>(x);
  const auto rounded = x == x ? bits + 0x7fff + (bits >> 16 & 1) : bits;  // so that no NaN overflows
  return narrowed_words<width<V>>(rounded >> 16);
}

template <class V> inline V decoded(const float16* from) {
#if defined(__AVX512F__)
  if constexpr (width<V> == 16) return _mm512_maskz_cvtph_ps(0xffff, load<__m256i>(from));
#endif
#if defined(__F16C__)
  if constexpr (width<V> == 8) return _mm256_cvtph_ps(load<__m128i>(from));
  if constexpr (width<V> == 4) return _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#else
  return Float16::from_word(widened_halves<width<V>>(from) << 16);
#endif
}
template <class V> inline typename Shorts<width<V>>::type encoded(V x, float16) {
#if defined(__F16C__)
  using Encoded = typename Shorts<width<V>>::type;
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
#if defined(__AVX512F__)
  if constexpr (width<V> == 16) return reinterpret_cast<Encoded>(_mm512_maskz_cvtps_ph(0xffff, x, kNearest));
#endif
  if constexpr (width<V> == 8) return reinterpret_cast<Encoded>(_mm256_cvtps_ph(x, kNearest));
  if constexpr (width<V> == 4)
    return load<Encoded>(std::bit_cast<std::array<std::uint16_t, 8>>(_mm_cvtps_ph(x, kNearest)).data());
#else
  return narrowed_words<width<V>>(Float16::to_word(x, 0, Nearest{Random{}}) >> 16);
#endif
}

}  // namespace detail

template <class V, class S>
  requires is_16bit<S>
inline V load(const S* from) {
  if constexpr (is_number<V>) {
    const S few[] = {*from, {}, {}, {}};
    return detail::decoded<ShortVector<float>>(few)[0];
  } else {
    return detail::decoded<V>(from);
  }
}

template <class V, class S>
  requires is_16bit<S>
inline void store(S* to, V value) {
  if constexpr (is_number<V>)
    to->bits = detail::encoded(ShortVector<float>{value}, S{})[0];
  else
    store(&to->bits, detail::encoded(value, S{}));
}

template <class V, class S>
  requires is_16bit<S>
inline void stream(S* to, V value) {
  if constexpr (is_number<V>)
    store(to, value);
  else
    stream(&to->bits, detail::encoded(value, S{}));
}

/// A number as it is once it has been stored.
template <class S, class V> inline V as_stored(V value) {
  if constexpr (is_16bit<S>) {
    S room[width<V>];
    store(room, value);
    return load<V>(room);
  } else {
    return value;
  }
}

}  // namespace fastopt
