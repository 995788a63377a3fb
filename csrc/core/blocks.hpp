/// Large blocks of memory that are kept when they are freed and given out again.
///
/// malloc gives blocks of this size back to the system and takes them anew: the next owner pays a page fault for every
/// 4 KiB, which takes longer than a kernel's work in them.
#pragma once

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#include "core/threads/fork.hpp"

namespace fastopt {

/// The blocks of one process.  Any thread may take and give blocks.
///
/// A block is malloc's, of malloc_usable_size bytes, and may be freed or enlarged by malloc: nothing is kept about
/// blocks that are in use.  Sizes are rounded up to one of eight between two powers of two, and a block serves requests
/// that round to its size only: at most an eighth of it is unused.  Fresh blocks start on a cache line.
class BlockCache {
 public:
  /// glibc's malloc takes blocks from this size on from the system, until the first of them has been freed.
  static constexpr std::size_t smallest = 128 << 10;

  /// The cache, which is never destroyed: arrays may be freed while the process ends.
  static BlockCache& get() {
    static BlockCache& cache = *new BlockCache;
    return cache;
  }

  /// Whether blocks of this size are kept.
  bool keeps(std::size_t size) const { return size >= smallest && size <= limit(); }

  /// A block of at least `size` bytes with anything in it, or null where there is no memory.
  void* take(std::size_t size) {
    if (!keeps(size)) return allocate(size);
    const std::size_t rounded = round_up(size);
    if (void* const block = find(rounded)) return block;
    return allocate(rounded);
  }

  /// The same, full of zeros.
  void* take_zeros(std::size_t size) {
    const std::size_t rounded = keeps(size) ? round_up(size) : size;
    if (void* const block = keeps(size) ? find(rounded) : nullptr) return std::memset(block, 0, size);
    const auto zeros = [&] { return mapped(rounded, [&] { return std::calloc(rounded, 1); }); };
    void* block = zeros();  // the system's pages are zeros already
    if (block == nullptr && release() > 0) block = zeros();
    advise(block, rounded);
    return block;
  }

  /// Enlarges or shrinks a block, which may move; null, and the block as it was, where there is no memory.
  void* resize(void* block, std::size_t size) {
    do
      if (void* const moved = std::realloc(block, size)) return moved;
    while (release() > 0);
    return nullptr;
  }

  /// Takes a block back.  It stays here, and as long as there is too much here the oldest one leaves.
  void give(void* block) {
    const std::size_t usable = block == nullptr ? 0 : malloc_usable_size(block);
    if (!keeps(usable)) return std::free(block);
    void* oldest = nullptr;
    {
      const NoFork guard;
      const std::lock_guard lock(mutex_);
      if (blocks_.size() == most_blocks) oldest = remove(0).memory;
      blocks_.push_back({block, round_down(usable), usable});
      bytes_.store(bytes() + usable, std::memory_order_relaxed);
    }
    std::free(oldest);
    shrink(limit());
  }

  /// Frees all blocks that are kept.  Returns how many bytes they had.
  std::size_t release() { return shrink(0); }

  /// Whether glibc's malloc takes blocks of 32 MiB and more, the largest threshold that it accepts, from the system one by
  /// one.  Otherwise they are in its heap, where small blocks keep the free ones around them apart; those that are taken
  /// here come from the system all the same, so that it gets their memory back.
  void set_malloc_maps([[maybe_unused]] bool maps) {
#if defined(__GLIBC__)
    const NoFork guard;
    const std::lock_guard lock(malloc_);
    mallopt(M_MMAP_MAX, maps ? usual_maps : 0);
    malloc_maps_.store(maps, std::memory_order_relaxed);
#endif
  }

  /// How many bytes may be kept.
  std::size_t limit() const { return limit_.load(std::memory_order_relaxed); }
  void set_limit(std::size_t limit) {
    limit_.store(limit, std::memory_order_relaxed);
    shrink(limit);
  }

