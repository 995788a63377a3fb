/// Formats for Adam's moments in 8 and 16 bits, and AdamW on them: the harness behind study.py and docs/codecs.md.
///
/// A step goes in pieces: m and v are decoded, the formula runs, and they are encoded again.  In pieces of 64 the
/// compiler keeps them in registers; larger ones go through L1.  Every format has decode and encode of one block, for m
/// (Signed) and for v.  GCC 12 or newer, x86-64-v3 or -v4.
#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <utility>

#if defined(__AVX512BW__)
constexpr std::size_t kBytes = 64;
#else
constexpr std::size_t kBytes = 32;
#endif
#if !defined(PIECE)
#define PIECE 64
#endif
#if !defined(AHEAD)
#define AHEAD 256
#endif
constexpr std::size_t kWidth = kBytes / 4;  // numbers in a vector

template <class T> struct VectorOf {
  typedef T type __attribute__((vector_size(kBytes)));
};
using F32 = VectorOf<float>::type;
using I32 = VectorOf<std::int32_t>::type;
using U32 = VectorOf<std::uint32_t>::type;
using U16 = VectorOf<std::uint16_t>::type;

template <class V> inline V load(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class V> inline void store(void* to, V v) { std::memcpy(to, &v, sizeof v); }
template <class V> inline V maximum(V a, V b) { return a > b ? a : b; }
template <class V> inline V minimum(V a, V b) { return a < b ? a : b; }
inline U32 bits(F32 x) { return reinterpret_cast<U32>(x); }
inline F32 number(U32 x) { return reinterpret_cast<F32>(x); }
inline F32 magnitude(F32 x) { return number(bits(x) & 0x7fffffff); }

#if defined(__AVX512BW__)
inline F32 root(F32 x) { return _mm512_maskz_sqrt_ps(0xffff, x); }
template <bool Signed> inline U16 widen(const std::uint8_t* c) {
  const __m256i bytes = load<__m256i>(c);
  return reinterpret_cast<U16>(Signed ? _mm512_cvtepi8_epi16(bytes) : _mm512_cvtepu8_epi16(bytes));
}
inline void narrow(std::uint8_t* c, U16 x) { store(c, _mm512_maskz_cvtepi16_epi8(~0u, reinterpret_cast<__m512i>(x))); }
#else
inline F32 root(F32 x) { return _mm256_sqrt_ps(x); }
template <bool Signed> inline U16 widen(const std::uint8_t* c) {
  const __m128i bytes = load<__m128i>(c);
  return reinterpret_cast<U16>(Signed ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes));
}
inline void narrow(std::uint8_t* c, U16 x) {
  const __m256i y = reinterpret_cast<__m256i>(x & 0xff);
  store(c, _mm_packus_epi16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1)));
}
#endif

template <class V, std::size_t... I> inline auto fold(V x, std::index_sequence<I...>) {
  return maximum(__builtin_shufflevector(x, x, I...), __builtin_shufflevector(x, x, (sizeof...(I) + I)...));
}
/// The largest element.
template <class V> inline auto largest(V x) {
  if constexpr (sizeof(V) > 16)
    return largest(fold(x, std::make_index_sequence<sizeof(V) / sizeof(x[0]) / 2>{}));
  else if constexpr (sizeof(x[0]) == 2)
    return static_cast<std::uint16_t>(~_mm_cvtsi128_si32(_mm_minpos_epu16(~reinterpret_cast<__m128i>(x))));
  else
    return std::max(std::max(x[0], x[1]), std::max(x[2], x[3]));
}

template <std::size_t Half, std::size_t... I> inline U16 halves(U32 a, U32 b, std::index_sequence<I...>) {
  return __builtin_shufflevector(reinterpret_cast<U16>(a), reinterpret_cast<U16>(b), (2 * I + Half)...);
}
/// The upper (or lower) halves of all words of a, then of b.
template <std::size_t Half = 1> inline U16 halves(U32 a, U32 b) {
  return halves<Half>(a, b, std::make_index_sequence<2 * kWidth>{});
}
inline U16 halves(const float* x) { return halves(load<U32>(x), load<U32>(x + kWidth)); }

