/// Scratch buffers for intermediate results.  A thread keeps them from call to call, because the system would hand out
/// fresh memory of this size page by page, which takes longer than the work in it.
#pragma once

#include <cstddef>
#include <new>
#include <utility>
#include <vector>

namespace fastopt {

/// A buffer of `size` numbers whose contents are undefined.
template <class T> class Scratch {
 public:
  explicit Scratch(std::size_t size) {
    if (size == 0) return;
    if (!spare_.empty()) {
      room_ = std::move(spare_.back());
      spare_.pop_back();
    }
    if (room_.size() < size) {
      room_.clear();  // so that nothing is copied
      room_.resize(size);
    }
  }
  ~Scratch() {
    constexpr std::size_t kMost = 32 << 20;  // bytes of a buffer that is kept
    if (room_.empty() || room_.size() * sizeof(T) > kMost) return;
    try {
      spare_.push_back(std::move(room_));
    } catch (const std::bad_alloc&) {  // the buffer is freed instead
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() const { return const_cast<T*>(room_.data()); }

 private:
  std::vector<T> room_;
  static inline thread_local std::vector<std::vector<T>> spare_;
};

}  // namespace fastopt
