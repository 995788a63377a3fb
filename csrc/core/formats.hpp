/// Numbers that are kept with fewer bits than they are computed with: float16, bfloat16, and 8 bits in blocks.
///
/// What is computed with is always float32; decode() and encode() carry parts of arrays to it and back.  All of it is
/// arithmetic with the bits of float32, the same on every instruction set.  Subnormal float32 numbers count as 0.
///
/// In 8 bits, 64 elements share an exponent b.
///   moment8   a sign and a code c of 7 bits, 4 for the exponent and 3 for the mantissa: float32 with the bits
///             b·2²³ + c·2²⁰; 0 where c = 0
///   square8   a code c of 8 bits, 5 and 3: float32 with the bits b·2²³ + c·2²⁰.  There is no 0 but where b = 0, so
///             that nothing is ever divided by a square that has vanished.
/// b is as small as the largest number of the block allows.  What is not finite becomes the largest number there is.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/random.hpp"
#include "core/storage.hpp"

namespace fastopt {

/// How an array keeps its numbers; exact: as they are computed with.
enum class Format : std::uint8_t { exact, float16, bfloat16, moment8, square8 };

inline constexpr std::size_t kShare = 64;      ///< elements that share an exponent
inline constexpr std::size_t kSegment = 1024;  ///< elements whose thresholds have a random number in common

/// What there is of a weight beside its 16 bits.
enum class Rest : std::uint8_t {
  none,
  master,        ///< the weight itself as float32, of which the 16 bits are a copy
  compensation,  ///< what is to be added to them, 16 bits too.  Kahan 1965
  correction,    ///< the next 8 bits of a bfloat16, int8: what is to be added to its bits
};

/// An array and how it is kept.
struct Kept {
  Format format = Format::exact;
  void* numbers = nullptr;
  std::uint8_t* scales = nullptr;  ///< b of each block, for 8 bits
  Rest rest = Rest::none;
  void* more = nullptr;  ///< the rest, but for a master
};

/// Which way numbers are rounded: to the nearest, or at random by thresholds.  That of element i of a segment is in the
/// upper or the lower bits of table[i] + offset.
enum class Rounding : std::uint8_t { nearest, high, low };
struct Random {
  const std::uint32_t* table = nullptr;
  std::uint32_t offset = 0;
};

namespace detail {

using Floats = Vector<float>;
using SignedWord = decltype(Floats{} < Floats{});
typedef std::uint16_t Halves __attribute__((vector_size(kVectorBytes)));

inline constexpr std::size_t kWidth = kVectorBytes / 4;
inline constexpr std::size_t kPair = 2 * kWidth;  // elements whose upper halves are one vector
inline constexpr std::uint32_t kInfinity = 0x7f800000, kLargest = 0x7f7fffff;
static_assert(kShare % kPair == 0);

inline Word bits_of(Floats x) { return reinterpret_cast<Word>(x); }
inline Floats float_of(Word bits) { return reinterpret_cast<Floats>(bits); }
template <class V> inline V smaller(V a, V b) { return a < b ? a : b; }
template <class V> inline V larger(V a, V b) { return a > b ? a : b; }

// Most of the work is done on the upper halves of words, on twice as many at once.  Shuffles are written as such,
// because the compilers split conversions of vectors.

/// The halves of two vectors of words: the upper ones, or the lower.
template <std::size_t Which> inline Halves halves_of(Word a, Word b) {
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return __builtin_shufflevector(reinterpret_cast<Halves>(a), reinterpret_cast<Halves>(b), (2 * I + Which)...);
  }(std::make_index_sequence<kPair>{});
}
inline Halves upper(Word a, Word b) { return halves_of<1>(a, b); }
inline Halves lower(Word a, Word b) { return halves_of<0>(a, b); }

/// Words with these upper halves, from number From on, and zeros below.
template <std::size_t From> inline Word spread(Halves x) {
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return reinterpret_cast<Word>(__builtin_shufflevector(Halves{}, x, (I % 2 != 0 ? kPair + From + I / 2 : 0)...));
  }(std::make_index_sequence<kPair>{});
}

/// Bytes as halves, with their sign if Signed, and back.
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

// What is added to the bits of numbers before their last Dropped bits, at most 20, are cut off.

