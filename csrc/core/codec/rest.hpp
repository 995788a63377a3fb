/// The residual of a weight: it is stored beside the weight's 16 bits, so that small updates are not lost.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/codec/half.hpp"
#include "core/codec/rounding.hpp"
#include "core/codec/stored.hpp"
#include "core/simd.hpp"

namespace fastopt {

/// A weight and the rounding error of its 16 bits.  Kahan 1965.
template <class Code> struct Compensated {
  [[gnu::always_inline]] static void decode(const StoredArray& stored, std::size_t at, std::size_t n, float* to) {
    const auto* from = static_cast<const std::uint16_t*>(stored.numbers) + at;
    const auto* more = static_cast<const std::uint16_t*>(stored.more) + at;
    for (std::size_t i = 0; i < n; i += kPair) {
      const Pair x = Code::decode(load<Halves>(from + i)), lost = Code::decode(load<Halves>(more + i));
      store_pair(to + i, {x[0] + lost[0], x[1] + lost[1]});
    }
  }

  template <class How>
  [[gnu::always_inline]] static void encode(const StoredArray& stored, std::size_t at, std::size_t n, const float* from,
                                            How) {
    auto* to = static_cast<std::uint16_t*>(stored.numbers) + at;
    auto* more = static_cast<std::uint16_t*>(stored.more) + at;
    const Nearest nearest{{}};
    for (std::size_t i = 0; i < n; i += kPair) {
      const Pair x = load_pair(from + i);
      const Halves halves = Code::encode(x, 0, nearest);
      const Pair near = Code::decode(halves);
      const auto lost = [&](std::size_t k) {
        const auto finite = (bits_of(near[k]) & 0x7fffffff) < kInfinityBits;
        return float_of(finite ? bits_of(x[k] - near[k]) : Word{});
      };
      store(to + i, halves);
      store(more + i, Code::encode({lost(0), lost(1)}, 0, nearest));
    }
  }
};

/// A bfloat16 and the next 8 bits of its weight.
struct Corrected {
  [[gnu::always_inline]] static void decode(const StoredArray& stored, std::size_t at, std::size_t n, float* to) {
    const auto* from = static_cast<const std::uint16_t*>(stored.numbers) + at;
    const auto* more = static_cast<const std::uint8_t*>(stored.more) + at;
    for (std::size_t i = 0; i < n; i += kPair) {
      const Halves halves = load<Halves>(from + i);
      const Halves next = (halves & 0x7fff) == 0x7f80 ? Halves{} : load_bytes(more + i) << 8;  // infinity stays
      const auto whole = [](Word weight, Word correction) {
        return weight + reinterpret_cast<Word>(reinterpret_cast<SignedWord>(correction) >> 16);
      };
      store(to + i, whole(spread<0>(halves), spread<0>(next)));
      store(to + i + kWidth, whole(spread<kWidth>(halves), spread<kWidth>(next)));
    }
  }

  template <class How>
  [[gnu::always_inline]] static void encode(const StoredArray& stored, std::size_t at, std::size_t n, const float* from,
                                            How how) {
    auto* to = static_cast<std::uint16_t*>(stored.numbers) + at;
    auto* more = static_cast<std::uint8_t*>(stored.more) + at;
    const auto rounded = [&](std::size_t i) {
      const Floats x = load<Floats>(from + i);
      return x == x ? bits_of(x) + how.template of<8>(bits_of(x), i) : Word{} + 0x7fc00000;
    };
    for (std::size_t i = 0; i < n; i += kPair) {
      const Word first = rounded(i), second = rounded(i + kWidth);
      store(to + i, upper(first + 0x8000, second + 0x8000));
      store_bytes(more + i, upper(first << 8, second << 8) & 0xff);
    }
  }
};

}  // namespace fastopt
