/// A memory handler for NumPy's arrays (NEP 49) that keeps large blocks, and glibc's own thresholds.
///
/// An array keeps the handler that it was made with, and gives its memory back to it, on whatever thread, also while the
/// interpreter ends: so the handler and what it needs are never freed.  Python imports this module in its main
/// interpreter only, as it does NumPy.
#include "bind/memory.hpp"
#include "bind/gil.hpp"

#include <dlfcn.h>
#include <malloc.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cstdint>
#include <vector>

#include "bind/module.hpp"
#include "bind/once.hpp"
#include "core/blocks.hpp"

namespace fastopt {
namespace {

/// NumPy's PyDataMem_Handler, whose layout is part of its ABI.
struct MemoryHandler {
  char name[127];
  std::uint8_t version;
  struct {
    void* context;
    void* (*malloc)(void* context, std::size_t size);
    void* (*calloc)(void* context, std::size_t count, std::size_t size);
    void* (*realloc)(void* context, void* block, std::size_t size);
    void (*free)(void* context, void* block, std::size_t size);
  } allocator;
};

/// NumPy's functions for handlers, and its own handler.
struct NumpyMemory {
  PyObject* (*set_handler)(PyObject*);
  PyObject* (*get_handler)();
  PyObject* default_handler;
  const MemoryHandler* plain;  ///< the same; its blocks are malloc's, those below 1 KiB from lists of its own

