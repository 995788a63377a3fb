/// The floor: one loop for each number of arrays of equal size, and one for arrays of different sizes.
#include "core/floor.hpp"

#include <algorithm>
#include <array>

#include "core/cost.hpp"
#include "core/simd.hpp"
#include "core/threads/parallel.hpp"

namespace fastopt {

namespace {

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

  /// Words up to the first cache line of the leading array.  Vectors that straddle two cache lines cost a third of the
  /// speed in cache, and NumPy's large arrays all start 16 bytes after the beginning of a line.
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

/// Any number of arrays; the size of each is a whole multiple of the smallest one's.  They take turns, as in a kernel
/// that unpacks them piece by piece.  (Cutting large arrays into several of one size would not give a floor: eight
/// streams took up to 1.3 times as long as the AdamW of five arrays whose bytes they moved.)
class UnevenFloor {
 public:
  using Word = std::uint32_t;
  std::vector<FloorArray> arrays;
  std::size_t words;  // in the smallest one
  Word nothing;       // 0, but only at run time

  /// Moves every array once.
  void run(FloorStyle style) const {
    double traffic = 0;
    std::size_t largest = 1;
    for (const FloorArray& array : arrays) {
      traffic += static_cast<double>(words * array.multiple) * (array.way == FloorArray::update ? 2 : 1);
      largest = std::max(largest, array.multiple);
    }
    // A turn is at least a cache line of the smallest array, and at most 16 KiB of the largest one.
    const std::size_t turn = std::clamp<std::size_t>(4096 / largest / 16 * 16, 16, 256);
    parallel(threads_for(traffic * kFloorPerWord), [&](int thread, int threads) {
      const Range mine = share(words, thread, threads, turn);
      V seen = {};
      for (std::size_t i = mine.begin; i < mine.end; i += turn)
        for (const FloorArray& array : arrays) {
          const Range piece = {i * array.multiple, std::min(i + turn, mine.end) * array.multiple};
          if (style.ahead != 0) prefetch_piece(array, piece, style.ahead);
          if (array.way == FloorArray::read)
            read(array.memory, piece, seen);
          else if (array.way == FloorArray::update)
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

  static void prefetch_piece(const FloorArray& array, Range piece, std::size_t ahead) {
    if (array.way == FloorArray::write) return;
    for (std::size_t i = piece.begin; i < piece.end; i += 64 / sizeof(Word)) {
      const std::size_t at = i + ahead / sizeof(Word);
      array.way == FloorArray::update ? prefetch<true>(array.memory, at) : prefetch(array.memory, at);
    }
  }
};

/// Runs Floor<R, U, W> if there are R reads, U updates and W writes.
template <std::size_t R, std::size_t U, std::size_t W>
bool run_if(const std::array<std::vector<std::uint32_t*>, 3>& addresses, std::size_t words, FloorStyle style) {
  const auto& [reads, updates, writes] = addresses;
  if (reads.size() != R || updates.size() != U || writes.size() != W) return false;
  volatile std::uint32_t nothing = 0;
  Floor<R, U, W> floor{{}, {}, {}, words, nothing};
  std::copy_n(reads.begin(), R, floor.reads.begin());
  std::copy_n(updates.begin(), U, floor.updates.begin());
  std::copy_n(writes.begin(), W, floor.writes.begin());
  floor.run(style);
  return true;
}

}  // namespace

void run_floor(const std::vector<FloorArray>& arrays, std::size_t words, FloorStyle style) {
  std::array<std::vector<std::uint32_t*>, 3> addresses;
  for (const FloorArray& array : arrays) addresses[array.way].push_back(array.memory);
  const auto attempt = [&](auto run) { return run(addresses, words, style); };
  if (std::ranges::all_of(arrays, [](const FloorArray& array) { return array.multiple == 1; }) &&
      (attempt(run_if<1, 1, 0>) || attempt(run_if<1, 2, 0>) || attempt(run_if<1, 3, 0>) || attempt(run_if<1, 4, 0>) ||
       attempt(run_if<1, 5, 0>) || attempt(run_if<0, 4, 0>) || attempt(run_if<0, 5, 0>) || attempt(run_if<1, 0, 1>) ||
       attempt(run_if<2, 0, 1>) || attempt(run_if<1, 0, 0>) || attempt(run_if<2, 0, 0>) || attempt(run_if<4, 0, 0>)))
    return;
  volatile std::uint32_t nothing = 0;
  UnevenFloor{arrays, words, nothing}.run(style);
}

}  // namespace fastopt
