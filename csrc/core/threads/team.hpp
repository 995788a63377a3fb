/// The team of OpenMP threads on which kernels run, and the floating-point environment in which they do.
///
/// There is one team, and one state of it, for all instruction sets: this header is for the extension module alone.  The
/// libraries of kernels reach it through parallel.hpp.
#pragma once

#include <dlfcn.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <exception>
#include <optional>
#include <thread>
#include <utility>

#include "core/threads/cores.hpp"
#include "core/threads/environment.hpp"
#include "core/threads/fork.hpp"
#include "core/threads/work.hpp"

namespace fastopt {

/// How many threads kernels use, for the whole process.  OpenMP keeps the count per thread, so every thread adopts a
/// new count when it next asks.  A thread whose count somebody else has changed (threadpoolctl's limits, `ThreadCount`)
/// keeps that count as long as it stands: the innermost wish wins.
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
  static inline constinit thread_local int known_ = 0;  // the count that this thread adopted last
};

/// Called once, on the thread that starts the first parallel region, before it starts.  It takes Python's global lock.
inline std::atomic<void (*)()> before_first_region{nullptr};

inline bool first_region_pending() { return before_first_region.load(std::memory_order_relaxed) != nullptr; }

/// Calls before_first_region if that has not happened yet.  A region does this by itself, but it opens the gate for
/// forks meanwhile.  So work that no fork may interrupt, with a NoFork over several regions, calls this function before
/// it starts.
inline void run_first_region_hook() {
  if (!first_region_pending()) return;
  const NoFork::Leave outside;
  if (const auto hook = before_first_region.exchange(nullptr)) hook();
}

/// True in a forked child that must not start a parallel region, because OpenMP would wait for threads that do not
/// exist.
inline std::atomic<bool> stranded{false};

using Nanoseconds = std::chrono::nanoseconds::rep;

inline Nanoseconds now() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// How many cores this process had when this was loaded.
inline const int all_cores = omp_get_num_procs();

/// Whether OpenMP chooses a place for each of its threads (OMP_PROC_BIND, OMP_PLACES, GOMP_CPU_AFFINITY).
inline const bool places_are_chosen = omp_get_proc_bind() != omp_proc_bind_false && omp_get_num_places() > 0;

/// Ends the calling thread's OpenMP workers.  They are made again by its next region.  The function is OpenMP 5.0's; it
/// is looked up because torch may have brought an older libgomp.
inline bool end_workers() {
  static const auto pause = reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "omp_pause_resource_all"));
  constexpr int soft = 1;
  return pause != nullptr && pause(soft) == 0;
}

/// The number of cores for the calling thread and its workers, which inherit its affinity.
///
/// A thread may have been confined to fewer cores than the process has (os.sched_setaffinity does that to one thread).
/// Two threads that wait for each other on one core take milliseconds for what takes microseconds, so such a thread
/// gets a smaller team.  The check is rare: a thread looks before its first region, and again when one of its workers
/// has complained.
class CoreBudget {
 public:
  static constexpr int enough = INT_MAX;

  /// How many of `wish` threads have a core; `enough` where all of them have one, or where `wish` exceeds the number of
  /// cores.
  static int threads(int wish) { return state_ == State::roomy ? enough : look(wish); }

  /// Called by a caller whose workers shared a core with it or with each other, and could not leave.
  static void complain() { state_ = State::crowded; }

  /// For a worker at the beginning of a region: whether it was started with too few cores for `team` threads.
  static bool cramped(int team) {
    if (places_are_chosen) return false;
    if (born_with_ == 0) {
      const Cores mine = Cores::of_thread();
      born_with_ = mine.known() ? mine.count() : enough;
    }
    return born_with_ < std::min(team, all_cores);
  }

 private:
  enum class State : unsigned char { unknown, roomy, crowded };

  static int look(int wish) {
    const State before = std::exchange(state_, State::roomy);
    const Cores mine = Cores::of_thread();
    if (!mine.known() || wish > all_cores) return enough;
    if (places_are_chosen) {
      if (before != State::crowded || make_way(mine)) return enough;
    } else if (mine.count() >= wish) {
      if (before == State::crowded) end_workers();  // they were started when this thread had fewer cores
      return enough;
    }
    state_ = State::crowded;
    return mine.count();
  }

  /// Where OpenMP has bound the workers and this thread shares a core with one: moves it to its own place, or at least
  /// off this core.
  static bool make_way(const Cores& mine) {
    const bool spread = omp_get_proc_bind() != omp_proc_bind_master && omp_get_num_places() > 1;
    return (spread ? mine & Cores::of_place() : mine.without(Cores::current())).move_within(mine);
  }

  static inline constinit thread_local State state_ = State::unknown;
  static inline constinit thread_local int born_with_ = 0;
};