struct Nearest {  // half of what is cut off, and at a tie what leads to the even number
  explicit Nearest(const Random&) {}
  template <std::uint32_t Dropped> Word of(Word bits, std::size_t) const {
    return ((1u << (Dropped - 1)) - 1) + (bits >> Dropped & 1);
  }
};
struct High : Random {
  explicit High(const Random& random) : Random(random) {}
  template <std::uint32_t Dropped> Word of(Word, std::size_t i) const {
    return (load<Word>(table + i) + offset) >> (32 - Dropped);
  }
};
struct Low : Random {  // the lower 20 bits
  explicit Low(const Random& random) : Random(random) {}
  template <std::uint32_t Dropped> Word of(Word, std::size_t i) const {
    const Word low = (load<Word>(table + i) + offset) & 0xfffff;
    return Dropped == 20 ? low : low >> (20 - Dropped);
  }
};

/// Whether something holds for all of a vector.
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

// 16 bits

using Pair = std::array<Floats, 2>;

struct Bfloat16 {
  static Pair decode(Halves x) { return {float_of(spread<0>(x)), float_of(spread<kWidth>(x))}; }

  template <class How> static Halves encode(const Pair& x, std::size_t i, How how) {
    if constexpr (std::is_same_v<How, Nearest>) {
      const Word first = bits_of(x[0]), second = bits_of(x[1]);
      const Halves high = upper(first, second), low = lower(first, second);
      const auto up = low > 0x8000 - (high & 1) && (high & 0x7fff) <= 0x7f80;  // but for NaN
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

struct Float16 {
  static constexpr std::uint32_t kSmallest = 113u << 23;  // normal number
  static constexpr std::uint32_t kOver = 143u << 23;      // 2¹⁶

  static Pair decode(Halves x) {
#if defined(__AVX512F__)
    __m256i half[2];
    std::memcpy(half, &x, sizeof x);
    return {_mm512_maskz_cvtph_ps(0xffff, half[0]), _mm512_maskz_cvtph_ps(0xffff, half[1])};
#elif defined(__F16C__)
    __m128i half[2];
    std::memcpy(half, &x, sizeof x);
    return {_mm256_cvtph_ps(half[0]), _mm256_cvtph_ps(half[1])};
#else
    return {from_word(spread<0>(x)), from_word(spread<kWidth>(x))};
#endif
  }

  template <class How> static Halves encode(const Pair& x, std::size_t i, How how) {
    if constexpr (std::is_same_v<How, Nearest>) {
#if defined(__F16C__)
      constexpr int kHow = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
#if defined(__AVX512F__)
      const __m256i half[] = {_mm512_maskz_cvtps_ph(0xffff, x[0], kHow), _mm512_maskz_cvtps_ph(0xffff, x[1], kHow)};
#else
      const __m128i half[] = {_mm256_cvtps_ph(x[0], kHow), _mm256_cvtps_ph(x[1], kHow)};
#endif
      Halves halves;
      std::memcpy(&halves, half, sizeof halves);
      return halves;
#endif
    }
    return upper(to_word(x[0], i, how), to_word(x[1], i + kWidth, how));
  }

  /// From and to the upper half of a word.
  static Floats from_word(Word word) {
    const Word magnitude = (word & 0x7fff0000) >> 3, normal = magnitude + (112u << 23);
    const Floats subnormal = float_of(magnitude + kSmallest) - float_of(Word{} + kSmallest);
    const Word special = normal + (112u << 23);
    const Word bits = magnitude < (1u << 23) ? bits_of(subnormal) : (magnitude >= (0x7c00u << 13) ? special : normal);
    return float_of(bits | (word & 0x80000000));
  }

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
    const Word special = magnitude > kInfinity ? Word{} + 0x7e00 : Word{} + 0x7c00;
    const Word code = magnitude < kSmallest ? subnormal : (magnitude < kOver ? normal : special);
    return code << 16 | sign;
  }
};

// 8 bits: from bytes and b·2⁷ to upper halves, and back

struct Moment8 {
  static constexpr std::uint32_t kBelow = 15;  // exponents below that of the largest number
  static constexpr std::uint16_t kMost = 127;  // code
  static constexpr std::uint16_t kMagnitude = 0x7fff;

  static Halves decode(const std::uint8_t* codes, std::uint16_t exponent) {
    const Halves x = load_bytes<true>(codes) << 4;  // and the sign in all bits above
    return (x & 0x7f0) != 0 ? (x & 0x87f0) + exponent : Halves{};
  }
  static Halves signed_code(Halves code, Halves bits) { return code | (bits >> 8 & 0x80); }
};

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
  for (std::size_t i = 0; i < kShare; i += kPair) {
    const Halves x = Code::decode(codes + i, exponent);
    store(to + i, spread<0>(x));
    store(to + i + kWidth, spread<kWidth>(x));
  }
}

template <class Code> inline std::uint32_t largest_magnitude(const float* from) {
  Halves most{};
  for (std::size_t i = 0; i < kShare; i += kPair)
    most = larger(most, upper(load<Word>(from + i), load<Word>(from + i + kWidth)) & Code::kMagnitude);
  return largest_of(most);
}

/// Makes numbers that are not finite the largest there are, NaN a positive one, and says what is the largest of the
/// others.
[[gnu::noinline, gnu::cold]] inline std::uint32_t make_finite(const float* from, float* to) {
  std::uint32_t most = 0;
  for (std::size_t i = 0; i < kShare; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, from + i, sizeof bits);
    const std::uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude < kInfinity) most = std::max(most, magnitude);
    bits = magnitude > kInfinity ? kLargest : (bits & 0x80000000) | std::min(magnitude, kLargest);
    std::memcpy(to + i, &bits, sizeof bits);
  }
  return most >> 16;
}