template <std::size_t First, std::size_t... I> inline U32 spread(U16 x, std::index_sequence<I...>) {
  return reinterpret_cast<U32>(__builtin_shufflevector(U16{}, x, (I % 2 ? 2 * kWidth + First + I / 2 : 0)...));
}
/// Words whose upper halves are elements First, First + 1, ... of x.
template <std::size_t First> inline U32 spread(U16 x) {
  return spread<First>(x, std::make_index_sequence<2 * kWidth>{});
}

// What is added before bits are cut off.  threshold<Signed, n>(i) is an n-bit number for element i of the piece; m and
// v take theirs from the two ends of one word.
template <class U> constexpr U mix(U x) {
  x = (x ^ x >> 16) * 0x85ebca6b;
  x = (x ^ x >> 13) * 0xc2b2ae35;
  return x ^ x >> 16;
}
constexpr std::uint32_t kGolden = 0x9E39E377;  // 0.618 of 2³², and its lower 20 bits 0.618 of 2²⁰
const U32 kFirst = [] {
  U32 x{};
  for (std::size_t i = 0; i < kWidth; ++i) x[i] = static_cast<std::uint32_t>(i);
  return x;
}();

template <bool Signed, int Bits> inline U32 cut(U32 word) {
  if constexpr (!Signed)
    return word >> (32 - Bits);
  else
    return (word & 0xfffff) >> (20 - Bits);
}
struct Nearest {
  Nearest(std::uint32_t, std::uint32_t) {}
  template <bool Signed, int Bits> U32 threshold(std::size_t) const { return U32{} + (1u << (Bits - 1)); }
};
template <bool Stratified> struct Hashed {  // another one in every step, or on from the first by the golden ratio
  U32 first;
  std::uint32_t key;
  Hashed(std::uint32_t at, std::uint32_t t) : first(kFirst + at), key(Stratified ? t * kGolden : mix(t)) {}
  template <bool Signed, int Bits> U32 threshold(std::size_t i) const {
    const U32 at = first + static_cast<std::uint32_t>(i);
    return cut<Signed, Bits>(Stratified ? mix(at) + key : mix(at ^ key));
  }
};
struct Tabled {  // stratified too: one table for every 1,024 elements, shifted at random
  alignas(64) static constexpr std::array<std::uint32_t, 1024> table = [] {
    std::array<std::uint32_t, 1024> words{};
    for (std::uint32_t i = 0; i < 1024; ++i) words[i] = mix(i + kGolden);
    return words;
  }();
  const std::uint32_t* words;
  U32 key;
  Tabled(std::uint32_t at, std::uint32_t t)
      : words(table.data() + at % 1024), key(U32{} + (mix(at / 1024) + t * kGolden)) {}
  template <bool Signed, int Bits> U32 threshold(std::size_t i) const {
    return cut<Signed, Bits>(load<U32>(words + i) + key);
  }
};

struct Float32 {
  using Code = float;
  using Scale = std::uint8_t;  // none
  static constexpr std::size_t block = 64;
  template <bool> static void decode(const Code* c, Scale, float* x) { std::copy_n(c, block, x); }
  template <bool, class R> static Scale encode(const float* x, Code* c, const R&, std::size_t) {
    std::copy_n(x, block, c);
    return 0;
  }
};

struct Bfloat16 {
  using Code = std::uint16_t;
  using Scale = std::uint8_t;  // none
  static constexpr std::size_t block = 64;
  template <bool> static void decode(const Code* c, Scale, float* x) {
    for (std::size_t i = 0; i < block; i += 2 * kWidth) {
      const U16 w = load<U16>(c + i);
      store(x + i, spread<0>(w));
      store(x + i + kWidth, spread<kWidth>(w));
    }
  }
  template <bool Signed, class R> static Scale encode(const float* x, Code* c, const R& r, std::size_t at) {
    for (std::size_t i = 0; i < block; i += 2 * kWidth) {
      const U32 lo = load<U32>(x + i) + r.template threshold<Signed, 16>(at + i);
      const U32 hi = load<U32>(x + i + kWidth) + r.template threshold<Signed, 16>(at + i + kWidth);
      store(c + i, halves(lo, hi));
    }
    return 0;
  }
};

