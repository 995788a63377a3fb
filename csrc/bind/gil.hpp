/// Python's lock, released while kernels run.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

namespace fastopt {

/// Blocks this thread for the rest of the process.
[[noreturn]] inline void block_forever() {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

/// As long as an object of this class lives, the calling thread does not hold Python's lock.
///
/// A daemon thread that asks for the lock when the interpreter has begun to shut down never gets it.  CPython 3.14 blocks
/// such a thread.  Older ones end it with pthread_exit, which unwinds the stack like an exception that must not be caught
/// for good: destructors of Python's objects would run without the lock, and the first noexcept function, such as the
/// destructor here, would call std::terminate.  So the thread is blocked here.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      block_forever();
    }
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace fastopt
