/// Tensors that are not all kept as they are computed with.
///
/// Kernels know one type only.  What is kept with fewer bits is unpacked to float32, a few elements at a time: the
/// kernel works on these as on any memory, and what it has changed is packed again.  No rule knows of it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/formats.hpp"
#include "core/random.hpp"
#include "optim/step.hpp"

namespace fastopt {

/// A tensor as kernels see it, a range of elements at a time: they find its numbers where they expect them.
class Unpacked {
 public:
  static constexpr std::size_t kArrays = 2 + kMostStates;  ///< that may have to be unpacked
  static constexpr std::size_t kFew = 256;                 ///< elements that are best unpacked at once

  /// Ranges have at most `most` elements, a multiple of kShare; `room` is for kArrays times as many numbers.
  Unpacked(const Tensor& tensor, std::size_t most, float* room)
      : tensor_(tensor), seen_(tensor), room_(room), most_(most) {
    seen_.grad_format = Format::exact;
    if (tensor.grad_format != Format::exact) {
      grad_ = {Codec({tensor.grad_format, const_cast<void*>(tensor.grad)}, Rounding::nearest), buffer()};
      seen_.rows = nullptr;
      seen_.zero = false;
    }
    if (tensor.storage == nullptr) return;
    const Storage& storage = *tensor.storage;
    if (storage.param.format != Format::exact) {
      const bool random = storage.random_param && storage.master == nullptr;
      param_.codec = Codec(storage.param, random ? Rounding::high : Rounding::nearest);
      if (storage.master != nullptr)
        seen_.param = storage.master;
      else
        param_.buffer = buffer();
    }
    for (std::size_t s = 0; s < tensor.kernel->states; ++s)
      if (storage.state[s].format != Format::exact)
        states_[many_states_++] = {Codec(storage.state[s], !storage.random_state ? Rounding::nearest
                                                           : s % 2 == 0          ? Rounding::high
                                                                                 : Rounding::low),
                                   buffer(), s};
  }

  /// The tensor in which elements from `begin` on are unpacked, once they have been read.
  const Tensor& at(std::size_t begin) {
    begin_ = begin;
    if (grad_.buffer != nullptr) seen_.grad = as_if_from_0(grad_.buffer);
    if (param_.buffer != nullptr) seen_.param = as_if_from_0(param_.buffer);
    for (std::size_t k = 0; k < many_states_; ++k) seen_.state[states_[k].number] = as_if_from_0(states_[k].buffer);
    return seen_;
  }

  /// Whether the parameter and its gradient are bfloat16.
  bool halves() const {
    return tensor_.storage != nullptr && tensor_.storage->param.format == Format::bfloat16 &&
           tensor_.grad_format == Format::bfloat16 && tensor_.rows == nullptr;
  }

  /// The kernel's function for packed moments, if there is nothing to do but what that does.
  auto update_blocks() const -> decltype(Kernel::update_blocks)::value_type::value_type {
    if (tensor_.storage == nullptr || !tensor_.storage->random_state || seen_.shaped() ||
        tensor_.setting->around.finishes())
      return nullptr;
    for (const Kept& kept : tensor_.storage->state)
      if (kept.format != Format::exact) {
        const Packing packing = kept.format == Format::bfloat16 ? Packing::bfloat16 : Packing::blocks;
        return tensor_.kernel->update_blocks[static_cast<std::size_t>(packing)][halves()];
      }
    return nullptr;
  }

  /// Brings some elements from `at` on of a packed parameter and gradient closer.
  void prefetch(std::size_t at) const {
    const auto some = [at](const void* from, std::size_t itemsize) {
      for (std::size_t byte = at * itemsize; byte < (at + kFew) * itemsize; byte += 64)
        fastopt::prefetch<true>(static_cast<const char*>(from), byte);
    };
    if (grad_.buffer != nullptr && tensor_.rows == nullptr) some(tensor_.grad, 2);
    if (tensor_.storage == nullptr || tensor_.storage->param.format == Format::exact) return;
    some(tensor_.param, 2);
    if (tensor_.storage->master != nullptr) some(tensor_.storage->master, 4);
  }

  /// Reads elements [at, at + n) of the parameter and its gradient.
  void read(std::size_t at, std::size_t n) const {
    if (grad_.buffer != nullptr) {
      if (tensor_.rows == nullptr)
        grad_.codec.decode(at, n, grad_.buffer + (at - begin_));
      else
        read_rows(at, n);
    }
    if (param_.buffer != nullptr) param_.codec.decode(at, n, param_.buffer + (at - begin_));
  }

  /// Reads them with all their state; `at` is a multiple of kShare.
  void read_all(std::size_t at, std::size_t n) const {
    for (std::size_t k = 0; k < many_states_; ++k) states_[k].codec.decode(at, n, states_[k].buffer + (at - begin_));
    read(at, n);
  }

