/// Lazy steps: the rows that occur in a sparse gradient are updated where they lie, the others are left alone.
///
/// A row's update is the rule's own loop over a block that is the row.  Rows lie anywhere in memory, so that the
/// processor cannot follow them: they are prefetched some rows ahead.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "core/scratch.hpp"
#include "core/simd.hpp"
#include "core/threads/parallel.hpp"
#include "optim/blocks.hpp"
#include "optim/gather.hpp"
#include "optim/tensor.hpp"

namespace fastopt {

/// Brings the memory of rows closer that are to be updated soon.
class RowPrefetcher {
 public:
  explicit RowPrefetcher(const Tensor& tensor) : sparse_(*tensor.sparse) {
    const Storage* const storage = tensor.storage;
    const auto add = [&](const void* array, std::size_t itemsize) { written_[many_++] = {array, itemsize}; };
    const auto add_stored = [&](const void* exact, const StoredArray& stored) {
      if (stored.format == Format::exact)
        add(exact, tensor.kernel->itemsize);
      else
        add(stored.numbers, stored.format == Format::float16 || stored.format == Format::bfloat16 ? 2 : 1);
    };
    add_stored(tensor.param, storage == nullptr ? StoredArray{} : storage->param);
    if (storage != nullptr && storage->master != nullptr) add(storage->master, sizeof(float));
    for (std::size_t s = 0; s < tensor.kernel->states; ++s)
      add_stored(tensor.state[s], storage == nullptr ? StoredArray{} : storage->state[s]);
    value_bytes_ = sparse_.layout != nullptr ? 0 : sparse_.format == Format::exact ? tensor.kernel->itemsize : 2;
  }

  /// Number k of the rows that occur.  Inlined, as all of it must be: GCC takes a function that does nothing but
  /// prefetch for one without effects, and leaves its calls out.
  [[gnu::always_inline]] void prefetch_row(std::size_t k) const {
    const std::size_t begin = sparse_.row(k) * sparse_.width;
    for (std::size_t a = 0; a < many_; ++a)
      lines<true>(written_[a].data, begin * written_[a].itemsize, sparse_.width * written_[a].itemsize);
    if (value_bytes_ != 0)
      for (std::size_t place = sparse_.first[k]; place < sparse_.first[k + 1]; ++place)
        lines<false>(sparse_.values, sparse_.places[place].at * sparse_.width * value_bytes_,
                     sparse_.width * value_bytes_);
  }

 private:
  struct Array {
    const void* data;
    std::size_t itemsize;
  };

  template <bool Write>
  [[gnu::always_inline]] static void lines(const void* array, std::size_t begin, std::size_t bytes) {
    constexpr std::size_t kLine = 64, kMost = 1024;  // along a longer row the processor goes by itself
    const auto address = reinterpret_cast<std::uintptr_t>(array) + begin;
    const std::size_t end = address % kLine + std::min(bytes, kMost);
    for (std::size_t i = 0; i < end; i += kLine)
      __builtin_prefetch(reinterpret_cast<const void*>(address - address % kLine + i), Write ? 1 : 0, 3);
  }

  const SparseRows& sparse_;
  std::array<Array, 2 + kMostStates> written_;
  std::size_t many_ = 0, value_bytes_;
};

/// Updates the rows with numbers [range) of those that occur.
template <class T, class Access> void update_rows(const Tensor& tensor, Range range, Access&& access) {
  const SparseRows& sparse = *tensor.sparse;
  const RowPrefetcher prefetcher(tensor);
  RowReader<T> gradient(sparse);
  for (std::size_t k = range.begin; k < std::min(range.begin + kRowsAhead, range.end); ++k) prefetcher.prefetch_row(k);
  for (std::size_t k = range.begin; k < range.end; ++k) {
    if (k + kRowsAhead < range.end) prefetcher.prefetch_row(k + kRowsAhead);
    const std::size_t begin = sparse.row(k) * sparse.width, end = begin + sparse.width;
    for (std::size_t at = begin, n; at < end; at += n) {
      n = access.size(at, end);
      Block block = access.open(at, n);
      block.grad = gradient.read(k, at - begin, n);
      tensor.kernel->update(tensor, block, false);
      access.close(block);
    }
  }
}

/// Updates the rows that elements [range) of those that occur are.
inline void update_lazily(const Tensor& tensor, Range range) {
  range = {range.begin / tensor.sparse->width, range.end / tensor.sparse->width};
  if (tensor.packed()) {
    alignas(64) float room[Decoded::kArrays * kDecoded];
    update_rows<float>(tensor, range, Decoded(tensor, kDecoded, room));
  } else if (tensor.kernel->itemsize == sizeof(float)) {
    update_rows<float>(tensor, range, AsComputed(tensor));
  } else {
    update_rows<double>(tensor, range, AsComputed(tensor));
  }
}

/// Σg² of the elements [range) of the rows that occur, at most a chunk.
template <class T> void square_rows(const Tensor& tensor, Range range, double* sum) {
  const Scratch<T> room(kChunk);
  const std::size_t n = range.end - range.begin;
  RowReader<T>(*tensor.sparse).copy(range.begin, n, room.data());
  tensor.kernel->square(tensor, Block{range.begin, n, nullptr, room.data(), {}}, false, sum);
}

}  // namespace fastopt