template <class Code, class How>
[[gnu::always_inline]] inline void encode_block(const float* from, std::size_t at, std::uint8_t* codes,
                                                std::uint8_t* scale, How how) {
  constexpr std::uint32_t kHalves = 0x7f40;  // up to which no number gets a code beyond the last one
  std::uint32_t most = largest_magnitude<Code>(from);
  alignas(64) float finite[kShare];
  const bool special = most > kHalves;
  if (special) {
    most = std::min(make_finite(from, finite), kHalves);
    from = finite;
  }
  const std::uint32_t top = (most + 0x20) >> 7, b = top - std::min(top, Code::kBelow);
  const auto exponent = static_cast<std::uint16_t>(b << 7);
  *scale = static_cast<std::uint8_t>(b);
  for (std::size_t i = 0; i < kShare; i += kPair) {
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

/// A word of 32 bits for each place in a segment: what thresholds have in common.
inline const std::uint32_t* threshold_table() {
  struct Table {
    alignas(64) std::array<std::uint32_t, kSegment> words;
    Table() {
      for (std::size_t block = 0; block < kSegment / kRandomWords; ++block) {
        const auto some = random_words({~std::uint64_t{0}, 0, 0}, block);
        std::memcpy(words.data() + block * kRandomWords, &some, sizeof some);
      }
    }
  };
  static const Table table;
  return table.words.data();
}

}  // namespace detail

/// The thresholds of a segment.  Each is uniform over elements; over steps it is a sequence with the golden ratio (Weyl
/// 1916), as even as a sequence can be: a number that drifts at a constant rate moves by one unit at equal distances.
class Thresholds {
 public:
  static constexpr std::size_t kRoles = 3;  ///< of which each has thresholds for two arrays

  Thresholds(const Stream& stream, std::size_t segment) {
    constexpr std::uint32_t kGolden = 0x9E39E377;  // the ratio times 2³², and its last 20 bits the ratio times 2²⁰
    const auto key = random_words({stream.seed, 0, stream.member}, segment);
    for (std::size_t role = 0; role < kRoles; ++role) offsets_[role] = key[0][role] + stream.step * kGolden;
  }

  /// Those from element `at` of the array on.
  Random from(std::size_t at, std::size_t role) const {
    return {detail::threshold_table() + at % kSegment, offsets_[role]};
  }

 private:
  std::uint32_t offsets_[kRoles];
};

namespace detail {

// How arrays are read and written, in pairs of vectors: n is a multiple of kShare.

inline Pair load_pair(const float* from) { return {load<Floats>(from), load<Floats>(from + kWidth)}; }
inline void store_pair(float* to, const Pair& x) {
  store(to, x[0]);
  store(to + kWidth, x[1]);
}

template <class Code> struct InHalves {
  [[gnu::always_inline]] static void decode(const Kept& kept, std::size_t at, std::size_t n, float* to) {
    const auto* from = static_cast<const std::uint16_t*>(kept.numbers) + at;
    for (std::size_t i = 0; i < n; i += kPair) store_pair(to + i, Code::decode(load<Halves>(from + i)));
  }

  template <class How>
  [[gnu::always_inline]] static void encode(const Kept& kept, std::size_t at, std::size_t n, const float* from,
                                            How how) {
    auto* to = static_cast<std::uint16_t*>(kept.numbers) + at;
    for (std::size_t i = 0; i < n; i += kPair) store(to + i, Code::encode(load_pair(from + i), i, how));
  }
};

template <class Code> struct Compensated {
  [[gnu::always_inline]] static void decode(const Kept& kept, std::size_t at, std::size_t n, float* to) {
    const auto* from = static_cast<const std::uint16_t*>(kept.numbers) + at;
    const auto* more = static_cast<const std::uint16_t*>(kept.more) + at;
    for (std::size_t i = 0; i < n; i += kPair) {
      const Pair x = Code::decode(load<Halves>(from + i)), lost = Code::decode(load<Halves>(more + i));
      store_pair(to + i, {x[0] + lost[0], x[1] + lost[1]});
    }
  }

  template <class How>
  [[gnu::always_inline]] static void encode(const Kept& kept, std::size_t at, std::size_t n, const float* from, How) {
    auto* to = static_cast<std::uint16_t*>(kept.numbers) + at;
    auto* more = static_cast<std::uint16_t*>(kept.more) + at;
    const Nearest nearest{{}};
    for (std::size_t i = 0; i < n; i += kPair) {
      const Pair x = load_pair(from + i);
      const Halves halves = Code::encode(x, 0, nearest);
      const Pair near = Code::decode(halves);
      const auto lost = [&](std::size_t k) {
        const auto finite = (bits_of(near[k]) & 0x7fffffff) < kInfinity;
        return float_of(finite ? bits_of(x[k] - near[k]) : Word{});
      };
      store(to + i, halves);
      store(more + i, Code::encode({lost(0), lost(1)}, 0, nearest));
    }
  }
};

struct Corrected {
  [[gnu::always_inline]] static void decode(const Kept& kept, std::size_t at, std::size_t n, float* to) {
    const auto* from = static_cast<const std::uint16_t*>(kept.numbers) + at;
    const auto* more = static_cast<const std::uint8_t*>(kept.more) + at;
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
  [[gnu::always_inline]] static void encode(const Kept& kept, std::size_t at, std::size_t n, const float* from,
                                            How how) {
    auto* to = static_cast<std::uint16_t*>(kept.numbers) + at;
    auto* more = static_cast<std::uint8_t*>(kept.more) + at;
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

template <class Code> struct InBlocks {
  [[gnu::always_inline]] static void decode(const Kept& kept, std::size_t at, std::size_t n, float* to) {
    const auto* codes = static_cast<const std::uint8_t*>(kept.numbers) + at;
    const std::uint8_t* scales = kept.scales + at / kShare;
    for (std::size_t i = 0; i < n; i += kShare) decode_block<Code>(codes + i, scales[i / kShare], to + i);
  }

  template <class How>
  [[gnu::always_inline]] static void encode(const Kept& kept, std::size_t at, std::size_t n, const float* from,
                                            How how) {
    auto* codes = static_cast<std::uint8_t*>(kept.numbers) + at;
    std::uint8_t* scales = kept.scales + at / kShare;
    for (std::size_t i = 0; i < n; i += kShare) encode_block<Code>(from + i, i, codes + i, scales + i / kShare, how);
  }
};

/// The last elements of an array, with room for a whole block.
class End {
 public:
  End(const Kept& whole, std::size_t at, std::size_t n) : whole_(whole), at_(at), n_(n) {
    kept = whole;
    kept.numbers = numbers_;
    kept.more = more_;
    if (whole.scales != nullptr) kept.scales = whole.scales + at / kShare;
  }

  void read() {
    std::memcpy(numbers_, static_cast<const char*>(whole_.numbers) + at_ * number_bytes(), n_ * number_bytes());
    if (more_bytes() != 0)
      std::memcpy(more_, static_cast<const char*>(whole_.more) + at_ * more_bytes(), n_ * more_bytes());
  }
  void write() const {
    std::memcpy(static_cast<char*>(whole_.numbers) + at_ * number_bytes(), numbers_, n_ * number_bytes());
    if (more_bytes() != 0) std::memcpy(static_cast<char*>(whole_.more) + at_ * more_bytes(), more_, n_ * more_bytes());
  }

  Kept kept;

 private:
  std::size_t number_bytes() const { return whole_.scales != nullptr ? 1 : 2; }
  std::size_t more_bytes() const {
    return whole_.rest == Rest::compensation ? 2 : whole_.rest == Rest::correction ? 1 : 0;
  }

  const Kept& whole_;
  std::size_t at_, n_;
  alignas(64) std::uint16_t numbers_[kShare] = {};
  alignas(64) std::uint16_t more_[kShare] = {};
};

template <class Layout> void decode_any(const Kept& kept, std::size_t at, std::size_t n, float* to) {
  const std::size_t whole = n - n % kShare;
  Layout::decode(kept, at, whole, to);
  if (whole == n) return;
  End end(kept, at + whole, n - whole);
  end.read();
  Layout::decode(end.kept, 0, kShare, to + whole);
}

template <class Layout, class How>
void encode_any(const Kept& kept, std::size_t at, std::size_t n, const float* from, const Random& random) {
  const std::size_t whole = n - n % kShare;
  Layout::encode(kept, at, whole, from, How(random));
  if (whole == n) return;
  alignas(64) float last[kShare] = {};
  std::memcpy(last, from + whole, (n - whole) * sizeof(float));
  End end(kept, at + whole, n - whole);
  Layout::encode(end.kept, 0, kShare, last, How({random.table + whole, random.offset}));
  end.write();
}

inline void decode_exact(const Kept& kept, std::size_t at, std::size_t n, float* to) {
  std::memcpy(to, static_cast<const float*>(kept.numbers) + at, n * sizeof(float));
}
inline void encode_exact(const Kept& kept, std::size_t at, std::size_t n, const float* from, const Random&) {
  std::memcpy(static_cast<float*>(kept.numbers) + at, from, n * sizeof(float));
}

}  // namespace detail

/// An array with the functions that read and write it.
class Codec {
 public:
  Codec() = default;

  Codec(const Kept& kept, Rounding rounding) : kept_(kept) {
    using namespace detail;
    const auto choose = [&]<class Layout>(Layout) {
      decode_ = &decode_any<Layout>;
      encode_ = rounding == Rounding::nearest ? &encode_any<Layout, Nearest>
                : rounding == Rounding::high  ? &encode_any<Layout, High>
                                              : &encode_any<Layout, Low>;
    };
    const auto halves = [&]<class Code>(Code) {
      kept.rest == Rest::compensation ? choose(Compensated<Code>{}) : choose(InHalves<Code>{});
    };
    switch (kept.format) {
      case Format::exact:
        break;
      case Format::float16:
        halves(Float16{});
        break;
      case Format::bfloat16:
        kept.rest == Rest::correction ? choose(Corrected{}) : halves(Bfloat16{});
        break;
      case Format::moment8:
        choose(InBlocks<Moment8>{});
        break;
      case Format::square8:
        choose(InBlocks<Square8>{});
        break;
    }
  }

  /// Elements [at, at + n) as float32; up to 63 numbers beyond them in `to` are written.  8 bits: at % kShare is 0.
  void decode(std::size_t at, std::size_t n, float* to) const { decode_(kept_, at, n, to); }

  /// Elements [at, at + n), within one segment, from float32, with thresholds from `at` on.  8 bits: at % kShare is 0.
  void encode(std::size_t at, std::size_t n, const float* from, const Random& random) const {
    encode_(kept_, at, n, from, random);
  }

 private:
  Kept kept_;
  void (*decode_)(const Kept&, std::size_t, std::size_t, float*) = &detail::decode_exact;
  void (*encode_)(const Kept&, std::size_t, std::size_t, const float*, const Random&) = &detail::encode_exact;
};

}  // namespace fastopt