  static const NumpyMemory& get() {
    static constinit std::atomic<const NumpyMemory*> functions = nullptr;  // for the reason that is given in once.hpp
    if (const NumpyMemory* const known = functions.load(std::memory_order_acquire)) return *known;
    const py::object capsule = py::module_::import("numpy._core.multiarray").attr("_ARRAY_API");
    void** const table = static_cast<void**>(PyCapsule_GetPointer(capsule.ptr(), nullptr));
    if (table == nullptr) throw py::error_already_set();
    // Numbers of entries never change.
    const auto own = *static_cast<PyObject**>(table[306]);
    const auto plain = static_cast<const MemoryHandler*>(PyCapsule_GetPointer(own, "mem_handler"));
    if (plain == nullptr) throw py::error_already_set();
    const auto* const found = new NumpyMemory{reinterpret_cast<PyObject* (*)(PyObject*)>(table[304]),
                                              reinterpret_cast<PyObject* (*)()>(table[305]), own, plain};
    functions.store(found, std::memory_order_release);
    return *found;
  }
};

// Small blocks are NumPy's own.  The sizes that NumPy passes are not needed to tell whose a block is: all are malloc's,
// so that each of the two may free the other's.

const MemoryHandler& plain() { return *NumpyMemory::get().plain; }

void* handler_malloc(void*, std::size_t size) {
  if (size >= BlockCache::smallest) return BlockCache::get().take(size);
  return plain().allocator.malloc(plain().allocator.context, size);
}

void* handler_calloc(void*, std::size_t count, std::size_t size) {
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(count, size, &bytes)) return nullptr;
  if (bytes >= BlockCache::smallest) return BlockCache::get().take_zeros(bytes);
  return plain().allocator.calloc(plain().allocator.context, count, size);
}

void* handler_realloc(void*, void* block, std::size_t size) { return BlockCache::get().resize(block, size); }

void handler_free(void*, void* block, std::size_t size) {
  if (size >= BlockCache::smallest) return BlockCache::get().give(block);
  plain().allocator.free(plain().allocator.context, block, size);
}

/// The handler, as NumPy takes it.
PyObject* handler() {
  static MemoryHandler its{"fastopt", 1, {nullptr, handler_malloc, handler_calloc, handler_realloc, handler_free}};
  static constinit Once capsule;
  const auto make = [] {
    PyObject* const made = PyCapsule_New(&its, "mem_handler", nullptr);
    if (made == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(made);
  };
  return capsule.get(make).ptr();
}

py::object current_handler() {
  PyObject* const current = NumpyMemory::get().get_handler();
  if (current == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(current);
}

py::object set_handler(PyObject* capsule) {
  PyObject* const before = NumpyMemory::get().set_handler(capsule);
  if (before == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(before);
}

/// Whether malloc is glibc's, and not that of a library that was loaded before it.
bool malloc_is_glibc() {
#if defined(__GLIBC__)
  Dl_info of_malloc, of_mallopt;
  void *const its = dlsym(RTLD_DEFAULT, "malloc"), *const other = dlsym(RTLD_DEFAULT, "mallopt");
  return its != nullptr && other != nullptr && dladdr(its, &of_malloc) != 0 && dladdr(other, &of_mallopt) != 0 &&
         of_malloc.dli_fbase == of_mallopt.dli_fbase;
#else
  return false;
#endif
}

/// Sets whether malloc takes the largest blocks from the system one by one, and how much free memory at the end of its heap
/// it keeps.
bool set_malloc([[maybe_unused]] bool maps, [[maybe_unused]] int kept) {
  if (!malloc_is_glibc()) return false;
#if defined(__GLIBC__)
  constexpr int largest = 32 << 20;
  if (mallopt(M_MMAP_THRESHOLD, largest) == 0 || mallopt(M_TRIM_THRESHOLD, kept) == 0) return false;
  BlockCache::get().set_malloc_maps(maps);
  return true;
#else
  return false;
#endif
}

void trim_malloc() {
#if defined(__GLIBC__)
  if (malloc_is_glibc()) malloc_trim(0);
#endif
}

/// While one of these lives, NumPy takes the memory of new arrays from the cache, if arrays of so many bytes may be kept
/// there and nobody has given NumPy another handler.  Needs the global lock.
class FromCache {
 public:
  explicit FromCache(std::size_t bytes) {
    if (!BlockCache::get().keeps(bytes)) return;
    if (current_handler().ptr() == NumpyMemory::get().default_handler) before_ = set_handler(handler());
  }
  ~FromCache() {
    if (!before_) return;
    PyObject* const ours = NumpyMemory::get().set_handler(before_.ptr());
    if (ours == nullptr) PyErr_WriteUnraisable(nullptr);
    Py_XDECREF(ours);
  }
  FromCache(const FromCache&) = delete;
  FromCache& operator=(const FromCache&) = delete;

 private:
  py::object before_;  ///< the handler that there was, if it has been replaced
};

}  // namespace

py::array fresh_array(const py::dtype& dtype, const std::vector<py::ssize_t>& shape,
                      const std::vector<py::ssize_t>& strides) {
  auto bytes = static_cast<std::size_t>(dtype.itemsize());
  for (const py::ssize_t count : shape) bytes *= static_cast<std::size_t>(count);
  const FromCache memory(bytes);
  return strides.empty() ? py::array(dtype, shape) : py::array(dtype, shape, strides);
}

void bind_memory(py::module_& m) {
  m.def(
      "empty", [](const std::vector<py::ssize_t>& shape, const py::dtype& dtype) { return fresh_array(dtype, shape); },
      py::arg("shape"), py::arg("dtype"),
      "A new array with anything in it; a large one has its memory from the cache.");
  m.def(
      "cache_arrays",
      [](bool cached) {
        const NumpyMemory& numpy = NumpyMemory::get();
        PyObject *const from = cached ? numpy.default_handler : handler(), *const to = cached ? handler()
                                                                                              : numpy.default_handler;
        const bool replaced = current_handler().ptr() == from;
        if (replaced) set_handler(to);
        return replaced;
      },
      py::arg("cached"),
      "Whether new arrays of this context take their memory from the cache from now on, and did not before, or the "
      "reverse.");
  m.def(
      "are_arrays_cached", [] { return current_handler().ptr() == handler(); },
      "Whether new arrays of this context take their memory from the cache.");
  m.def("cache_limit", [] { return BlockCache::get().limit(); }, "How many bytes of freed blocks may be kept.");
  m.def(
      "set_cache_limit", [](std::size_t bytes) { BlockCache::get().set_limit(bytes); }, py::arg("bytes"),
      "Sets how many bytes of freed blocks may be kept.");
  m.def("cached_bytes", [] { return BlockCache::get().bytes(); }, "How many bytes of freed blocks are kept.");
  m.def(
      "ask_for_huge_pages", [](bool wanted) { BlockCache::get().set_huge_pages(wanted); }, py::arg("wanted"),
      "Whether large blocks ask for huge pages.");
  m.def(
      "release_blocks", [] { return BlockCache::get().release(); }, py::call_guard<WithoutGil>(),
      "Frees all blocks that are kept; how many bytes they had.");
  m.def(
      "set_malloc", &set_malloc, py::arg("maps"), py::arg("kept"),
      "Sets whether glibc's malloc maps the largest blocks one by one, and how many free bytes at the end of its heap "
      "it keeps; False where malloc is another one.");
  m.def("trim_malloc", &trim_malloc, py::call_guard<WithoutGil>(),
        "Has glibc's malloc give free memory back to the system.");
}

}  // namespace fastopt
