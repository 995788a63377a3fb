/// How kernels split their work over the threads of the extension module.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/cost.hpp"
#include "core/threads/environment.hpp"
#include "core/threads/work.hpp"

namespace fastopt {

/// A half-open range of indices.
struct Range {
  std::size_t begin, end;
};

/// Thread `thread`'s share of [0, n) among `threads`: contiguous, cut at multiples of `grain`.
inline Range share(std::size_t n, int thread, int threads, std::size_t grain = 1) {
  const std::size_t grains = (n + grain - 1) / grain;
  const auto cut = [&](int t) {
    return std::min(n, grains * static_cast<std::size_t>(t) / static_cast<std::size_t>(threads) * grain);
  };
  return {cut(thread), cut(thread + 1)};
}

/// The team, which is known as soon as a library of kernels is loaded.
inline constinit Team team{};

/// How many threads to wake for work that takes one thread `nanoseconds`.
inline int threads_for(double nanoseconds) {
  return nanoseconds < 2 * kPerThread
             ? 1
             : static_cast<int>(std::min(nanoseconds / kPerThread, static_cast<double>(team.size())));
}

/// Runs body(thread, threads) on `threads` threads at once (or fewer, where OpenMP gives fewer), with subnormal
/// numbers as zeros.  No fork interrupts it.
inline void parallel(int threads, Work body) { team.parallel(threads, body); }

}  // namespace fastopt