  /// How many bytes are kept.
  std::size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

  /// Whether the system is asked for huge pages, as NumPy does for its own arrays.
  void set_huge_pages(bool wanted) { huge_pages_.store(wanted, std::memory_order_relaxed); }

 private:
  struct Block {
    void* memory;
    std::size_t rounded, usable;
  };

  BlockCache() { blocks_.reserve(most_blocks); }

  /// Multiples of an eighth of the power of two below.
  static std::size_t round_up(std::size_t size) {
    const std::size_t step = std::bit_floor(size) / 8;
    return (size + step - 1) / step * step;
  }
  static std::size_t round_down(std::size_t size) {
    const std::size_t step = std::bit_floor(size) / 8;
    return size / step * step;
  }

  /// The block of this size that was freed last, whose memory is most likely in a cache of the processor; or null.
  void* find(std::size_t rounded) {
    const NoFork guard;
    const std::lock_guard lock(mutex_);
    for (std::size_t i = blocks_.size(); i-- > 0;)
      if (blocks_[i].rounded == rounded) return remove(i).memory;
    return nullptr;
  }

  /// Under the lock.
  Block remove(std::size_t i) {
    const Block block = blocks_[i];
    blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(i));
    bytes_.store(bytes() - block.usable, std::memory_order_relaxed);
    return block;
  }

  /// Frees the oldest blocks until there are no more bytes than that.  Returns how many bytes they had.
  std::size_t shrink(std::size_t limit) {
    std::size_t freed = 0;
    while (bytes() > limit) {
      Block oldest{};
      {
        const NoFork guard;
        const std::lock_guard lock(mutex_);
        if (bytes() > limit) oldest = remove(0);
      }
      std::free(oldest.memory);  // which takes long, so others need not wait
      freed += oldest.usable;
    }
    return freed;
  }

  /// Calls take() for a block of so many bytes.
  template <class Take> void* mapped([[maybe_unused]] std::size_t size, const Take& take) {
#if defined(__GLIBC__)
    constexpr std::size_t least = 32 << 20;
    if (size >= least && !malloc_maps_.load(std::memory_order_relaxed)) {
      const NoFork guard;
      const std::lock_guard lock(malloc_);
      if (malloc_maps_.load(std::memory_order_relaxed)) return take();
      mallopt(M_MMAP_MAX, usual_maps);
      void* const block = take();
      mallopt(M_MMAP_MAX, 0);
      return block;
    }
#endif
    return take();
  }

  void* allocate(std::size_t size) {
    constexpr std::size_t line = 64;
    const std::size_t whole = (size + line - 1) / line * line;
    const auto lines = [&] { return mapped(whole, [&] { return std::aligned_alloc(line, whole); }); };
    void* block = lines();
    if (block == nullptr && release() > 0) block = lines();
    advise(block, size);
    return block;
  }

  void advise(void* block, std::size_t size) const {
    constexpr std::size_t least = 4 << 20;  // NumPy's
    if (block == nullptr || size < least || !huge_pages_.load(std::memory_order_relaxed)) return;
    static const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<std::uintptr_t>(block), first = (begin + page - 1) / page * page;
    madvise(reinterpret_cast<void*>(first), begin + size - first, MADV_HUGEPAGE);
  }

  static constexpr std::size_t most_blocks = 512;  // they are searched one by one
#if defined(__SANITIZE_ADDRESS__)
  static constexpr std::size_t usual_limit = 0;  // it sees the use of freed memory only if that is not given out again
#else
  static constexpr std::size_t usual_limit = 256 << 20;
#endif

  static constexpr int usual_maps = 65536;  // glibc's

  std::mutex mutex_, malloc_;
  std::vector<Block> blocks_;  // the oldest first; never longer than what is reserved
  std::atomic<std::size_t> bytes_{0}, limit_{usual_limit};
  std::atomic<bool> huge_pages_{true}, malloc_maps_{true};
};

}  // namespace fastopt
