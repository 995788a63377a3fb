/// Python objects that the bindings look up once.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>

namespace fastopt {

namespace py = pybind11;

/// An object that is looked up when it is first needed, and then kept as long as the process lives.
///
/// It takes the place of a static variable of a function.  The initialization of such a variable holds a lock, and Python code
/// that runs in it may hand Python's lock to a thread that then waits for the variable's: neither goes on.  Here two threads may
/// look up the same object at once, and one of the two is kept.
class Once {
 public:
  constexpr Once() = default;
  Once(const Once&) = delete;
  Once& operator=(const Once&) = delete;

  template <class Find> py::handle get(Find&& find) {
    if (PyObject* const known = object_.load(std::memory_order_acquire)) return known;
    py::object found = find();
    PyObject* first = nullptr;
    if (!object_.compare_exchange_strong(first, found.ptr(), std::memory_order_acq_rel)) return first;
    return found.release();
  }

 private:
  std::atomic<PyObject*> object_ = nullptr;
};

}  // namespace fastopt
