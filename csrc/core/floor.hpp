/// The floor: a kernel that moves the bytes of another kernel and computes nothing.
///
/// A kernel that loads `Reads` arrays, loads and stores `Updates`, and stores `Writes` cannot be faster than the best
/// variant of this, so benchmarks show its time beside theirs.  A write receives the exclusive or of the reads (a copy, where
/// there is one read); an update receives its own value, which the compiler cannot know.  What is only read is folded
/// into one number.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/cost.hpp"
#include "core/simd.hpp"
#include "core/threads/parallel.hpp"

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
    const double traffic = static_cast<double>(words) * (Reads + 2.0 * Updates + Writes);
    const std::size_t head = words_to_alignment();
    for (const Word* array : writes)
      style.streaming = style.streaming && (address(array) - address(leading())) % kVectorBytes == 0;
    parallel(threads_for(traffic * kFloorPerWord), [&](int thread, int threads) {
      if (thread == 0) move_each({0, head});
      const Range tiles = share(words - head, thread, threads, tile);
      const Range mine = {tiles.begin + head, tiles.end + head};
      style.streaming ? pass<true>(mine, style.ahead) : pass<false>(mine, style.ahead);
    });
  }

 private:
  using V = fastopt::Word;
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
      for (const Word* array : reads) prefetch(array, i);
      for (const Word* array : updates) prefetch<true>(array, i);
    }
  }
};

/// Any number of arrays, of which each has a whole multiple of the smallest one's words.  They take turns, as in a
/// kernel that unpacks them piece by piece.  (Large ones cut into several of one size would be no floor: eight streams
/// took up to 1.3 times as long as the AdamW of five arrays whose bytes they moved.)
class UnevenFloor {
 public:
  using Word = std::uint32_t;
  enum class Way : std::uint8_t { read, update, write };
  struct Array {
    Way way;
    Word* memory;
    std::size_t multiple;
  };

  std::vector<Array> arrays;
  std::size_t words;  // in the smallest one
  Word nothing;       // 0, but only at run time

  /// Moves every array once.
  void run(FloorStyle style) const {
    double traffic = 0;
    std::size_t largest = 1;
    for (const Array& array : arrays) {
      traffic += static_cast<double>(words * array.multiple) * (array.way == Way::update ? 2 : 1);
      largest = std::max(largest, array.multiple);
    }
    // Of the smallest array at least a line, and of the largest one at most 16 KiB.
    const std::size_t turn = std::clamp<std::size_t>(4096 / largest, 16, 256);
    parallel(threads_for(traffic * kFloorPerWord), [&](int thread, int threads) {
      const Range mine = share(words, thread, threads, turn);
      V seen = {};
      for (std::size_t i = mine.begin; i < mine.end; i += turn)
        for (const Array& array : arrays) {
          const Range piece = {i * array.multiple, std::min(i + turn, mine.end) * array.multiple};
          if (style.ahead != 0) prefetch_piece(array, piece, style.ahead);
          if (array.way == Way::read)
            read(array.memory, piece, seen);
          else if (array.way == Way::update)
            update(array.memory, piece);
          else if (style.streaming && reinterpret_cast<std::uintptr_t>(array.memory) % kVectorBytes == 0)
            write<true>(array.memory, piece, seen);
          else
            write<false>(array.memory, piece, seen);
        }
      [[maybe_unused]] const volatile V sink = seen;
      if (style.streaming) stream_fence();
    });
  }

 private:
  using V = fastopt::Word;
  static constexpr std::size_t wide = sizeof(V) / sizeof(Word);

  static void read(const Word* memory, Range piece, V& seen) {
    std::size_t i = piece.begin;
    for (; i + wide <= piece.end; i += wide) seen ^= load<V>(memory + i);
    for (; i < piece.end; ++i) seen[0] ^= memory[i];
  }

  void update(Word* memory, Range piece) const {
    std::size_t i = piece.begin;
    for (; i + wide <= piece.end; i += wide) store(memory + i, load<V>(memory + i) ^ nothing);
    for (; i < piece.end; ++i) memory[i] ^= nothing;
  }

  template <bool streaming> static void write(Word* memory, Range piece, V seen) {
    std::size_t i = piece.begin;
    for (; i + wide <= piece.end; i += wide) {
      if constexpr (streaming)
        stream(memory + i, seen);
      else
        store(memory + i, seen);
    }
    for (; i < piece.end; ++i) memory[i] = seen[0];
  }

  static void prefetch_piece(const Array& array, Range piece, std::size_t ahead) {
    if (array.way == Way::write) return;
    for (std::size_t i = piece.begin; i < piece.end; i += 64 / sizeof(Word)) {
      const std::size_t at = i + ahead / sizeof(Word);
      array.way == Way::update ? prefetch<true>(array.memory, at) : prefetch(array.memory, at);
    }
  }
};

}  // namespace fastopt
