/// Lending the OpenMP threads to OpenBLAS, so that matrix products and kernels take turns on one pool of threads
/// instead of fighting for the cores with two (docs/threads.md).
///
/// OpenBLAS 0.3.29 and newer can hand its jobs to a function of ours instead of to its own threads.  That function must
/// respect three things:
///
/// Jobs wait for each other, so all of them must really run at once.  Where the OpenMP team is smaller than asked for
/// (OMP_THREAD_LIMIT, a nested region), the remaining jobs get new threads.  Where the calling thread has fewer
/// cores than the process, all jobs but the caller's get new threads, because OpenMP's workers would share the caller's
/// cores.
///
/// The number that we pass to a job is its slot, which selects its scratch buffer.  Two products of different kinds may
/// arrive from two threads at once; with equal slots they would overwrite each other's buffers.  Hence the lock: one
/// product at a time has the pool, which is also the fastest way to serve them.
///
/// OpenBLAS's own threads use the slots from the bottom up.  Ours come from the top, so that a product that was already
/// running when the pool was lent is not disturbed.
#pragma once

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "core/threads/cores.hpp"
#include "core/threads/fork.hpp"
#include "core/threads/team.hpp"

namespace fastopt {

class Lender {
 public:
  /// OpenBLAS's types (cblas.h): a job, the function that runs a list of jobs, and the function that installs this
  /// runner.
  using Job = void (*)(int slot, void* data, int buffer);
  using Runner = void (*)(int wait, Job job, int jobs, std::size_t size, void* data, int buffer);
  using Install = void (*)(Runner);

  /// Lends the threads to the library behind `install`, which has `slots` slots.  Returns false where the library has
  /// them already or no room is left.
  static bool lend(Install install, int slots) {
    const std::lock_guard lock(pool_);
    if (count_ == borrowers_.size() || has(install)) return false;
    slots_ = count_ == 0 ? slots : std::min(slots_, slots);
    borrowers_[count_++] = install;
    lent_ = true;
    install(run);
    return true;
  }

  /// Gives every library its own threads back; returns the number of libraries.
  static std::size_t reclaim() {
    const std::lock_guard lock(pool_);
    for (std::size_t i = 0; i < count_; ++i) borrowers_[i](nullptr);
    lent_ = false;
    return std::exchange(count_, 0);
  }

  static bool borrowed(Install install) {
    const std::lock_guard lock(pool_);
    return has(install);
  }

  /// For fork: no product runs between hold() and release(), and a child calls renew() instead.
  ///
  /// OpenBLAS has locks of its own, which even a product on one thread takes; a child that is forked meanwhile can
  /// never take them.  Where OpenBLAS has its own threads, its fork handler waits for ever for those that are busy.  So
  /// hold() waits until no thread that may be inside OpenBLAS is running.  `python` has the ids of Python's threads: a
  /// thread that is not inside sleeps, or soon waits for the global lock, which the thread that forks holds.  Threads
  /// that have called for products before are waited for up to 2 s; if that was in vain, they are not waited for again
  /// for a minute.  Other threads, which may compute anything, are waited for only for a moment, and not at all where
  /// nothing is lent.  Where Python's threads are not known, there must have been no product for 2 ms instead.
  static void hold(const std::optional<std::vector<int>>& python) {
    using namespace std::chrono_literals;
    constexpr auto step = 100us;  // asleep, so that a thread that waits for a core gets one
    constexpr Nanoseconds longest = 2'000'000'000;
    const int enough = python ? 2 : 20;
    int patience = 150;  // looks, not time: where cores are scarce, each takes longer
    const Nanoseconds begin = now();
    const bool lent = lent_.load(std::memory_order_relaxed);
    for (int quiet = 0; lent || Users::any(); std::this_thread::sleep_for(step)) {
      const bool last = now() - begin > longest;
      bool busy = running_.load(std::memory_order_relaxed) > 0 || Users::any_runs(last);
      if (!busy && lent && python && patience > 0 && std::any_of(python->begin(), python->end(), runs)) {
        busy = true;
        --patience;
      }
      quiet = busy ? 0 : quiet + 1;
      if (quiet == enough || last) break;
    }
    pool_.lock();
  }
  static void release() { pool_.unlock(); }

  /// Notes that the calling thread is going to call for products, whether anything is lent or not.
  static void expect_products() { Users::add(); }

  static void renew() {
    new (&pool_) std::mutex;
    running_ = 0;
    Users::renew();
  }

  static inline std::atomic<std::size_t> products{0};  ///< lists of jobs run so far
  static inline std::atomic<std::size_t> helpers{0};   ///< threads that were made because a team was too small

