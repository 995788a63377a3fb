/// Dropout and its variants, for every type.
#include "regularize/dropout.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/codec/half.hpp"
#include "core/random.hpp"
#include "core/reduce.hpp"
#include "core/threads/parallel.hpp"

namespace fastopt {

namespace {

// Streams of random numbers that no other part of the library uses.
inline constexpr std::uint32_t kUpperHalves = 0x80000000, kDeviates = 0x80000001, kChannelNumbers = 0x80000002,
                               kLowerHalves = 0x80000003;

/// As many numbers of 32 bits as V has elements.
template <class V>
using WordsOf = typename std::conditional_t<is_number<V>, std::type_identity<std::uint32_t>, Words<width<V>>>::type;

/// Returns `value`, but +0 where the number is below `least`.  The numbers have at most 31 bits.
template <class V> inline V kept(WordsOf<V> numbers, std::uint32_t least, V value) {
  if constexpr (is_number<V>) {
    return numbers >= least ? value : V{};
  } else {
    using Integers = decltype(value < value);
    using Integer = std::remove_cvref_t<decltype(Integers{}[0])>;
    return __builtin_convertvector(numbers, Integers) >= Integers{} + static_cast<Integer>(least) ? value : V{};
  }
}

/// Calls body(row, at, i, count) for the pieces of rows in elements [begin, end).  A piece has `count` elements, at
/// most `most`; it begins at element `at` of its row, which is element i of all.
template <class Body>
inline void for_pieces(const Rows& rows, std::size_t begin, std::size_t end, std::size_t most, const Body& body) {
  if (begin == end) return;
  std::size_t row = begin / rows.width, at = begin % rows.width;
  for (std::size_t i = begin, count; i < end; i += count) {
    count = std::min({rows.width - at, end - i, most});
    body(row, at, i, count);
    at += count;
    if (at == rows.width) {
      ++row;
      at = 0;
    }
  }
}

/// Calls body(block, from, to, count, streamed) for blocks of the elements of one row; `from` is contiguous.
template <std::size_t Block, class S, class Body>
void for_blocks(const S* x, const Rows& row, S* y, double nanoseconds, const Body& body) {
  const std::size_t n = row.width;
  with_flag(worth_streaming(y, Block * sizeof(S), 2 * n * sizeof(S)), [&](auto streamed) {
    parallel(threads_for(nanoseconds * static_cast<double>(n)), [&](int thread, int threads) {
      const Range mine = share(n, thread, threads, Block);
      alignas(64) std::array<S, Block> gathered;
      for (std::size_t first = mine.begin; first < mine.end; first += Block) {
        const std::size_t count = std::min(Block, mine.end - first);
        const S* from = gathered.data();
        if (row.contiguous())
          from = x + first;
        else
          row.pack(x, first, count, gathered.data());
        if (count == Block)
          body(first / Block, from, y + first, std::integral_constant<std::size_t, Block>{}, streamed);
        else
          body(first / Block, from, y + first, count, streamed);
      }
      if (streamed) stream_fence();
    });
  });
}

/// Numbers of 16 bits, from a word's lower or upper half.
template <std::size_t Upper, class W> inline W half_of(W words) { return Upper ? words >> 16 : words & 0xffff; }

/// Whether the lower or upper half of any word is `number`.
template <std::size_t N> inline bool has_half(const std::array<Word, N>& words, std::uint16_t number) {
  using HalfWords = typename Shorts<kVectorBytes / 2>::type;
  const HalfWords numbers = HalfWords{} + number;
  HalfWords found = {};
  for (const Word& word : words) found |= reinterpret_cast<HalfWords>(reinterpret_cast<HalfWords>(word) == numbers);
  std::array<std::uint64_t, kVectorBytes / 8> bits;
  std::memcpy(bits.data(), &found, sizeof found);
  std::uint64_t any = 0;
  for (const std::uint64_t some : bits) any |= some;
  return any != 0;
}

}  // namespace

template <class S> void DropoutKernels<S>::copy(const S* x, const Rows& row, S* y) {
  if (x == y) return;
  parallel(threads_for(static_cast<double>(row.width * sizeof(S)) / 25), [&](int thread, int threads) {
    const Range mine = share(row.width, thread, threads, kLanes);
    row.pack(x, mine.begin, mine.end - mine.begin, y + mine.begin);
  });
}

/// Element i's number has 32 bits; the upper 16 nearly always decide.  They are half i/64 mod 2 of word i mod 64 in
/// block i/128.  The lower 16 are the same half in another stream, which is drawn only where it matters.
template <class S>
void DropoutKernels<S>::dropout(const S* x, const Rows& row, const Drops& drops, const Draw& draw, S* y) {
  using T = Computed<S>;
  if (drops.everything()) {
    std::fill_n(y, row.width, S{});
    return;
  }
  constexpr std::size_t kHalves = 2 * kRandomWords;
  const auto upper = static_cast<std::uint16_t>(drops.below >> 16), lower = static_cast<std::uint16_t>(drops.below);
  const auto scale = static_cast<T>(drops.scale);
  const Stream uppers{draw.seed, draw.step, kUpperHalves}, lowers{draw.seed, draw.step, kLowerHalves};

  const auto resolve = [&](std::uint64_t block, const auto& words, S* to, std::size_t count) {
    const auto more = random_words(lowers, block);
    std::array<std::uint32_t, kRandomWords> first, second;
    std::memcpy(first.data(), words.data(), sizeof first);
    std::memcpy(second.data(), more.data(), sizeof second);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t word = i % kRandomWords, shift = i / kRandomWords * 16;
      if ((first[word] >> shift & 0xffff) == upper && (second[word] >> shift & 0xffff) < lower) to[i] = S{};
    }
  };

