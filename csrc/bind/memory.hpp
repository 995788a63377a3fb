/// Memory of NumPy arrays from the cache of freed blocks.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

namespace fastopt {

namespace py = pybind11;

/// While one of these lives, NumPy takes the memory of new arrays from the cache, if arrays of so many bytes may be kept
/// there and nobody has given NumPy another handler.  Needs the global lock.
class FromCache {
 public:
  explicit FromCache(std::size_t bytes);
  ~FromCache();
  FromCache(const FromCache&) = delete;
  FromCache& operator=(const FromCache&) = delete;

 private:
  py::object before_;  ///< the handler that there was, if it has been replaced
};

}  // namespace fastopt
