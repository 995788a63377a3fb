/// Keeps a fork of this process away from work that a child must not find half done.
///
/// A child has the thread that forked and no other.  Where another thread was in the middle of something, its half-done
/// work stays in the child's memory for ever, and every lock that it held stays locked.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace fastopt {

/// The gate between work and forks.  It is closed while a fork is being prepared, and the fork waits for the threads
/// inside.
class ForkGate {
 public:
  static void enter() {
    while ((state_.fetch_add(1, std::memory_order_acquire) & closed) != 0) {
      leave();
      while ((state_.load(std::memory_order_relaxed) & closed) != 0) std::this_thread::sleep_for(pause);
    }
  }
  static void leave() { state_.fetch_sub(1, std::memory_order_release); }

  /// For the handlers of pthread_atfork.  `mine` says whether the thread that forks is itself inside.  close() waits
  /// for at most 2 s, so that nothing can hang here.
  static void close(bool mine) {
    using Clock = std::chrono::steady_clock;
    state_.fetch_or(closed, std::memory_order_relaxed);
    const Clock::time_point latest = Clock::now() + std::chrono::seconds(2);
    while ((state_.load(std::memory_order_acquire) & ~closed) > (mine ? 1U : 0U) && Clock::now() < latest)
      std::this_thread::sleep_for(pause);
  }
  static void open_in_parent() { state_.fetch_and(~closed, std::memory_order_release); }
  static void open_in_child(bool mine) {
    state_.store(mine ? 1U : 0U, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_relaxed);
  }

  static std::uint32_t generation() { return generation_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::uint32_t closed = 1U << 31;
  static constexpr auto pause = std::chrono::microseconds(50);

  static inline std::atomic<std::uint32_t> state_{0};  // how many threads are inside, and `closed`
  static inline std::atomic<std::uint32_t> generation_{0};
};

/// The number of forks between the first process and this one.  The owner of a lock that was taken under another number
/// does not exist in this process.
inline std::uint32_t fork_generation() { return ForkGate::generation(); }

/// As long as an object of this class lives, on any thread, this process does not fork.  The constructor waits while a
/// fork is being prepared.
///
/// Its thread must not wait for Python's global lock meanwhile: the thread that forks may hold the lock, and waits for
/// this one.  So the thread either holds the lock all the time or has released it; to take the lock back, it leaves the
/// gate with a Leave first.  One thread may nest NoForks.
class NoFork {
 public:
  NoFork() {
    if (depth_++ == 0) ForkGate::enter();
  }
  ~NoFork() {
    if (--depth_ == 0) ForkGate::leave();
  }
  NoFork(const NoFork&) = delete;
  NoFork& operator=(const NoFork&) = delete;

  /// Whether the calling thread has a NoFork.
  static bool here() { return depth_ > 0; }

  /// As long as an object of this class lives, the calling thread has no NoFork, however many it had.
  class Leave {
   public:
    Leave() : depth_(NoFork::depth_) {
      if (depth_ > 0) ForkGate::leave();
      NoFork::depth_ = 0;
    }
    ~Leave() {
      if (depth_ > 0) ForkGate::enter();
      NoFork::depth_ = depth_;
    }
    Leave(const Leave&) = delete;
    Leave& operator=(const Leave&) = delete;

   private:
    int depth_;
  };

 private:
  static inline constinit thread_local int depth_ = 0;
};

}  // namespace fastopt