/// Undoes libgomp's binding.  libgomp binds a thread to its place in that thread's first region, for good, and every
/// thread or process that it starts later inherits that.  An object of this class lives during that region; its
/// destructor lets the thread run again wherever it could before.
class KeepCores {
 public:
  KeepCores() {
    if (!places_are_chosen || std::exchange(kept_, true)) return;
    before_ = Cores::of_thread();
  }
  ~KeepCores() {
    if (before_ && !(*before_ == Cores::of_thread())) before_->confine();
  }
  KeepCores(const KeepCores&) = delete;
  KeepCores& operator=(const KeepCores&) = delete;

 private:
  std::optional<Cores> before_;
  static inline constinit thread_local bool kept_ = false;
};

/// Where the threads of one region meet.  It gives way while other processes want the cores too.
///
/// libgomp's threads wait by spinning.  When another process has the next core and the system has put a worker on its
/// caller's, each of the two spins until the scheduler takes the core away from it, which costs milliseconds in every
/// region.  So a worker that finds itself there moves to another core, and a caller that has waited for a while offers
/// its core to the others.
class RegionBarrier {
 public:
  void begin() {
    if (omp_get_thread_num() == 0) return;
    if (Cores::current() == callers_core_ && !move()) complaint_.store(true, std::memory_order_relaxed);
    if (CoreBudget::cramped(omp_get_num_threads())) complaint_.store(true, std::memory_order_relaxed);
  }

  void end() {
    if (omp_get_thread_num() != 0) {
      done_.fetch_add(1, std::memory_order_release);
      return;
    }
    constexpr int patience = 20'000;  // looks: some 20 µs
    for (int looks = 0; done_.load(std::memory_order_acquire) < omp_get_num_threads() - 1; ++looks) {
      if (looks > patience) std::this_thread::yield();
    }
    if (complaint_.load(std::memory_order_relaxed)) CoreBudget::complain();
  }

 private:
  bool move() const {
    if (callers_core_ < 0) return true;
    const Cores mine = Cores::of_thread();
    return !mine.known() || mine.without(callers_core_).move_within(mine);
  }

  const int callers_core_ = Cores::current();
  std::atomic<bool> complaint_{false};
  alignas(64) std::atomic<int> done_{0};
};

/// Whether the other cores are free.  If a caller waits long for its workers, and longer than its own part took,
/// another process has their cores.  The caller then works alone for a while, and for twice as long if the workers are
/// late again: half the speed is better than a tenth.  A caller that asks for more threads than there are cores always
/// gets them.
class Contention {
 public:
  static bool none() {
    return alone_until_.load(std::memory_order_relaxed) == 0 || ThreadCount::get() > all_cores ||
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
  static inline std::atomic<Nanoseconds> alone_until_{0};
  static inline std::atomic<Nanoseconds> spell_{0};
};

/// Runs body(thread, threads) on every thread of one team, which has at least `threads` threads unless the system gives
/// fewer.
///
/// The team always has the full size, even if the work is for fewer threads: libgomp would end the threads that a
/// smaller team leaves over, and start them anew for the next larger team.  Returns how long the caller's own part
/// took, and how long it then waited for the others.
[[gnu::noinline]] inline std::pair<Nanoseconds, Nanoseconds> region(int threads, Work body) {
  run_first_region_hook();
  const int wish = std::max(threads, ThreadCount::get()),
            team = std::max(threads, std::min(wish, CoreBudget::threads(wish)));
  const KeepCores keep;
  RegionBarrier barrier;
  std::exception_ptr failure;  // the first one; none may leave the region
  std::atomic<bool> failed{false};
  const Nanoseconds begin = now();
  Nanoseconds done = begin;
#pragma omp parallel num_threads(team)
  {
    barrier.begin();
    try {
      body(omp_get_thread_num(), omp_get_num_threads());
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
    if (omp_get_thread_num() == 0) done = now();
    barrier.end();
  }
  if (failure) std::rethrow_exception(failure);
  return {done - begin, now() - done};
}

/// Runs body(thread, threads) on `threads` threads at once (or fewer, where OpenMP gives fewer).  No fork
/// interrupts it.
inline void run_parallel(int threads, Work body) {
  if (threads > 1) threads = std::min(threads, CoreBudget::threads(threads));
  if (threads <= 1 || stranded.load(std::memory_order_relaxed) || !Contention::none()) {
    const NoFork guard;
    const FlushSubnormals environment;
    body(0, 1);
    return;
  }
  run_first_region_hook();
  const NoFork guard;
  const auto [own, waited] = region(threads, [&](int thread, int team) {
    if (thread >= threads) return;
    const FlushSubnormals environment;
    body(thread, std::min(threads, team));
  });
  Contention::judge(own, waited);
}

}  // namespace fastopt