/// A: bitsandbytes' dynamic map: seven decades below the block's largest, 1, 2, 4, ... 64 values in each (v: twice as
/// many).
template <bool Signed> struct DynamicMap {
  static constexpr int kShift = Signed ? 16 : 15;       // buckets so narrow that at most one boundary is in each
  static constexpr std::uint32_t kLowest = 0x34800000;  // 2⁻²²
  alignas(64) float value[256], bound[256];
  std::uint8_t first[((0x3f800000 - kLowest) >> kShift) + 1];
  DynamicMap() {
    std::size_t n = 0;
    value[n++] = 0;
    for (int decade = 0; decade < 7; ++decade)
      for (int j = 0, items = (Signed ? 1 : 2) << decade; j < items; ++j)
        value[n++] = static_cast<float>(std::pow(10., decade - 6) * (0.1 + 0.9 * (j + 0.5) / items));
    value[n++] = 1;
    for (std::size_t i = 1; i < n; ++i) bound[i - 1] = (value[i - 1] + value[i]) / 2;
    bound[n - 1] = 2;
    if (Signed)
      for (std::size_t i = 1; i < 128; ++i) value[128 + i] = -value[i];
    for (std::uint32_t b = 0, i = 0; b < std::size(first); first[b++] = static_cast<std::uint8_t>(i))
      while (std::bit_cast<float>(kLowest + (b << kShift)) > bound[i]) ++i;
  }
};
template <bool Signed> const DynamicMap<Signed> kMap;
struct Dynamic {
  using Code = std::uint8_t;
  using Scale = float;
  static constexpr std::size_t block = 256;
  template <bool Signed> static void decode(const Code* c, Scale s, float* x) {
    for (std::size_t i = 0; i < block; ++i) x[i] = kMap<Signed>.value[c[i]] * s;
  }
  template <bool Signed, class R> static Scale encode(const float* x, Code* c, const R&, std::size_t) {
    const auto& map = kMap<Signed>;
    U32 most{};
    for (std::size_t i = 0; i < block; i += kWidth) most = maximum(most, bits(magnitude(load<F32>(x + i))));
    const float top = std::bit_cast<float>(largest(most)), per = top > 0 ? 1 / top : 0;
    for (std::size_t i = 0; i < block; ++i) {
      const auto y = std::bit_cast<std::uint32_t>(std::abs(x[i]) * per);
      std::uint32_t q = map.first[(std::clamp(y, map.kLowest, 0x3f800000u) - map.kLowest) >> map.kShift];
      q += (std::bit_cast<std::uint32_t>(map.bound[q]) - y) >> 31;  // no branch: it would be taken every other time
      if (Signed) {
        const std::uint32_t minus = std::bit_cast<std::uint32_t>(x[i]) >> 31;
        q = std::min(q, 128 - minus);
        q += (minus & (q != 0)) * 128;
      }
      c[i] = static_cast<Code>(q);
    }
    return top;
  }
};

