/// The cost of work, the size of caches, and the decisions that follow from them: the only tuning constants.
///
/// Times are those of one thread on a server core from 2020 or later.  Only the numbers that say so change a result.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace fastopt {

// How work is divided.

inline constexpr std::size_t kPiece =
    1024;  ///< elements of a step that are updated at once where there is more to do than the rule
inline constexpr std::size_t kShortRun = 512;  ///< up to so many elements, whole vectors need not begin at a cache line
inline constexpr std::size_t kGrain = 256;     ///< elements by which threads share a tensor
inline constexpr std::size_t kChunk = 1 << 14;     ///< elements whose sum is taken by one thread; results depend on it
inline constexpr std::size_t kDecoded = 256;       ///< elements that are best decoded at once
inline constexpr std::size_t kFactorRows = 64;     ///< rows whose column sums are taken at once; results depend on it
inline constexpr std::size_t kTogether = 4;        ///< rows of a normalization that are worked on together
inline constexpr std::size_t kColumns = 256;       ///< columns at once: enough to follow the rows, few enough for L1
inline constexpr std::size_t kWideRow = 16 << 10;  ///< bytes of a row so long that kTogether rows leave L1
inline constexpr std::size_t kWidestRow = 256 << 10;  ///< bytes of a row so long that 2·kTogether rows leave L2
inline constexpr std::size_t kColumnChunk = 1 << 14;  ///< elements of a chunk of columns; results depend on it

inline constexpr std::size_t kLookupColumns = 512;  ///< columns of rows of a table that are summed at once
/// Bytes of what a convolution's product reads of images and writes: they leave L2 room for weights; results depend on it.
inline constexpr std::size_t kProductBytes = 1 << 20;
inline constexpr std::size_t kProductPixels = 256;  ///< of such a product, at least; results depend on it

/// Rows whose columns are mapped together, so that constants of columns are loaded once for them.  They are few, because rows
/// that lie a multiple of 4 KiB apart share a few lines of L1; short rows do not.
inline constexpr std::size_t rows_mapped_together(std::size_t columns) { return columns <= 32 ? 64 : 4; }

// Prefetching.

inline constexpr std::size_t kAhead = 512;          ///< elements between a prefetch and the tile that is computed
inline constexpr std::size_t kBlocksAhead = 256;    ///< the same where blocks are decoded
inline constexpr std::size_t kRowsAhead = 4;        ///< rows that lie anywhere
inline constexpr std::size_t kRowAhead = 16 << 10;  ///< bytes, the same along a row that is streamed
inline constexpr std::size_t kLookupsAhead = 4;     ///< rows of a table that are fetched before their turn

/// Whether prefetching a few streams that are longer than the caches pays.  On Intel's processors it gains up to 30 %
/// (Sapphire Rapids, AdamW); AMD's processors follow the streams by themselves, and prefetching costs 5 to 20 % (Zen
/// 4).
inline bool prefetching_streams_pays() {
#if defined(__x86_64__)
  static const bool intel = __builtin_cpu_is("intel") != 0;
  return intel;
#else
  return false;
#endif
}

/// A step that moves at most this many bytes finds its arrays in the caches again next time.
inline constexpr double kCachedStep = 1 << 25;

// Nanoseconds.

inline constexpr double kStepPerByte = 1.0 / 70;                                        ///< an optimizer's step
inline constexpr double kRowForwardPerByte = 1.0 / 20, kRowBackwardPerByte = 1.0 / 15;  ///< a normalization of rows
inline constexpr double kSumOfChunks = 1.0 / 4;      ///< adding one number to a sum over chunks
inline constexpr double kChannelPerByte = 1.0 / 20;  ///< a normalization of channels
inline constexpr double kRowCopyPerByte = 1.0 / 20;  ///< looking up rows in a table
inline constexpr double kPoolPerElement = 1.0 / 4;   ///< an element of a window in pooling
inline constexpr double kFloorPerWord = 1.0 / 16;    ///< the floor
inline constexpr double kPerThread = 3000;  ///< work that is worth waking a thread: with two cores a region costs 1 µs
inline constexpr double kBriefStep = 1e6;   ///< a step this short keeps Python's lock: a fifth of a thread's turn
inline constexpr double kCheckPerTensor = 50;    ///< the checks before a step
inline constexpr double kSlowStepPerByte = 0.1;  ///< an optimizer's step, at most

// Stores past the caches.

/// Bytes of the last cache that this process may count on.  Caches larger than 32 MiB are shared by many cores, and
/// this process may have only a few of them.
inline std::size_t last_cache() {
  static const std::size_t size = [] {
    constexpr std::size_t kMost = 32 << 20, kUnknown = 16 << 20;
    std::size_t kib = 0;
    if (std::FILE* const file = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "re")) {
      if (std::fscanf(file, "%zuK", &kib) != 1) kib = 0;
      std::fclose(file);
    }
    return kib == 0 ? kUnknown : std::min(kib << 10, kMost);
  }();
  return size;
}

/// Whether results at `to`, in rows of `row_bytes`, are better stored past the caches.  They are where the kernel's
/// working set (inputs and results) is so large that the results would be evicted before they are read.  The gain is up
/// to 2.4 times (LayerNorm of 8192×1024).
///
/// Kernels that write while their inputs are in the first caches lose nothing above 16 MiB, whatever the size of the
/// last cache.  Kernels that read their inputs again from the `last` cache take 1.3 to 1.5 times as long where the
/// working set fits there (BatchNorm backward of 8×56×56×64, channels last: 18 MiB in an L3 of 32 MiB).
inline bool worth_streaming(const void* to, std::size_t row_bytes, std::size_t working_set, bool last = false) {
  constexpr std::size_t kFewest = 16 << 20;
  return working_set > (last ? std::max(kFewest, last_cache() / 8 * 5) : kFewest) &&
         reinterpret_cast<std::uintptr_t>(to) % 16 == 0 && row_bytes % 16 == 0;
}

}  // namespace fastopt
