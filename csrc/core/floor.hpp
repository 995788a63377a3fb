/// The floor: a kernel that moves the bytes of another kernel and computes nothing.
///
/// A kernel that loads `Reads` arrays, loads and stores `Updates`, and stores `Writes` cannot be faster than the best
/// variant of its floor, so benchmarks show the floor's time beside the kernel's.  A write receives the exclusive or of
/// the reads (a copy, where there is one read); an update receives its own value, which the compiler cannot know.
/// Arrays that are only read are folded into one number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastopt {

/// How a floor moves its bytes.
struct FloorStyle {
  std::size_t ahead;  // prefetch this many bytes ahead of the tile at work; 0: leave it to the hardware
  bool streaming;     // store the writes past the caches
};

/// One of the floor's arrays; it has `multiple` times the words of the smallest one.
struct FloorArray {
  enum Way : std::uint8_t { read, update, write };

  Way way;
  std::uint32_t* memory;
  std::size_t multiple;
};

/// Moves every array once: the reads, then the updates, then the writes; `words` is the size of the smallest one.
void run_floor(const std::vector<FloorArray>& arrays, std::size_t words, FloorStyle style);

}  // namespace fastopt