/// Linear in m and in √v.  C: blocks of 64; B, FlashOptim: blocks of 32, and m through φ(x) = 2x / (1 + |x|).
template <std::size_t Block, bool Companded> struct Linear {
  using Code = std::uint8_t;
  using Scale = std::conditional_t<Companded, std::uint16_t, float>;  // 16 bits: a bfloat16, rounded up
  static constexpr std::size_t block = Block;
  template <bool Signed> static constexpr float kLevels = Signed ? 127 : 255;
  static float value(Scale s) {
    if constexpr (Companded)
      return std::bit_cast<float>(static_cast<std::uint32_t>(s) << 16);
    else
      return s;
  }
  template <bool Signed> static void decode(const Code* c, Scale s, float* x) {
    const float top = value(s), unit = top / kLevels<Signed>;
    const auto number = [&](U32 word) {
      const F32 q = __builtin_convertvector(reinterpret_cast<I32>(word) >> 16, F32);
      if (!Signed) return q * unit * (q * unit);
      return Companded ? q * top / (2 * kLevels<Signed> - magnitude(q)) : q * unit;
    };
    for (std::size_t i = 0; i < Block; i += 2 * kWidth) {
      const U16 w = widen<Signed>(c + i);
      store(x + i, number(spread<0>(w)));
      store(x + i + kWidth, number(spread<kWidth>(w)));
    }
  }
  template <bool Signed, class R> static Scale encode(const float* x, Code* c, const R& r, std::size_t at) {
    U32 most{};
    for (std::size_t i = 0; i < Block; i += kWidth) most = maximum(most, bits(magnitude(load<F32>(x + i))));
    float top = std::bit_cast<float>(largest(most));
    if (!Signed) top = std::sqrt(top);
    Scale s;
    if constexpr (Companded)
      s = static_cast<Scale>((std::bit_cast<std::uint32_t>(top) + 0xffff) >> 16);
    else
      s = top;
    const float per = top > 1e-30f ? (Signed && Companded ? 1 : kLevels<Signed>) / value(s) : 0;
    const auto code = [&](std::size_t i) {
      const F32 a = load<F32>(x + i);
      const I32 word = reinterpret_cast<I32>(r.template threshold<Signed, 20>(at + i));
      F32 y = (Signed ? magnitude(a) : root(a)) * per;
      if (Signed && Companded) y = 2 * kLevels<Signed> * y / (1 + y);
      y += __builtin_convertvector(word, F32) * 0x1p-20f;
      const I32 q = minimum(__builtin_convertvector(y, I32), I32{} + static_cast<int>(kLevels<Signed>));
      const I32 minus = reinterpret_cast<I32>(a) >> 31;
      return reinterpret_cast<U32>(Signed ? (q ^ minus) - minus : maximum(q, a > 0 ? I32{} + 1 : I32{}));
    };
    for (std::size_t i = 0; i < Block; i += 2 * kWidth) narrow(c + i, halves<0>(code(i), code(i + kWidth)));
    return s;
  }
};

/// D: a small float with an exponent shared by the block: m has a sign and MantissaM bits, v has MantissaV; the rest of
/// 8 is exponent.  Code 0 is 0.  Offset: of |x| + 2^lowest, so that codes go down to 0 evenly.
template <int MantissaM, int MantissaV, bool Offset = false> struct Float8 {
  using Code = std::uint8_t;
  using Scale = std::uint8_t;
  static constexpr std::size_t block = 64;
  template <bool Signed> static constexpr int kMantissa = Signed ? MantissaM : MantissaV;
  template <bool Signed> static constexpr int kRange = (1 << ((Signed ? 7 : 8) - kMantissa<Signed>)) - 1;  // in octaves
  template <bool Signed> static constexpr int kShift = 7 - kMantissa<Signed>;
  template <bool Signed> static std::uint32_t lowest(Scale s) {
    return static_cast<std::uint32_t>(s - kRange<Signed>) << 23;
  }
  static U32 move(F32 x, std::uint32_t low) { return bits(x + number((bits(x) & 0x80000000) | low)); }
  static F32 back(U32 y, std::uint32_t low) { return number(y) - number((y & 0x80000000) | low); }

  template <bool Signed> static void decode(const Code* c, Scale s, float* x) {
    constexpr std::uint16_t kCode = static_cast<std::uint16_t>((Signed ? 0x7f : 0xff) << kShift<Signed>);
    const std::uint32_t low = lowest<Signed>(s);
    const U16 base = U16{} + static_cast<std::uint16_t>(low >> 16);
    for (std::size_t i = 0; i < block; i += 2 * kWidth) {
      const U16 w = widen<Signed>(c + i) << kShift<Signed>;  // the sign has been copied upwards
      U16 y = (w & static_cast<std::uint16_t>(Signed ? kCode | 0x8000 : kCode)) + base;
      if constexpr (!Offset) y = (w & kCode) != 0 ? y : U16{};
      const U32 lo = spread<0>(y), hi = spread<kWidth>(y);
      store(x + i, Offset ? back(lo, low) : number(lo));
      store(x + i + kWidth, Offset ? back(hi, low) : number(hi));
    }
  }
  template <bool Signed, class R> static Scale encode(const float* x, Code* c, const R& r, std::size_t at) {
    constexpr std::uint16_t kMagnitude = Signed ? 0x7fff : 0xffff;
    U16 most{};
    for (std::size_t i = 0; i < block; i += 2 * kWidth) most = maximum(most, halves(x + i) & kMagnitude);
    // The last two codes of the top octave stay free, so that no threshold can carry beyond it.
    constexpr int kSpare = (0x100 >> kMantissa<Signed>)+(Offset ? 1 : 0);
    const int top = std::clamp<int>(largest(most), (kRange<Signed> + 1) << 7, 0x7f40);
    const Scale s = static_cast<Scale>((top + kSpare) >> 7);
    const std::uint32_t low = lowest<Signed>(s);
    const U16 base = U16{} + static_cast<std::uint16_t>(low >> 16);
    const auto rounded = [&](std::size_t i) {
      const U32 more = r.template threshold<Signed, 23 - kMantissa<Signed>>(at + i);
      return (Offset ? move(load<F32>(x + i), low) : load<U32>(x + i)) + more;
    };
    for (std::size_t i = 0; i < block; i += 2 * kWidth) {
      const U16 w = halves(rounded(i), rounded(i + kWidth));
      U16 y = (maximum(w & kMagnitude, base) - base) >> kShift<Signed>;
      if constexpr (Signed)
        y |= (w >> 8) & 0x80;
      else
        y = maximum(y, minimum(Offset ? halves(x + i) : w, U16{} + 1));  // above 0: never 0
      narrow(c + i, y);
    }
    return s;
  }
};

