/// How work is split over OpenMP threads, and the floating-point environment in which all of it runs.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastopt {

/// While one of these lives, subnormal numbers are zero for the thread that made it, as operands and as results.
class FlushSubnormals {
 public:
#if defined(__SSE2__)
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }  // FTZ and DAZ
  ~FlushSubnormals() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
  FlushSubnormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(saved_ | (1UL << 24)));  // FZ
  }
  ~FlushSubnormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }
#else
  FlushSubnormals() = default;
#endif
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
#if defined(__SSE2__)
  unsigned saved_;
#elif defined(__aarch64__)
  unsigned long saved_;
#endif
};

/// A half-open range of indices.
struct Range {
  std::size_t begin, end;
};

/// Thread `thread`'s share of [0, n) among `threads`: contiguous, cut at multiples of `grain`.
inline Range share(std::size_t n, int thread, int threads, std::size_t grain = 1) {
  const std::size_t grains = (n + grain - 1) / grain;
  const auto cut = [&](int t) { return std::min(n, grains * static_cast<std::size_t>(t) / static_cast<std::size_t>(threads) * grain); };
  return {cut(thread), cut(thread + 1)};
}

/// How many threads kernels use, for the whole process.  OpenMP keeps the count per thread, so every thread takes a new one
/// over when it next asks.  A thread whose count somebody else has changed (threadpoolctl's limits, `ThreadCount`) keeps
/// that one as long as it stands: the innermost wish wins.
class ThreadCount {
 public:
  static int get() {
    const int here = omp_get_max_threads();
    const std::uint64_t wish = wish_.load(std::memory_order_acquire);
    if (wish == seen_ || here != (known_ == 0 ? fresh_.load(std::memory_order_relaxed) : known_)) return here;
    return adopt(wish);
  }

  /// `fresh` is the count that a new thread starts with.
  static void set(int count, int fresh) {
    fresh_.store(fresh, std::memory_order_relaxed);
    const std::uint64_t version = (wish_.load(std::memory_order_relaxed) >> 32) + 1;
    wish_.store(version << 32 | static_cast<std::uint32_t>(count), std::memory_order_release);
    adopt(wish_.load(std::memory_order_relaxed));
  }

 private:
  static int adopt(std::uint64_t wish) {
    seen_ = wish;
    known_ = static_cast<int>(wish & 0xffffffff);
    omp_set_num_threads(known_);
    return known_;
  }

  static inline std::atomic<std::uint64_t> wish_{0};  // a version and a count
  static inline std::atomic<int> fresh_{0};
  static inline constinit thread_local std::uint64_t seen_ = 0;
  static inline constinit thread_local int known_ = 0;  // the count that this thread took over last
};

/// Called once, on the thread that starts the first parallel region, before it starts.
inline std::atomic<void (*)()> before_first_region{nullptr};

/// True in a forked child that must not start a parallel region, because OpenMP would wait for threads that it has not got.
inline std::atomic<bool> stranded{false};

/// How many threads are worth waking for work that takes one thread `nanoseconds`.
inline int threads_for(double nanoseconds) {
  constexpr double worth_a_thread = 3000;  // below this, waking a thread costs more than it saves
  return nanoseconds < 2 * worth_a_thread
             ? 1
             : static_cast<int>(std::min(nanoseconds / worth_a_thread, static_cast<double>(ThreadCount::get())));
}

/// Runs body(thread, threads) on `threads` threads at once (or fewer, where the system gives fewer).
///
/// The team has always the full size, though the work may be for fewer: libgomp ends the threads that a smaller team leaves
/// over and makes them anew for the next larger one.
template <class Body> void parallel(int threads, Body&& body) {
  if (threads <= 1 || stranded.load(std::memory_order_relaxed)) {
    const FlushSubnormals environment;
    body(0, 1);
    return;
  }
  if (before_first_region.load(std::memory_order_relaxed) != nullptr) {
    if (const auto hook = before_first_region.exchange(nullptr)) hook();
  }
#pragma omp parallel num_threads(std::max(threads, ThreadCount::get()))
  {
    const int team = std::min(threads, omp_get_num_threads());
    if (omp_get_thread_num() < team) {
      const FlushSubnormals environment;
      body(omp_get_thread_num(), team);
    }
  }
}

}  // namespace fastopt
