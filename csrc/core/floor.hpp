/// The floor: a kernel that moves the bytes of another kernel and computes nothing.
///
/// What loads `Reads` arrays, loads and stores `Updates`, and stores `Writes` cannot be faster than the best variant of
/// this, so benchmarks show its time beside theirs.  A write receives the exclusive or of the reads (a copy, where
/// there is one read); an update receives its own value, which the compiler cannot know.  What is only read is folded
/// into one number.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "core/parallel.hpp"
#include "core/storage.hpp"

namespace fastopt {

/// How a floor moves its bytes.
struct FloorStyle {
  std::size_t ahead;  // prefetch this many bytes ahead of the tile at work; 0: leave it to the hardware
  bool streaming;     // store the writes past the caches
};

template <std::size_t Reads, std::size_t Updates, std::size_t Writes> class Floor {
 public:
  using Word = std::uint32_t;
  static constexpr std::size_t tile = 64;

  std::array<const Word*, Reads> reads;
  std::array<Word*, Updates> updates;
  std::array<Word*, Writes> writes;
  std::size_t words;  // in every array
  Word nothing;       // 0, but only at run time

  /// Moves every array once.
  void run(FloorStyle style) const {
    constexpr double words_per_nanosecond = 16;  // of one thread, in cache
    const double traffic = static_cast<double>(words) * (Reads + 2.0 * Updates + Writes);
    const std::size_t head = words_to_alignment();
    for (const Word* array : writes)
      style.streaming = style.streaming && (address(array) - address(leading())) % kVectorBytes == 0;
    parallel(threads_for(traffic / words_per_nanosecond), [&](int thread, int threads) {
      if (thread == 0) move_each({0, head});
      const Range tiles = share(words - head, thread, threads, tile);
      const Range mine = {tiles.begin + head, tiles.end + head};
      style.streaming ? pass<true>(mine, style.ahead) : pass<false>(mine, style.ahead);
    });
  }

 private:
  using V = Word __attribute__((vector_size(kVectorBytes)));
  static constexpr bool only_reads = Updates + Writes == 0;

  static std::uintptr_t address(const Word* word) { return reinterpret_cast<std::uintptr_t>(word); }

  /// The array whose cache lines begin whole vectors.
  const Word* leading() const {
    if constexpr (Writes > 0)
      return writes[0];
    else if constexpr (Updates > 0)
      return updates[0];
    else
      return reads[0];
  }

  /// Vectors that straddle two cache lines cost a third of the speed in cache, and NumPy's large arrays all start 16
  /// bytes after the beginning of a line.
  std::size_t words_to_alignment() const {
    constexpr std::size_t line = 64;
    return std::min(words, (line - address(leading()) % line) % line / sizeof(Word));
  }

  template <bool streaming> void pass(Range range, std::size_t ahead) const {
    std::size_t i = range.begin;
    V seen = {};
    for (; i + tile <= range.end; i += tile) {
      if (ahead != 0) prefetch_tile(i + ahead / sizeof(Word));
      for (std::size_t lane = 0; lane < tile; lane += sizeof(V) / sizeof(Word)) seen ^= move<streaming, V>(i + lane);
    }
    if constexpr (only_reads) [[maybe_unused]]
      const volatile V sink = seen;
    move_each({i, range.end});
    if constexpr (streaming) stream_fence();
  }

  void move_each(Range range) const {
    for (std::size_t i = range.begin; i < range.end; ++i) move<false, Word>(i);
  }

  template <bool streaming, class Value> Value move(std::size_t i) const {
    Value read = {};
    for (const Word* array : reads) read ^= load<Value>(array + i);
    for (Word* array : updates) store(array + i, load<Value>(array + i) ^ (~read & nothing));
    for (Word* array : writes) {
      if constexpr (streaming)
        stream(array + i, read);
      else
        store(array + i, read);
    }
    return read;
  }

  void prefetch_tile(std::size_t first) const {
    for (std::size_t i = first; i < first + tile; i += 64 / sizeof(Word)) {
      for (const Word* array : reads) prefetch(array + i);
      for (const Word* array : updates) prefetch<true>(array + i);
    }
  }
};

}  // namespace fastopt