struct Adam {
  float beta1, rest1, beta2, rest2, keep, alpha, nu, eps;
};
struct State {
  void *m, *v, *m_scale, *v_scale;
};

inline void adamw(const Adam& a, float* p, const float* g, float* m, float* v, std::size_t n) {
  for (std::size_t i = 0; i < n; i += kWidth) {
    const F32 gi = load<F32>(g + i);
    const F32 mi = a.beta1 * load<F32>(m + i) + a.rest1 * gi, vi = a.beta2 * load<F32>(v + i) + a.rest2 * gi * gi;
    store(m + i, mi);
    store(v + i, vi);
    store(p + i, a.keep * load<F32>(p + i) - a.alpha * mi / (root(vi) * a.nu + a.eps));
  }
}

template <class Format> constexpr std::size_t kPiece = std::max<std::size_t>(PIECE, Format::block);

template <class Format, bool Signed> void decode(const void* codes, const void* scales, std::size_t at, float* x) {
  const auto* c = static_cast<const typename Format::Code*>(codes) + at;
  const auto* s = static_cast<const typename Format::Scale*>(scales) + at / Format::block;
  for (std::size_t i = 0; i < kPiece<Format>; i += Format::block)
    Format::template decode<Signed>(c + i, s[i / Format::block], x + i);
}
template <class Format, bool Signed, class R>
void encode(const float* x, void* codes, void* scales, std::size_t at, const R& r) {
  auto* c = static_cast<typename Format::Code*>(codes) + at;
  auto* s = static_cast<typename Format::Scale*>(scales) + at / Format::block;
  for (std::size_t i = 0; i < kPiece<Format>; i += Format::block)
    s[i / Format::block] = Format::template encode<Signed>(x + i, c + i, r, i);
}

/// Brings a piece of an array closer.  It pays for all but float32, whose loop the processor follows by itself (Zen 4).
template <bool Write, class T> inline void prefetch(const T* a, std::size_t n) {
  for (std::size_t i = 0; AHEAD > 0 && i < n; i += 64 / sizeof(T)) __builtin_prefetch(a + AHEAD + i, Write, 3);
}

