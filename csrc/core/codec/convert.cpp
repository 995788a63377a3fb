/// Converts whole arrays of fewer bits to float32 and back.
#include "core/codec/convert.hpp"

#include <algorithm>

#include "core/codec/codec.hpp"
#include "core/threads/parallel.hpp"

namespace fastopt {

namespace {

/// Calls body(at, n) for all segments, shared among all threads.
template <class Body> void for_segments(std::size_t n, const Body& body) {
  parallel(threads_for(static_cast<double>(n)), [&](int thread, int threads) {
    const Range mine = share((n + kSegment - 1) / kSegment, thread, threads);
    for (std::size_t segment = mine.begin; segment < mine.end; ++segment)
      body(segment * kSegment, std::min(kSegment, n - segment * kSegment));
  });
}

}  // namespace

void unpack(const StoredArray& stored, std::size_t n, float* to) {
  const Codec codec(stored, Rounding::nearest);
  for_segments(n, [&](std::size_t at, std::size_t some) {
    alignas(64) float part[kSegment];
    codec.decode(at, some, part);
    std::copy_n(part, some, to + at);
  });
}

void pack(const float* from, std::size_t n, const StoredArray& stored) {
  const Codec codec(stored, Rounding::nearest);
  for_segments(n, [&](std::size_t at, std::size_t some) { codec.encode(at, some, from + at, {}); });
}

}  // namespace fastopt
