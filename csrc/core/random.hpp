/// Counter-based random numbers: a function of a key and a position, the same on every thread and instruction set.
///
/// Philox4x32 with 7 rounds, the fewest that pass all of BigCrush: Salmon, Moraes, Dror & Shaw 2011, "Parallel random
/// numbers: as easy as 1, 2, 3".  Word w of counter 16·k + j is word number 64·k + 16·w + j of the stream.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/simd.hpp"

namespace fastopt {

/// The key of a stream of numbers.
struct Stream {
  std::uint64_t seed;
  std::uint32_t step;    ///< the step at which it is drawn
  std::uint32_t member;  ///< the array for which it is drawn
};

inline constexpr std::size_t kRandomWords = 64;     ///< words that are drawn at once
inline constexpr std::size_t kRandomNormals = 128;  ///< normal deviates that are drawn at once

namespace detail {

inline constexpr std::size_t kCounters = kRandomWords / 4;
inline constexpr std::size_t kRounds = 7;

/// −2 ln x for normal numbers x in (0, 1]: x = 2ᵉ·m with m in [√½, √2), and a polynomial in m − 1, good to 2e-5.
inline Vector<float> minus_twice_logarithm(Vector<float> x) {
  using V = Vector<float>;
  const Integer bits = reinterpret_cast<Integer>(x), e = (bits - 0x3f3504f3) >> 23;
  const V f = reinterpret_cast<V>(bits - (e << 23)) - 1.0f;
  const V p = ((((-0.35026127f * f + 0.54699758f) * f - 0.6746903f) * f + 0.99846715f) * f - 1.99983776f) * f;
  return p - 1.38629436f * __builtin_convertvector(e, V);
}

/// Independent pairs from N(0, 1), out of one word each.  Box & Muller 1958: the radius √(−2 ln u) from the upper 16
/// bits, so that none is beyond 4.86; the angle from the lower ones: two choose the quarter of the circle, and
/// polynomials good to 1e-5 give sine and cosine within ±45°.
inline void normals(Word words, Vector<float>& first, Vector<float>& second) {
  using V = Vector<float>;
  const Integer bits = reinterpret_cast<Integer>(words);
  const V u = (__builtin_convertvector(reinterpret_cast<Integer>(words >> 16), V) + 0.5f) * 0x1p-16f;
  const V radius = square_root(minus_twice_logarithm(u));
  const V t = (__builtin_convertvector(bits & 0x3fff, V) - 8191.5f) * 0x1p-13f, z = t * t;
  const V sine = ((0.00242711f * z - 0.080714f) * z + 0.78539423f) * t;
  const V cosine = (0.01537182f * z - 0.3082451f) * z + 0.99999003f;
  const Integer swapped = (bits & 0x4000) != 0, mirrored = (bits & 0x8000) != 0;
  const V signed_radius = mirrored ? -radius : radius;
  first = signed_radius * (swapped ? -sine : cosine);
  second = signed_radius * (swapped ? cosine : sine);
}

}  // namespace detail

/// Words [64·block, 64·block + 64) of the stream, in order.
///
/// Even and odd counters lie in separate vectors, so that each word is the lower half of 64 bits, where multiplications
/// need it.  The upper half does not matter until the end.
inline std::array<Word, kRandomWords * 4 / kVectorBytes> random_words(const Stream& stream, std::uint64_t block) {
  constexpr std::size_t kWidth = kVectorBytes / 4, kVectors = detail::kCounters / kWidth;
  constexpr std::uint64_t kLow = 0xffffffff;
  const auto times = [](Wide a, std::uint64_t factor) { return multiply_low_halves(a, Wide{} + factor); };
  std::array<Word, 4 * kVectors> words;
  for (std::size_t k = 0; k < kVectors; ++k) {
    const std::uint64_t first = block * detail::kCounters + k * kWidth;  // the whole vector shares its upper half
    Wide c0[2], c1[2], c2[2], c3[2];
    for (std::size_t odd = 0; odd < 2; ++odd) {
      Wide counters{};
      for (std::size_t j = 0; j < kWidth / 2; ++j) counters[j] = first + 2 * j + odd;
      c0[odd] = counters, c1[odd] = Wide{} + (first >> 32), c2[odd] = Wide{} + stream.step,
      c3[odd] = Wide{} + stream.member;
    }
    auto key0 = static_cast<std::uint32_t>(stream.seed), key1 = static_cast<std::uint32_t>(stream.seed >> 32);
    for (std::size_t round = 0; round < detail::kRounds; ++round, key0 += 0x9E3779B9, key1 += 0xBB67AE85)
      for (std::size_t odd = 0; odd < 2; ++odd) {
        const Wide product0 = times(c0[odd], 0xD2511F53), product2 = times(c2[odd], 0xCD9E8D57);
        c0[odd] = (product2 >> 32) ^ c1[odd] ^ key0;
        c1[odd] = product2;
        c2[odd] = (product0 >> 32) ^ c3[odd] ^ key1;
        c3[odd] = product0;
      }
    const auto joined = [](const Wide(&c)[2]) { return reinterpret_cast<Word>((c[0] & kLow) | (c[1] << 32)); };
    words[k] = joined(c0), words[kVectors + k] = joined(c1);
    words[2 * kVectors + k] = joined(c2), words[3 * kVectors + k] = joined(c3);
  }
  return words;
}

/// Draws numbers [128·block, 128·block + 128) from N(0, 1).  Word 64·block + 16·w + j gives the numbers at 32·w + j and
/// 32·w + 16 + j.
inline void random_normals(const Stream& stream, std::uint64_t block, float* to) {
  constexpr std::size_t kWidth = kVectorBytes / 4, kVectors = detail::kCounters / kWidth;
  const auto words = random_words(stream, block);
  for (std::size_t w = 0; w < 4; ++w)
    for (std::size_t k = 0; k < kVectors; ++k) {
      Vector<float> first, second;
      detail::normals(words[w * kVectors + k], first, second);
      store(to + 32 * w + k * kWidth, first);
      store(to + 32 * w + 16 + k * kWidth, second);
    }
}

}  // namespace fastopt