  for_blocks<kHalves>(x, row, y, 0.25, [&](std::uint64_t block, const S* from, S* to, auto count, auto streamed) {
    const auto words = random_words(uppers, block);
    const auto* numbers = reinterpret_cast<const std::uint32_t*>(words.data());
    unroll<2>([&](auto h) {
      constexpr std::size_t kFirst = h * kRandomWords;
      each<T>(std::min(std::max<std::size_t>(count, kFirst) - kFirst, kRandomWords), [=](std::size_t i, auto number) {
        using V = decltype(number);
        const auto half = half_of<h>(load<WordsOf<V>>(numbers + i));
        put<streamed>(to + kFirst + i, kept(half, upper, load<V>(from + kFirst + i) * scale));
      });
    });
    if (lower != 0 && has_half(words, upper)) resolve(block, words, to, count);
  });
}

template <class S>
void DropoutKernels<S>::gaussian_dropout(const S* x, const Rows& row, double p, const Draw& draw, S* y) {
  using T = Computed<S>;
  const auto deviation = static_cast<T>(std::sqrt(p / (1 - p)));
  const Stream stream{draw.seed, draw.step, kDeviates};
  for_blocks<kRandomNormals>(x, row, y, 0.5, [&](std::uint64_t block, const S* from, S* to, auto count, auto streamed) {
    alignas(64) std::array<float, kRandomNormals> normals;
    random_normals(stream, block, normals.data());
    each<T>(count, [=, normal = normals.data()](std::size_t i, auto number) {
      using V = decltype(number);
      V deviate;
      if constexpr (std::is_same_v<T, float>)
        deviate = load<V>(normal + i);
      else if constexpr (is_number<V>)
        deviate = static_cast<V>(normal[i]);
      else
        deviate =
            __builtin_convertvector(load<typename VectorOf<float, width<V> * sizeof(float)>::type>(normal + i), V);
      put<streamed>(to + i, load<V>(from + i) * (1 + deviation * deviate));
    });
  });
}

template <class S>
void DropoutKernels<S>::channel_dropout(const S* x, const Rows& rows, const Sets& sets, const Drops& drops,
                                        const Draw& draw, S* y) {
  using T = Computed<S>;
  const std::size_t n = rows.count() * rows.width;
  const auto scale = static_cast<T>(drops.scale);
  const Stream stream{draw.seed, draw.step, kChannelNumbers};

  std::vector<std::uint32_t> table(sets.samples * sets.channels);  // 1 for channels that are kept
  for (std::size_t first = 0; first < table.size(); first += kRandomWords) {
    const auto words = random_words(stream, first / kRandomWords);
    std::array<std::uint32_t, kRandomWords> numbers;
    std::memcpy(numbers.data(), words.data(), sizeof numbers);
    for (std::size_t i = first; i < std::min(first + kRandomWords, table.size()); ++i) {
      const std::size_t to = sets.channels_first ? i % sets.channels * sets.samples + i / sets.channels : i;
      table[to] = numbers[i - first] >= drops.below;
    }
  }

  constexpr std::size_t kGathered = 1024;
  const std::size_t most = rows.contiguous() ? n : kGathered;
  with_flag(worth_streaming(y, rows.width * sizeof(S), 2 * n * sizeof(S)), [&](auto streamed) {
    parallel(threads_for(static_cast<double>(n * sizeof(S)) / 25), [&](int thread, int threads) {
      const Range mine = share(n, thread, threads, kLanes);
      alignas(64) std::array<S, kGathered> gathered;
      for_pieces(rows, mine.begin, mine.end, most,
                 [&](std::size_t row, std::size_t at, std::size_t i, std::size_t count) {
                   const S* from = gathered.data();
                   if (rows.contiguous())
                     from = x + (rows.offset(row) + static_cast<std::ptrdiff_t>(at));
                   else
                     rows.pack(x + rows.offset(row), at, count, gathered.data());
                   const std::uint32_t* keep =
                       table.data() + (sets.rows.offset(row) + static_cast<std::ptrdiff_t>(at * sets.step));
                   S* to = y + i;
                   if (sets.step == 0)
                     with_flag(*keep != 0, [&](auto all) {
                       each<T>(count, [=](std::size_t k, auto number) {
                         using V = decltype(number);
                         put<streamed>(to + k, all ? load<V>(from + k) * scale : V{});
                       });
                     });
                   else
                     each<T>(count, [=](std::size_t k, auto number) {
                       using V = decltype(number);
                       put<streamed>(to + k, kept(load<WordsOf<V>>(keep + k), 1, load<V>(from + k) * scale));
                     });
                 });
      if (streamed) stream_fence();
    });
  });
}

template struct DropoutKernels<float>;
template struct DropoutKernels<double>;
template struct DropoutKernels<float16>;
template struct DropoutKernels<bfloat16>;

}  // namespace fastopt
