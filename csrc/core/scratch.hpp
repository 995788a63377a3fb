/// Memory for intermediate results that a thread keeps from call to call: fresh memory of this size would come from the
/// system page by page, which takes longer than the work in it.
#pragma once

#include <cstddef>
#include <new>
#include <utility>
#include <vector>

namespace fastopt {

/// Room for so many numbers, with whatever is in it.
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
    constexpr std::size_t kMost = 32 << 20;  // bytes, of each that is kept
    if (room_.empty() || room_.size() * sizeof(T) > kMost) return;
    try {
      spare_.push_back(std::move(room_));
    } catch (const std::bad_alloc&) {  // then it is not kept
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
