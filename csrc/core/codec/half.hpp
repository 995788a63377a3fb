/// Numbers of 16 bits: float16 and bfloat16.
///
/// Kernels that take one vector at a time use load(), store() and stream(), which round to the nearest.  Optimizers take
/// two vectors at a time, with any way of rounding: Float16 and Bfloat16.  Both give the same bits on every instruction
/// set.  NaN stays NaN; which bits it has is not promised.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/codec/rounding.hpp"
#include "core/number.hpp"
#include "core/simd.hpp"

namespace fastopt {

inline constexpr std::uint32_t kInfinityBits = 0x7f800000;  ///< the bits of float32's ∞

/// As many float32 numbers as a vector of halves holds.
using Pair = std::array<Floats, 2>;

/// Load and store two vectors.
inline Pair load_pair(const float* from) { return {load<Floats>(from), load<Floats>(from + kWidth)}; }
inline void store_pair(float* to, const Pair& x) {
  store(to, x[0]);
  store(to + kWidth, x[1]);
}

/// bfloat16: the upper half of a float32.
struct Bfloat16 {
  static Pair decode(Halves x) { return {float_of(spread<0>(x)), float_of(spread<kWidth>(x))}; }

  template <class How> static Halves encode(const Pair& x, std::size_t i, How how) {
    if constexpr (std::is_same_v<How, Nearest>) {
      const Word first = bits_of(x[0]), second = bits_of(x[1]);
      const Halves high = upper(first, second), low = lower(first, second);
      const auto up = low > 0x8000 - (high & 1) && (high & 0x7fff) <= 0x7f80;  // except NaN
      return up ? high + 1 : high;
    }
    return upper(rounded(x[0], i, how), rounded(x[1], i + kWidth, how));
  }

 private:
  template <class How> static Word rounded(Floats x, std::size_t i, How how) {
    const Word bits = bits_of(x);
    return x == x ? bits + how.template of<16>(bits, i) : bits;  // so that no NaN overflows
  }
};

/// float16: IEEE 754's binary16.
struct Float16 {
  static constexpr std::uint32_t kSmallest = 113u << 23;  // normal number
  static constexpr std::uint32_t kOver = 143u << 23;      // 2¹⁶

  static Pair decode(Halves x) {
    if constexpr (kHasFloat16) {
      typename Shorts<kWidth>::type half[2];
      std::memcpy(half, &x, sizeof x);
      return {float16_to_float<Floats>(&half[0]), float16_to_float<Floats>(&half[1])};
    } else {
      return {from_word(spread<0>(x)), from_word(spread<kWidth>(x))};
    }
  }

  template <class How> static Halves encode(const Pair& x, std::size_t i, How how) {
    if constexpr (kHasFloat16 && std::is_same_v<How, Nearest>) {
      const typename Shorts<kWidth>::type half[] = {float_to_float16(x[0]), float_to_float16(x[1])};
      Halves halves;
      std::memcpy(&halves, half, sizeof halves);
      return halves;
    }
    return upper(to_word(x[0], i, how), to_word(x[1], i + kWidth, how));
  }

  /// Decodes the number whose bits are the upper half of a word, by arithmetic alone.
  static Floats from_word(Word word) {
    const Word magnitude = (word & 0x7fff0000) >> 3, normal = magnitude + (112u << 23);
    const Floats subnormal = float_of(magnitude + kSmallest) - float_of(Word{} + kSmallest);
    const Word special = normal + (112u << 23);
    const Word bits = magnitude < (1u << 23) ? bits_of(subnormal) : (magnitude >= (0x7c00u << 13) ? special : normal);
    return float_of(bits | (word & 0x80000000));
  }

  /// Encodes a number; its bits are in the lower half of the word.
  template <class How> static Word to_word(Floats x, std::size_t i, How how) {
    const Word bits = bits_of(x), magnitude = bits & 0x7fffffff, sign = bits & 0x80000000;
    const Word normal = (magnitude - (112u << 23) + how.template of<13>(magnitude, i)) >> 13;
    if (all_of(reinterpret_cast<Integer>(magnitude - kSmallest < kOver - kSmallest))) return normal << 16 | sign;
    Word subnormal;
    if constexpr (std::is_same_v<How, Nearest>) {  // a unit in the last place of ½ is the smallest float16
      subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(Floats{} + 0.5f);
    } else {
      const Floats units = float_of(smaller(magnitude, Word{} + kSmallest)) * 0x1p37f;
      const Word whole = reinterpret_cast<Word>(__builtin_convertvector(units, Integer));
      subnormal = (whole + how.template of<13>(whole, i)) >> 13;
    }
    const Word special = magnitude > kInfinityBits ? Word{} + 0x7e00 : Word{} + 0x7c00;
    const Word code = magnitude < kSmallest ? subnormal : (magnitude < kOver ? normal : special);
    return code << 16 | sign;
  }
};

namespace detail {

template <class V> inline V decoded(const bfloat16* from) {
  return reinterpret_cast<V>(widened_halves<width<V>>(from) << 16);
}
template <class V> inline typename Shorts<width<V>>::type encoded(V x, bfloat16) {
  const auto bits = reinterpret_cast<typename Words<width<V>>::type>(x);
  const auto rounded = x == x ? bits + 0x7fff + (bits >> 16 & 1) : bits;  // so that no NaN overflows
  return narrowed_words<width<V>>(rounded >> 16);
}

template <class V> inline V decoded(const float16* from) {
  if constexpr (kHasFloat16)
    return float16_to_float<V>(from);
  else
    return Float16::from_word(widened_halves<width<V>>(from) << 16);
}
template <class V> inline typename Shorts<width<V>>::type encoded(V x, float16) {
  if constexpr (kHasFloat16)
    return float_to_float16(x);
  else
    return narrowed_words<width<V>>(Float16::to_word(x, 0, Nearest{Random{}}) >> 16);
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

/// A number as it will be read back once it has been stored.
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