 private:
  static bool has(Install install) {
    return std::find(borrowers_.begin(), borrowers_.begin() + count_, install) != borrowers_.begin() + count_;
  }

  /// Whether a thread of this process runs, could run, or waits for the disk; false if it has ended.
  static bool runs(int thread) {
    char path[64], text[512];
    std::snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread);
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    const ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    text[std::max<ssize_t>(length, 0)] = '\0';
    const char* const name_end = std::strrchr(text, ')');  // "id (name) state ..."
    return name_end != nullptr && name_end[1] == ' ' && (name_end[2] == 'R' || name_end[2] == 'D');
  }

  /// The threads that have called for a product.
  class Users {
   public:
    /// Adds the calling thread; it is removed when it ends.
    static void add() {
      thread_local Entry mine;
      if (mine.generation == fork_generation() && mine.thread != 0) return;
      mine.thread = gettid();
      mine.generation = fork_generation();
      const std::lock_guard lock(lock_);
      all_.push_back({mine.thread, 0});
    }

    static bool any() {
      const std::lock_guard lock(lock_);
      return !all_.empty();
    }

    /// Whether one of them, other than the calling thread, runs now.  With `last` nobody will wait for those that run:
    /// the result is false, and they do not count for a minute.
    static bool any_runs(bool last) {
      const std::lock_guard lock(lock_);
      const auto counts = [mine = gettid()](const User& user) {
        return user.thread != mine && now() >= user.excused_until && runs(user.thread);
      };
      if (!last) return std::any_of(all_.begin(), all_.end(), counts);
      constexpr Nanoseconds minute = 60'000'000'000;
      for (User& user : all_)
        if (counts(user)) user.excused_until = now() + minute;
      return false;
    }

    static void renew() {
      new (&lock_) std::mutex;
      all_.clear();
    }

   private:
    struct User {
      int thread;
      Nanoseconds excused_until;
    };
    struct Entry {
      int thread = 0;
      std::uint32_t generation = 0;
      ~Entry() {
        if (thread == 0 || generation != fork_generation()) return;
        const std::lock_guard lock(lock_);
        std::erase_if(all_, [this](const User& user) { return user.thread == thread; });
      }
    };

    static inline std::mutex lock_;
    static inline std::vector<User>& all_ = *new std::vector<User>;  // threads may end after all else
  };

  /// Threads for the jobs for which OpenMP has none.
  class Helpers {
   public:
    template <class Run> void start(int i, const Run& run_one) { threads_.emplace_back(run_one, i); }

    /// Starts a thread for job i, on `cores`, where the calling thread may not be.
    template <class Run> void start(int i, const Run& run_one, const Cores& cores) {
      start(i, run_one);
      // Set from outside: if the new thread did it, it would begin on this thread's core, only when its turn comes,
      // milliseconds later.
      if (cores.count() > 0) pthread_setaffinity_np(threads_.back().native_handle(), sizeof(cpu_set_t), cores.set());
    }

    void join() {
      for (auto& thread : threads_) thread.join();
      helpers.fetch_add(threads_.size(), std::memory_order_relaxed);
    }

   private:
    std::vector<std::thread> threads_;
  };

  static void run(int /*wait*/, Job job, int jobs, std::size_t size, void* data, int buffer) {
    running_.fetch_add(1, std::memory_order_relaxed);
    Users::add();
    std::unique_lock lock(pool_);
    products.fetch_add(1, std::memory_order_relaxed);
    const auto run_one = [=, first = slots_ - jobs](int i) {
      job(first + i, static_cast<char*>(data) + static_cast<std::size_t>(i) * size, buffer);
    };
    Helpers missing;
    if (CoreBudget::threads(jobs) >= jobs) {
      region(jobs, [&](int me, int team) {
        for (int i = team; me == 0 && i < jobs; ++i) missing.start(i, run_one);
        if (me < jobs) run_one(me);
      });
    } else {
      const Cores others = Cores::of_process().without(Cores::current());
      for (int i = 1; i < jobs; ++i) missing.start(i, run_one, others);
      run_one(0);
    }
    missing.join();
    lock.unlock();
    running_.fetch_sub(1, std::memory_order_relaxed);
  }

  static inline std::mutex pool_;
  static inline std::atomic<bool> lent_{false};
  static inline std::atomic<int> running_{0};  // products that run or wait for the pool
  static inline std::array<Install, 8> borrowers_{};
  static inline std::size_t count_ = 0;
  static inline int slots_ = 0;
};

}  // namespace fastopt