template <class Format, class R>
void step(float* p, const float* g, State s, std::size_t n, std::uint32_t t, int threads, Adam a) {
  constexpr std::size_t piece = kPiece<Format>;
#pragma omp parallel num_threads(threads)
  {
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);  // subnormal numbers are zero
    const Adam rule = a;        // nobody else's, so that it stays in registers
    alignas(64) float m[piece], v[piece];
#pragma omp for schedule(static)
    for (std::size_t at = 0; at < n; at += piece) {
      if constexpr (std::is_same_v<Format, Float32>) {
        adamw(rule, p + at, g + at, static_cast<float*>(s.m) + at, static_cast<float*>(s.v) + at, piece);
      } else {
        prefetch<true>(p + at, piece);
        prefetch<false>(g + at, piece);
        prefetch<true>(static_cast<typename Format::Code*>(s.m) + at, piece);
        prefetch<true>(static_cast<typename Format::Code*>(s.v) + at, piece);
        decode<Format, true>(s.m, s.m_scale, at, m);
        decode<Format, false>(s.v, s.v_scale, at, v);
        adamw(rule, p + at, g + at, m, v, piece);
        const R r(static_cast<std::uint32_t>(at), t);
        encode<Format, true>(m, s.m, s.m_scale, at, r);
        encode<Format, false>(v, s.v, s.v_scale, at, r);
      }
    }
    _mm_setcsr(mode);
  }
}
template <class Format, class R> void convert(bool to, float* m, float* v, State s, std::size_t n, std::uint32_t t) {
  for (std::size_t at = 0; at < n; at += kPiece<Format>) {
    if (to) {
      const R r(static_cast<std::uint32_t>(at), t);
      encode<Format, true>(m + at, s.m, s.m_scale, at, r);
      encode<Format, false>(v + at, s.v, s.v_scale, at, r);
    } else {
      decode<Format, true>(s.m, s.m_scale, at, m + at);
      decode<Format, false>(s.v, s.v_scale, at, v + at);
    }
  }
}

struct Candidate {
  const char* name;
  decltype(&step<Float32, Nearest>) step;
  decltype(&convert<Float32, Nearest>) convert;
};
template <class Format, class R> constexpr Candidate candidate(const char* name) {
  return {name, step<Format, R>, convert<Format, R>};
}
constexpr Candidate kCandidates[] = {
    candidate<Float32, Nearest>("float32"),
    candidate<Bfloat16, Nearest>("bfloat16, nearest"),
    candidate<Bfloat16, Hashed<false>>("bfloat16, random"),
    candidate<Bfloat16, Tabled>("bfloat16, stratified"),
    candidate<Dynamic, Nearest>("A dynamic map, nearest"),
    candidate<Linear<32, true>, Nearest>("B companded, nearest"),
    candidate<Linear<32, true>, Tabled>("B companded, stratified"),
    candidate<Linear<64, false>, Nearest>("C linear, nearest"),
    candidate<Linear<64, false>, Tabled>("C linear, stratified"),
    candidate<Float8<3, 3>, Nearest>("D E4M3/E5M3, nearest"),
    candidate<Float8<3, 3>, Hashed<false>>("D E4M3/E5M3, random"),
    candidate<Float8<3, 3>, Hashed<true>>("D E4M3/E5M3, stratified, hashed"),
    candidate<Float8<3, 3>, Tabled>("D E4M3/E5M3, stratified"),
    candidate<Float8<3, 4>, Tabled>("D E4M3/E4M4, stratified"),
    candidate<Float8<3, 3, true>, Tabled>("D E4M3/E5M3 offset, stratified"),
    candidate<Float8<4, 4, true>, Tabled>("D E3M4/E4M4 offset, stratified"),
};

extern "C" {
const Candidate* candidates(int* count) {
  *count = static_cast<int>(std::size(kCandidates));
  return kCandidates;
}
void run(const Candidate* c, float* p, const float* g, State* s, std::size_t n, unsigned t, int threads, Adam* a) {
  c->step(p, g, *s, n, t, threads, *a);
}
void transfer(const Candidate* c, float* m, float* v, State* s, std::size_t n, unsigned t, int to) {
  c->convert(to != 0, m, v, *s, n, t);
}
}
