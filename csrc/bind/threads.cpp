/// Thread counts, lending the pool to BLAS, and fork.  python/fastopt/_threads.py decides which libraries borrow the
/// threads.
#include <dlfcn.h>
#include <omp.h>
#include <pthread.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bind/gil.hpp"
#include "bind/module.hpp"
#include "core/threads/fork.hpp"
#include "core/threads/lend.hpp"
#include "core/threads/team.hpp"

namespace py = pybind11;

namespace fastopt {
namespace {

/// The Python function that the first parallel region calls.  It is never freed, because a thread may call it while the
/// interpreter shuts down.
PyObject* hook = nullptr;

void call_hook() {
  if (!Py_IsInitialized()) return;
  std::optional<py::gil_scoped_acquire> gil;
  PyObject* result = nullptr;
  try {
    gil.emplace();
    result = PyObject_CallNoArgs(hook);
  } catch (const std::exception&) {
    throw;
  } catch (...) {  // see WithoutGil; the destructor of `gil` would take the lock's state from the thread that has it
    block_forever();
  }
  if (result == nullptr) py::error_already_set().discard_as_unraisable("fastopt");
  Py_XDECREF(result);
}

std::string openmp_path() {
  Dl_info info;
  return dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &info) != 0 && info.dli_fname != nullptr ? info.dli_fname
                                                                                                        : "";
}

/// The system's ids of the other threads that run Python, if they are known.
std::optional<std::vector<int>> python_threads() {
#if PY_VERSION_HEX >= 0x030B0000
  if (!Py_IsInitialized() || PyGILState_Check() == 0) return {};  // without the lock the list may change meanwhile
  std::vector<int> ids;
  const auto mine = static_cast<unsigned long>(gettid());
  for (PyThreadState* state = PyInterpreterState_ThreadHead(PyInterpreterState_Get()); state != nullptr;
       state = PyThreadState_Next(state))
    if (state->native_thread_id != mine) ids.push_back(static_cast<int>(state->native_thread_id));
  return ids;
#else
  return {};
#endif
}

/// The handlers of a fork of this process.  They are registered once for every library that borrows the threads,
/// because handlers registered last run first, and ours must run before the library's.  Only the first of ours acts.
struct Fork {
  static inline constinit thread_local int depth = 0;
  static inline bool idle = false;

  static void before() {
    if (depth++ > 0) return;
    ForkGate::close(NoFork::here());
    Lender::hold(python_threads());
    idle = end_workers();  // so that a child does not wait for threads that do not exist there
  }

  static void in_parent() {
    if (--depth > 0) return;
    Lender::release();
    ForkGate::open_in_parent();
  }

  /// A child runs on one thread until it is told otherwise, because it usually has as many siblings as there are cores.
  /// Its BLAS gets its own threads back.
  static void in_child() {
    if (--depth > 0) return;
    ForkGate::open_in_child(NoFork::here());
    Lender::renew();
    if (Lender::reclaim() > 0) before_first_region = &call_hook;
    stranded = !idle;
    ThreadCount::set(1, 1);
  }
};

void watch_forks() { pthread_atfork(&Fork::before, &Fork::in_parent, &Fork::in_child); }

/// The thread count of a new thread.
int fresh_count() {
  int count = 1;
  std::thread([&] { count = omp_get_max_threads(); }).join();
  return count;
}

}  // namespace

void bind_threads(py::module_& m) {
  watch_forks();

  m.def(
      "set_num_threads", [](int n) { ThreadCount::set(n, fresh_count()); }, py::arg("n"), py::call_guard<WithoutGil>(),
      "How many threads kernels use, in the whole process.");
  m.def(
      "get_num_threads", [] { return stranded ? 1 : ThreadCount::get(); },
      "How many threads kernels called by this thread use.");
  m.def(
      "swap_num_threads",
      [](int n) {
        const int before = ThreadCount::get();
        omp_set_num_threads(n);
        return before;
      },
      py::arg("n"), "How many threads kernels called by this thread use; returns the count before.");

  m.def(
      "before_first_region",
      [](const py::function& function) {
        Py_XSETREF(hook, function.inc_ref().ptr());
        before_first_region = &call_hook;
      },
      py::arg("function"), "Has `function` called once, before the next parallel region.");
  m.def(
      "pending", [] { return before_first_region != nullptr; },
      "Whether before_first_region() still has its call to come.");
  m.def("forget_first_region", [] { before_first_region = nullptr; }, "Undoes before_first_region().");

  m.def(
      "lend",
      [](std::uintptr_t install, int slots) {
        const bool lent = Lender::lend(reinterpret_cast<Lender::Install>(install), slots);
        if (lent) watch_forks();
        return lent;
      },
      py::arg("install"), py::arg("slots"), py::call_guard<WithoutGil>(),
      "Lends the threads to the OpenBLAS whose openblas_set_threads_callback_function is at address `install`.");
  m.def("expect_products", &Lender::expect_products,
        "Tells forks that this thread is going to call for products, whether threads are lent or not.");
  m.def("reclaim", &Lender::reclaim, py::call_guard<WithoutGil>(),
        "Gives every BLAS its own threads back; how many had ours.");
  m.def(
      "borrowed", [](std::uintptr_t install) { return Lender::borrowed(reinterpret_cast<Lender::Install>(install)); },
      py::arg("install"), py::call_guard<WithoutGil>(), "Whether that OpenBLAS has our threads now.");

  m.def(
      "openmp",
      [] {
        py::dict found;
        found["path"] = file_name(openmp_path());
        found["version"] = _OPENMP;
        found["num_threads"] = stranded ? 1 : ThreadCount::get();
        found["thread_limit"] = omp_get_thread_limit();
        found["dynamic"] = omp_get_dynamic() != 0;
        found["max_active_levels"] = omp_get_max_active_levels();
        found["stranded"] = stranded.load();
        return found;
      },
      "The OpenMP runtime in use and its settings, as seen by this thread.");
  m.def(
      "places",
      []() -> std::optional<std::vector<int>> {
        if (!places_are_chosen) return {};
        std::vector<int> cores;
        const bool one = omp_get_proc_bind() == omp_proc_bind_master;
        const int first = one ? std::max(omp_get_place_num(), 0) : 0, count = one ? 1 : omp_get_num_places();
        for (int place = first; place < first + count; ++place) {
          std::vector<int> some(static_cast<std::size_t>(omp_get_place_num_procs(place)));
          omp_get_place_proc_ids(place, some.data());
          cores.insert(cores.end(), some.begin(), some.end());
        }
        std::sort(cores.begin(), cores.end());
        cores.erase(std::unique(cores.begin(), cores.end()), cores.end());
        return cores;
      },
      "The cores of the places on which OpenMP puts the threads of a team; None where it lets them run anywhere.");
  m.def(
      "lending", [] { return std::pair(Lender::products.load(), Lender::helpers.load()); },
      "How many products the lent threads ran, and how many threads had to be made because a team was too small.");
  m.def(
      "team",
      [](int threads) {
        std::vector<int> ids(static_cast<std::size_t>(std::max(threads, 1)), 0);
        const auto sign = [&](int thread, int) {
          if (thread < threads) ids[static_cast<std::size_t>(thread)] = gettid();
        };
        threads > 1 && !stranded ? static_cast<void>(region(threads, sign)) : sign(0, 1);
        std::erase(ids, 0);
        return ids;
      },
      py::arg("threads"), py::call_guard<WithoutGil>(),
      "The system's ids of the threads that a region for `threads` ran on.");
}

}  // namespace fastopt
