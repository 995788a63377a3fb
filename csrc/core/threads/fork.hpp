/// Keeps a fork of this process away from work that a child must not find half done.
///
/// A child has the thread that forked and no other.  Where another thread was in the middle of something, its half is
/// there in the child's memory for ever, and so is every lock that it held.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace fastopt {

/// The gate between work and forks.  It is closed while a fork is prepared, and the fork waits for those inside.
class ForkGate {
 public:
  static void enter() {
    while ((state_.fetch_add(1, std::memory_order_acquire) & closed) != 0) {
      leave();
      while ((state_.load(std::memory_order_relaxed) & closed) != 0) std::this_thread::sleep_for(pause);
    }
  }
  static void leave() { state_.fetch_sub(1, std::memory_order_release); }

  /// For the handlers of pthread_atfork.  `mine` says whether the thread that forks is inside itself.  Does not wait
  /// for longer than 2 s, so that nothing can hang here.
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

/// How many forks lie between the first process and this one.  A lock that was taken under another number has an owner
/// that does not exist here.
inline std::uint32_t fork_generation() { return ForkGate::generation(); }

/// While one of these lives, on any thread, this process does not fork.  Making one while a fork is being prepared
/// waits until that is done.
///
/// The thread that makes one does not wait for Python's global lock meanwhile: the thread that forks may have it, and
/// waits for this one.  So it either keeps the lock all the time, or has released it; whoever must take it back leaves
/// the gate with a Leave first.  One thread may nest them.
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

  /// Whether the calling thread has one.
  static bool here() { return depth_ > 0; }

  /// While one of these lives, the calling thread has no NoFork, however many it had.
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
