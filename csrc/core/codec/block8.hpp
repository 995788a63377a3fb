/// Numbers of 8 bits: 64 elements share an exponent b.
///
///   moment8   a sign and a code c of 7 bits, 4 for the exponent and 3 for the mantissa: float32 with the bits
///             b·2²³ + c·2²⁰; 0 where c = 0
///   square8   a code c of 8 bits, 5 and 3: float32 with the bits b·2²³ + c·2²⁰.  Zero exists only where b = 0, so
///             that nothing is ever divided by a square that has vanished.
///
/// b is as small as the largest number of the block allows.  Numbers that are not finite become the largest finite one.
/// Decoding turns the bytes of the codes and b·2⁷ into the upper halves of float32; encoding goes back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/codec/half.hpp"
#include "core/codec/rounding.hpp"
#include "core/codec/stored.hpp"
#include "core/simd.hpp"

namespace fastopt {

inline constexpr std::uint32_t kLargestBits = 0x7f7fffff;  ///< the bits of the largest float32
static_assert(kScaleBlock % kPair == 0);

/// A sign, 4 bits of exponent, 3 of mantissa.
struct Moment8 {
  static constexpr std::uint32_t kBelow = 15;  // exponents below that of the largest number
  static constexpr std::uint16_t kMost = 127;  // the largest code
  static constexpr std::uint16_t kMagnitude = 0x7fff;

  static Halves decode(const std::uint8_t* codes, std::uint16_t exponent) {
    const Halves x = load_bytes<true>(codes) << 4;  // and the sign in all bits above
    return (x & 0x7f0) != 0 ? (x & 0x87f0) + exponent : Halves{};
  }
  static Halves signed_code(Halves code, Halves bits) { return code | (bits >> 8 & 0x80); }
};

/// 5 bits of exponent, 3 of mantissa.
struct Square8 {
  static constexpr std::uint32_t kBelow = 31;
  static constexpr std::uint16_t kMost = 255;
  static constexpr std::uint16_t kMagnitude = 0xffff;

  static Halves decode(const std::uint8_t* codes, std::uint16_t exponent) {
    return (load_bytes(codes) << 4) + exponent;
  }
  static Halves signed_code(Halves code, Halves) { return code; }
};

template <class Code>
[[gnu::always_inline]] inline void decode_block(const std::uint8_t* codes, std::uint8_t scale, float* to) {
  const auto exponent = static_cast<std::uint16_t>(scale << 7);
  for (std::size_t i = 0; i < kScaleBlock; i += kPair) {
    const Halves x = Code::decode(codes + i, exponent);
    store(to + i, spread<0>(x));
    store(to + i + kWidth, spread<kWidth>(x));
  }
}

template <class Code> inline std::uint32_t largest_magnitude(const float* from) {
  Halves most{};
  for (std::size_t i = 0; i < kScaleBlock; i += kPair)
    most = larger(most, upper(load<Word>(from + i), load<Word>(from + i + kWidth)) & Code::kMagnitude);
  return largest_of(most);
}

/// Replaces infinities by the largest finite number of their sign, and NaN by the positive one.  Returns the upper half
/// of the largest magnitude among the other numbers.
[[gnu::noinline, gnu::cold]] inline std::uint32_t make_finite(const float* from, float* to) {
  std::uint32_t most = 0;
  for (std::size_t i = 0; i < kScaleBlock; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, from + i, sizeof bits);
    const std::uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude < kInfinityBits) most = std::max(most, magnitude);
    bits = magnitude > kInfinityBits ? kLargestBits : (bits & 0x80000000) | std::min(magnitude, kLargestBits);
    std::memcpy(to + i, &bits, sizeof bits);
  }
  return most >> 16;
}

template <class Code, class How>
[[gnu::always_inline]] inline void encode_block(const float* from, std::size_t at, std::uint8_t* codes,
                                                std::uint8_t* scale, How how) {
  constexpr std::uint32_t kHalves = 0x7f40;  // up to here no number rounds to a code beyond the last one
  std::uint32_t most = largest_magnitude<Code>(from);
  alignas(64) float finite[kScaleBlock];
  const bool special = most > kHalves;
  if (special) {
    most = std::min(make_finite(from, finite), kHalves);
    from = finite;
  }
  const std::uint32_t top = (most + 0x20) >> 7, b = top - std::min(top, Code::kBelow);
  const auto exponent = static_cast<std::uint16_t>(b << 7);
  *scale = static_cast<std::uint8_t>(b);
  for (std::size_t i = 0; i < kScaleBlock; i += kPair) {
    const Word first = load<Word>(from + i), second = load<Word>(from + i + kWidth);
    const Halves rounded =
        upper(first + how.template of<20>(first, at + i), second + how.template of<20>(second, at + i + kWidth));
    Halves magnitude = rounded & Code::kMagnitude;
    if (special) magnitude &= 0x7fff;
    Halves code = minus_or_0(magnitude, Halves{} + exponent) >> 4;
    if (special) code = smaller(code, Halves{} + Code::kMost);
    store_bytes(codes + i, Code::signed_code(code, rounded));
  }
}

}  // namespace fastopt
