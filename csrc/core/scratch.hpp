/// Scratch buffers for intermediate results.  A thread keeps them from call to call, because the system would hand out
/// fresh memory of this size page by page, which takes longer than the work in it.
#pragma once

#include <cstddef>
#include <memory>

namespace fastopt {

/// The memory of a buffer.  Its functions are in a file of their own, so that kernels have no copies of them.
class ScratchMemory {
 public:
  explicit ScratchMemory(std::size_t bytes);
  ~ScratchMemory();
  ScratchMemory(const ScratchMemory&) = delete;
  ScratchMemory& operator=(const ScratchMemory&) = delete;

  void* data() const { return buffer_.memory.get(); }

 private:
  struct Buffer {
    std::unique_ptr<std::byte[]> memory;
    std::size_t bytes = 0;
  };

  Buffer buffer_;
  struct Spares;
};

/// A buffer of `size` numbers whose contents are undefined.
template <class T> class Scratch {
 public:
  explicit Scratch(std::size_t size) : memory_(size * sizeof(T)) {}

  T* data() const { return static_cast<T*>(memory_.data()); }

 private:
  ScratchMemory memory_;
};

}  // namespace fastopt
