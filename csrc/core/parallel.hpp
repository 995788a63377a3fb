/// How work is split over OpenMP threads, and the floating-point environment in which all of it runs.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <thread>
#include <utility>

#if defined(__linux__)
#include <sched.h>
#endif

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
  const auto cut = [&](int t) {
    return std::min(n, grains * static_cast<std::size_t>(t) / static_cast<std::size_t>(threads) * grain);
  };
  return {cut(thread), cut(thread + 1)};
}

/// How many threads kernels use, for the whole process.  OpenMP keeps the count per thread, so every thread takes a new
/// one over when it next asks.  A thread whose count somebody else has changed (threadpoolctl's limits, `ThreadCount`)
/// keeps that one as long as it stands: the innermost wish wins.
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

inline bool first_region_pending() { return before_first_region.load(std::memory_order_relaxed) != nullptr; }
inline void run_first_region_hook() {
  if (const auto hook = before_first_region.exchange(nullptr)) hook();
}

/// True in a forked child that must not start a parallel region, because OpenMP would wait for threads that it has not
/// got.
inline std::atomic<bool> stranded{false};

using Nanoseconds = std::chrono::nanoseconds::rep;

inline Nanoseconds now() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Where the threads of one region meet, kept civil while other processes want the cores too.
///
/// libgomp's threads wait by spinning.  When the system has put a worker on its caller's core, because another process
/// has the next one, each spins until the scheduler takes the core away from it, milliseconds for every region.  So a
/// worker that finds itself there moves to another core, and a caller that has waited for a while offers its core to
/// the others.
class Meeting {
 public:
  void begin() {
    if (omp_get_thread_num() != 0 && core() == callers_core_) move();
  }

  void end() {
    if (omp_get_thread_num() != 0) {
      done_.fetch_add(1, std::memory_order_release);
      return;
    }
    constexpr int patience = 20'000;  // looks, some 20 µs
    for (int looks = 0; done_.load(std::memory_order_acquire) < omp_get_num_threads() - 1; ++looks) {
      if (looks > patience) std::this_thread::yield();
    }
  }

 private:
#if defined(__linux__)
  static int core() { return sched_getcpu(); }

  void move() const {
    cpu_set_t all;
    if (callers_core_ < 0 || sched_getaffinity(0, sizeof all, &all) != 0) return;
    cpu_set_t others = all;
    CPU_CLR(static_cast<unsigned>(callers_core_), &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
    sched_setaffinity(0, sizeof all, &all);  // it may go wherever it might before, but it has moved
  }
#else
  static int core() { return -1; }
  void move() const {}
#endif

  const int callers_core_ = core();
  alignas(64) std::atomic<int> done_{0};
};

/// Whether the other cores are there for us.  A caller that has waited long for its workers, and longer than its own
/// part took, works alone for a while, and for twice as long if they are late again: another process has their cores,
/// and half the speed is better than a tenth.  Who asks for more threads than there are cores gets them always.
class Company {
 public:
  static bool expected() {
    return alone_until_.load(std::memory_order_relaxed) == 0 || ThreadCount::get() > cores_ ||
           now() > alone_until_.load(std::memory_order_relaxed);
  }

  static void judge(Nanoseconds own, Nanoseconds waited) {
    constexpr Nanoseconds late = 500'000, longest = 1'000'000'000;
    if (waited > late && waited > own) {
      const Nanoseconds spell = std::min(std::max(2 * spell_.load(std::memory_order_relaxed), 8 * waited), longest);
      spell_.store(spell, std::memory_order_relaxed);
      alone_until_.store(now() + spell, std::memory_order_relaxed);
    } else if (spell_.load(std::memory_order_relaxed) != 0) {
      spell_.store(0, std::memory_order_relaxed);
      alone_until_.store(0, std::memory_order_relaxed);
    }
  }

 private:
  static inline const int cores_ = omp_get_num_procs();
  static inline std::atomic<Nanoseconds> alone_until_{0};
  static inline std::atomic<Nanoseconds> spell_{0};
};

/// Runs body(thread, threads) on every thread of one team, of at least `threads` unless the system gives fewer.
///
/// The team has always the full size, though the work may be for fewer: libgomp ends the threads that a smaller team
/// leaves over and makes them anew for the next larger one.  Returns how long the caller's own part took, and how long
/// it then waited for the others.
template <class Body> std::pair<Nanoseconds, Nanoseconds> region(int threads, Body&& body) {
  if (before_first_region.load(std::memory_order_relaxed) != nullptr) {
    if (const auto hook = before_first_region.exchange(nullptr)) hook();
  }
  Meeting meeting;
  std::exception_ptr failure;  // the first one: none may leave the region
  std::atomic<bool> failed{false};
  const Nanoseconds begin = now();
  Nanoseconds done = begin;
#pragma omp parallel num_threads(std::max(threads, ThreadCount::get()))
  {
    meeting.begin();
    try {
      body(omp_get_thread_num(), omp_get_num_threads());
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
    if (omp_get_thread_num() == 0) done = now();
    meeting.end();
  }
  if (failure) std::rethrow_exception(failure);
  return {done - begin, now() - done};
}

/// How many threads are worth waking for work that takes one thread `nanoseconds`.
inline int threads_for(double nanoseconds) {
  constexpr double worth_a_thread = 3000;  // on two cores a region costs 1 µs while workers spin; on more, more
  return nanoseconds < 2 * worth_a_thread
             ? 1
             : static_cast<int>(std::min(nanoseconds / worth_a_thread, static_cast<double>(ThreadCount::get())));
}

/// Runs body(thread, threads) on `threads` threads at once (or fewer, where the system gives fewer).
template <class Body> void parallel(int threads, Body&& body) {
  if (threads <= 1 || stranded.load(std::memory_order_relaxed) || !Company::expected()) {
    const FlushSubnormals environment;
    body(0, 1);
    return;
  }
  const auto [own, waited] = region(threads, [&](int thread, int team) {
    if (thread >= threads) return;
    const FlushSubnormals environment;
    body(thread, std::min(threads, team));
  });
  Company::judge(own, waited);
}

}  // namespace fastopt
