/// The scratch buffers that a thread keeps.
#include "core/scratch.hpp"

#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace fastopt {

struct ScratchMemory::Spares {
  static inline thread_local std::vector<Buffer> all;
};

ScratchMemory::ScratchMemory(std::size_t bytes) {
  if (bytes == 0) return;
  std::vector<Buffer>& spares = Spares::all;
  for (std::size_t i = spares.size(); i-- > 0;)
    if (spares[i].bytes >= bytes) {
      std::swap(spares[i], spares.back());
      buffer_ = std::move(spares.back());
      spares.pop_back();
      return;
    }
  if (!spares.empty()) spares.pop_back();  // it is too small
  buffer_.memory = std::make_unique_for_overwrite<std::byte[]>(bytes);
  buffer_.bytes = bytes;
}

ScratchMemory::~ScratchMemory() {
  constexpr std::size_t kMost = 32 << 20;  // bytes of a buffer that is kept
  if (buffer_.memory == nullptr || buffer_.bytes > kMost) return;
  try {
    Spares::all.push_back(std::move(buffer_));
  } catch (const std::bad_alloc&) {  // the buffer is freed instead
  }
}

}  // namespace fastopt
