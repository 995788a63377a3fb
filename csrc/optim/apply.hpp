/// Sums, updates and zeroing of lists of tensors, with all threads.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <vector>

#include "core/cost.hpp"
#include "core/threads/parallel.hpp"
#include "optim/blocks.hpp"
#include "optim/lazy.hpp"
#include "optim/packed.hpp"
#include "optim/sums.hpp"
#include "optim/tensor.hpp"

namespace fastopt {

/// Cuts tensors into parts of part(tensor) elements and calls body(tensor, range) in one parallel region.  A thread
/// gets all of its parts of a tensor in one call.
template <class Part, class Body>
void for_parts(const std::vector<Tensor>& tensors, double nanoseconds, const Part& part, const Body& body) {
  const auto parts_of = [&](const Tensor& tensor) { return (tensor.work() + part(tensor) - 1) / part(tensor); };
  std::size_t parts = 0;
  for (const Tensor& tensor : tensors) parts += parts_of(tensor);
  parallel(threads_for(nanoseconds), [&](int thread, int threads) {
    Range mine = share(parts, thread, threads);
    for (const Tensor& tensor : tensors) {
      if (mine.begin >= mine.end) break;
      const std::size_t here = parts_of(tensor), size = part(tensor);
      if (mine.begin < here) body(tensor, Range{mine.begin * size, std::min(mine.end * size, tensor.work())});
      mine.begin -= std::min(mine.begin, here);
      mine.end -= std::min(mine.end, here);
    }
  });
}

/// K sums over each tensor: sums[K·i + k].  part(tensor, chunk, sums) takes the sums of a chunk; the chunks are then
/// added in order.
template <class Part>
std::vector<double> sums_over(const std::vector<Tensor>& tensors, std::size_t k, double nanoseconds, Part&& part) {
  std::vector<std::size_t> first;  // the first chunk of each tensor
  std::size_t chunks = 0;
  for (const Tensor& tensor : tensors) {
    first.push_back(chunks);
    chunks += (tensor.work() + kChunk - 1) / kChunk;
  }
  std::vector<double> of_chunk(chunks * k), sums(tensors.size() * k);
  for_parts(
      tensors, nanoseconds, [](const Tensor&) { return kChunk; },
      [&](const Tensor& tensor, Range range) {
        const std::size_t base = first[static_cast<std::size_t>(&tensor - tensors.data())];
        for (std::size_t at = range.begin; at < range.end; at += kChunk)
          part(tensor, Range{at, std::min(at + kChunk, range.end)}, of_chunk.data() + (base + at / kChunk) * k);
      });
  for (std::size_t i = 0; i < tensors.size(); ++i)
    for (std::size_t c = first[i]; c < (i + 1 < first.size() ? first[i + 1] : chunks); ++c)
      for (std::size_t j = 0; j < k; ++j) sums[i * k + j] += of_chunk[c * k + j];
  return sums;
}

/// Σg² of each tensor.
inline std::vector<double> squared_norms(const std::vector<Tensor>& tensors) {
  double bytes = 0;
  for (const Tensor& tensor : tensors) bytes += static_cast<double>(tensor.work() * tensor.kernel->itemsize);
  return sums_over(tensors, 1, bytes * kStepPerByte, [](const Tensor& tensor, Range chunk, double* sum) {
    if (tensor.lazy())
      return tensor.kernel->itemsize == sizeof(float) ? square_rows<float>(tensor, chunk, sum)
                                                      : square_rows<double>(tensor, chunk, sum);
    const Block block =
        tensor.packed() ? Reader(tensor, kChunk).read(chunk) : tensor.exact_block(chunk.begin, chunk.end);
    tensor.kernel->square(tensor, block, false, sum);
  });
}

/// Whether a gradient with this Σg² is finite.  The squares of float32 do not overflow in double; those of doubles may.
inline bool is_finite(const Tensor& tensor, double square) {
  if (std::isfinite(square)) return true;
  return tensor.kernel->itemsize == sizeof(double) && is_finite(tensor, static_cast<const double*>(tensor.grad));
}

/// Σg² and Σp² of each unit, tensor after tensor.
inline std::vector<std::array<double, 2>> squared_norms_of_units(const std::vector<Tensor>& tensors) {
  std::vector<std::size_t> first;  // the first unit of each tensor
  std::size_t units = 0;
  double bytes = 0;
  for (const Tensor& tensor : tensors) {
    first.push_back(units);
    units += tensor.size / tensor.unit;
    bytes += static_cast<double>(2 * tensor.size * tensor.kernel->itemsize);
  }
  std::vector<std::array<double, 2>> sums(units);
  for_parts(
      tensors, bytes * kStepPerByte, [](const Tensor& tensor) { return tensor.unit; },
      [&](const Tensor& tensor, Range range) {
        const std::size_t base = first[static_cast<std::size_t>(&tensor - tensors.data())];
        const Reader reader(tensor, std::min(kChunk, tensor.unit));
        for (std::size_t at = range.begin; at < range.end;) {
          auto& sum = sums[base + at / tensor.unit];
          for (const std::size_t end = at + tensor.unit; at < end; at = std::min(at + kChunk, end)) {
            const Range chunk{at, std::min(at + kChunk, end)};
            const Block block = reader.read(chunk);
            for (const bool of_param : {false, true}) {
              double part;
              tensor.kernel->square(tensor, block, of_param, &part);
              sum[of_param] += part;
            }
          }
        }
      });
  return sums;
}

/// The sums that the rules ask for: sums[kMostSums·i + k].
inline std::vector<double> measured(const std::vector<Tensor>& tensors) {
  double bytes = 0;
  for (const Tensor& tensor : tensors)
    if (tensor.kernel->sums != 0) bytes += static_cast<double>(tensor.size) * tensor.kernel->bytes;
  return sums_over(tensors, kMostSums, bytes * kStepPerByte, [](const Tensor& tensor, Range chunk, double* sums) {
    if (tensor.kernel->sums != 0) tensor.kernel->measure(tensor, Reader(tensor, kChunk).read_all(chunk), sums);
  });
}

/// The last part of a step: updates all tensors.
inline void update(const std::vector<Tensor>& tensors) {
  double bytes = 0;
  for (const Tensor& tensor : tensors) bytes += static_cast<double>(tensor.work()) * tensor.kernel->bytes;
  const bool far = bytes > kCachedStep && prefetching_streams_pays();
  for_parts(
      tensors, bytes * kStepPerByte,
      [](const Tensor& tensor) {
        return tensor.lazy() ? std::max<std::size_t>(tensor.sparse->width, 1) : tensor.packed() ? kSegment : kGrain;
      },
      [far](const Tensor& tensor, Range range) {
        if (tensor.lazy()) return update_lazily(tensor, range);
        tensor.packed() ? update_any_packed(tensor, range) : update_blocks(tensor, range, far, AsComputed(tensor));
      });
}

/// Sets all gradients to zero.
inline void zero(const std::vector<Tensor>& tensors) {
  double bytes = 0;
  for (const Tensor& tensor : tensors) bytes += static_cast<double>(tensor.size * tensor.kernel->itemsize);
  for_parts(
      tensors, bytes * kStepPerByte, [](const Tensor&) { return kGrain; },
      [](const Tensor& tensor, Range range) {
        if (tensor.zero) zero_gradient(tensor, range);
      });
}

}  // namespace fastopt
