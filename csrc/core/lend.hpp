/// Lending the OpenMP threads to OpenBLAS, so that matrix products and kernels take turns on one pool of threads
/// instead of fighting for the cores with two (docs/threads.md).
///
/// OpenBLAS 0.3.29 and newer hands its jobs to a function of ours instead of to its own threads.  What that function
/// must know:
///
/// Jobs wait for each other, so all of them must really run at once.  Where the team comes out smaller than asked for
/// (OMP_THREAD_LIMIT, a nested region), the missing ones get threads of their own.
///
/// The number that we pass to a job is its slot, and so its scratch memory.  Two products of different kinds may arrive
/// from two threads at once; with equal numbers they would overwrite each other's scratch.  Hence the lock: one product
/// at a time has the pool, which is also how the pool serves them fastest.
///
/// OpenBLAS's own threads use the slots from the bottom.  Ours come from the top, so that a product that was already
/// running when the pool was lent is not disturbed.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "core/parallel.hpp"

namespace fastopt {

class Lender {
 public:
  /// OpenBLAS's types (cblas.h): a job, the function that runs a list of them, and the function that installs that one.
  using Job = void (*)(int slot, void* data, int buffer);
  using Runner = void (*)(int wait, Job job, int jobs, std::size_t size, void* data, int buffer);
  using Install = void (*)(Runner);

  /// Lends the threads to the library with this `install`, which has `slots` slots; false where it has them or no room
  /// is left.
  static bool lend(Install install, int slots) {
    const std::lock_guard lock(pool_);
    if (count_ == borrowers_.size() || has(install)) return false;
    slots_ = count_ == 0 ? slots : std::min(slots_, slots);
    borrowers_[count_++] = install;
    install(run);
    return true;
  }

  /// Gives every library its own threads back; returns how many there were.
  static std::size_t reclaim() {
    const std::lock_guard lock(pool_);
    for (std::size_t i = 0; i < count_; ++i) borrowers_[i](nullptr);
    return std::exchange(count_, 0);
  }

  static bool borrowed(Install install) {
    const std::lock_guard lock(pool_);
    return has(install);
  }

  /// For fork: no job runs between hold() and release(), and a child calls renew() instead.  OpenBLAS has its own
  /// locks, which a product takes just before its jobs and gives back just after; a child that is born meanwhile can
  /// never take them.  So this waits until there has been no product for a moment.  (Python's threads need the GIL to
  /// begin one, and the thread that forks has it.)
  static void hold() {
    using namespace std::chrono_literals;
    constexpr auto step = 100us;  // asleep, so that a thread that waits for a core gets on
    for (int quiet = 0, waited = 0; count_ > 0 && quiet < 20 && waited < 20'000; ++quiet, ++waited) {
      if (running_.load(std::memory_order_relaxed) > 0) quiet = 0;
      std::this_thread::sleep_for(step);
    }
    pool_.lock();
  }
  static void release() { pool_.unlock(); }
  static void renew() {
    new (&pool_) std::mutex;
    running_ = 0;
  }

  static inline std::atomic<std::size_t> products{0};  ///< lists of jobs run so far
  static inline std::atomic<std::size_t> helpers{0};   ///< threads that had to be made because a team was too small

 private:
  static bool has(Install install) {
    return std::find(borrowers_.begin(), borrowers_.begin() + count_, install) != borrowers_.begin() + count_;
  }

  static void run(int /*wait*/, Job job, int jobs, std::size_t size, void* data, int buffer) {
    running_.fetch_add(1, std::memory_order_relaxed);
    std::unique_lock lock(pool_);
    products.fetch_add(1, std::memory_order_relaxed);
    const auto run_one = [=, first = slots_ - jobs](int i) {
      job(first + i, static_cast<char*>(data) + static_cast<std::size_t>(i) * size, buffer);
    };
    std::vector<std::thread> missing;
    region(jobs, [&](int me, int team) {
      for (int i = team; me == 0 && i < jobs; ++i) missing.emplace_back(run_one, i);
      if (me < jobs) run_one(me);
    });
    for (auto& thread : missing) thread.join();
    helpers.fetch_add(missing.size(), std::memory_order_relaxed);
    lock.unlock();
    running_.fetch_sub(1, std::memory_order_relaxed);
  }

  static inline std::mutex pool_;
  static inline std::atomic<int> running_{0};  // products that run or wait for the pool
  static inline std::array<Install, 8> borrowers_{};
  static inline std::size_t count_ = 0;
  static inline int slots_ = 0;
};

}  // namespace fastopt