  /// Writes what read_all has read, after it has been changed.
  void write(std::size_t at, std::size_t n, const Thresholds& thresholds) const {
    for (std::size_t k = 0; k < many_states_; ++k)
      states_[k].codec.encode(at, n, states_[k].buffer + (at - begin_), thresholds.from(at, states_[k].number / 2));
    write_param(at, n, thresholds);
  }

  /// Writes the parameter only.
  void write_param(std::size_t at, std::size_t n, const Thresholds& thresholds) const {
    if (tensor_.storage != nullptr && tensor_.storage->param.format != Format::exact)
      param_.codec.encode(at, n, detail::element<float>(seen_.param, at), thresholds.from(at, 2));
  }

 private:
  struct Part {
    Codec codec;
    float* buffer = nullptr;
    std::size_t number = 0;
  };

  float* buffer() {
    room_ += most_;
    return room_ - most_;
  }

  /// Where element 0 would be if element begin_ were at `buffer`; only an address, see detail::element.
  void* as_if_from_0(const float* buffer) const {
    return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(buffer) - begin_ * sizeof(float));
  }

  void read_rows(std::size_t at, std::size_t n) const {
    std::uint16_t halves[kShare] = {};
    const Codec codec({tensor_.grad_format, halves}, Rounding::nearest);
    for (std::size_t i = 0; i < n; i += kShare) {
      const std::size_t few = std::min(kShare, n - i);
      detail::gather(static_cast<const std::uint16_t*>(tensor_.grad), *tensor_.rows, at + i, few, halves);
      codec.decode(0, few, grad_.buffer + (at - begin_) + i);
    }
  }

  const Tensor& tensor_;
  Tensor seen_;
  float* room_;
  std::size_t most_, begin_ = 0, many_states_ = 0;
  Part grad_, param_;
  std::array<Part, kMostStates> states_;
};

/// The same for any ranges of elements, to be read only, in memory that the thread keeps: there is one at a time.
class UnpackedRanges {
 public:
  UnpackedRanges(const Tensor& tensor, std::size_t most)
      : tensor_(tensor),
        most_((most + kShare - 1) / kShare * kShare),
        unpacked_(tensor, most_, tensor.packed() ? room(Unpacked::kArrays * most_) : nullptr) {}

  const Tensor& read(Range range) {
    if (!tensor_.packed()) return tensor_;
    const Tensor& seen = unpacked_.at(range.begin);
    unpacked_.read(range.begin, range.end - range.begin);
    return seen;
  }
  const Tensor& read_all(Range range) {
    if (!tensor_.packed()) return tensor_;
    const Tensor& seen = unpacked_.at(range.begin);
    unpacked_.read_all(range.begin, range.end - range.begin);
    return seen;
  }

 private:
  static float* room(std::size_t numbers) {
    thread_local std::unique_ptr<float[]> room;
    thread_local std::size_t size = 0;
    if (size < numbers) {
      room.reset();
      room = std::make_unique_for_overwrite<float[]>(numbers);
      size = numbers;
    }
    return room.get();
  }

  const Tensor& tensor_;
  std::size_t most_;
  Unpacked unpacked_;
};

namespace detail {

/// Sets a part of a gradient of 16 bits to zero.
inline void zero_halves(const Tensor& tensor, Range range) { zero<std::uint16_t>(tensor, range); }

}  // namespace detail

/// Updates a range of a tensor that begins with a segment.
inline void update_packed(const Tensor& tensor, Range range) {
  alignas(64) float room[Unpacked::kArrays * kSegment];
  const Around& around = tensor.setting->around;
  Unpacked unpacked(tensor, kSegment, room);
  const auto in_blocks = unpacked.update_blocks();
  const bool halves = unpacked.halves();
  for (std::size_t begin = range.begin; begin < range.end; begin += kSegment) {
    const Range segment{begin, std::min(begin + kSegment, range.end)};
    const Thresholds thresholds({around.seed, around.step, tensor.member}, begin / kSegment);
    const Tensor& seen = unpacked.at(begin);
    std::size_t at = begin;
    const std::size_t whole = begin + (segment.end - begin) / kShare * kShare;
    if (in_blocks != nullptr && halves && whole != begin) {
      in_blocks(tensor, {begin, whole}, thresholds);
      at = whole;
    } else if (in_blocks != nullptr) {
      for (std::size_t n; at < whole; at += n) {
        n = std::min(Unpacked::kFew, whole - at);
        unpacked.prefetch(at + Unpacked::kFew);
        unpacked.read(at, n);
        in_blocks(seen, {at, at + n}, thresholds);
        unpacked.write_param(at, n, thresholds);
        if (seen.zero) tensor.kernel->zero(seen, {at, at + n});
      }
    }
    for (std::size_t n; at < segment.end; at += n) {
      n = std::min(Unpacked::kFew, segment.end - at);
      unpacked.read_all(at, n);
      tensor.kernel->update(seen, {at, at + n}, false);
      unpacked.write(at, n, thresholds);
    }
    if (tensor.zero && !seen.zero) detail::zero_halves(tensor, segment);
  }
}

}  // namespace fastopt
