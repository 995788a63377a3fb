/// The loop over the blocks of a tensor of any storage, and the accesses that open and close each block.
///
/// An access says how many elements to take at once, opens a block, in which numbers have the type in which they are
/// computed, and closes it.  AsComputed has nothing to do; Decoded converts 16-bit numbers, their residuals and 8-bit
/// blocks to float32 and back.  Rules know nothing of accesses.  (packed.hpp has a third access, for rules that are
/// often packed.)
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "core/codec/codec.hpp"
#include "core/cost.hpp"
#include "core/random.hpp"
#include "core/threads/parallel.hpp"
#include "optim/shape.hpp"
#include "optim/tensor.hpp"

namespace fastopt {

/// Blocks of a tensor whose arrays are all exact.
class AsComputed {
 public:
  explicit AsComputed(const Tensor& tensor) : tensor_(tensor), whole_(!tensor.surrounded()) {}

  /// How many of the elements [at, end) to take at once.  All pieces but the first begin at a cache line of the
  /// parameter.
  std::size_t size(std::size_t at, std::size_t end) const {
    if (whole_) return end - at;
    const std::size_t itemsize = tensor_.kernel->itemsize;
    const std::size_t past_line = (reinterpret_cast<std::uintptr_t>(tensor_.param) + at * itemsize) % 64 / itemsize;
    return std::min(kPiece - past_line, end - at);
  }
  Block open(std::size_t at, std::size_t n) const { return tensor_.exact_block(at, at + n); }
  void close(const Block&) const {}

 private:
  const Tensor& tensor_;
  bool whole_;
};

/// The thresholds of the segment that begins at element `at`.
inline Thresholds thresholds_of(const Tensor& tensor, std::size_t at) {
  const Around& around = tensor.setting->around;
  return Thresholds({around.seed, around.step, tensor.member}, at / kSegment);
}

/// Blocks of a tensor of any storage, decoded to float32.
class Decoded {
 public:
  static constexpr std::size_t kArrays = 2 + kMostStates;  ///< arrays that may have to be decoded

  /// Blocks have at most `most` elements, a multiple of kScaleBlock; `room` holds kArrays times as many numbers.
  /// Without `states` only the parameter and its gradient are decoded.
  Decoded(const Tensor& tensor, std::size_t most, float* room, bool states = true)
      : tensor_(tensor), room_(room), most_(most) {
    if (tensor.grad_format != Format::exact)
      grad_ = {Codec({tensor.grad_format, const_cast<void*>(tensor.grad)}, Rounding::nearest), buffer()};
    if (tensor.storage == nullptr) return;
    const Storage& storage = *tensor.storage;
    if (storage.param.format != Format::exact) {
      const bool random = storage.random_param && storage.master == nullptr;
      param_.codec = Codec(storage.param, random ? Rounding::high : Rounding::nearest);
      if (storage.master == nullptr) param_.buffer = buffer();
      writes_param_ = true;
    }
    for (std::size_t s = 0; states && s < tensor.kernel->states; ++s)
      if (storage.state[s].format != Format::exact)
        states_[many_states_++] = {Codec(storage.state[s], !storage.random_state ? Rounding::nearest
                                                           : s % 2 == 0          ? Rounding::high
                                                                                 : Rounding::low),
                                   buffer(), s};
  }

  std::size_t size(std::size_t at, std::size_t end) const {
    return std::min({kDecoded, kSegment - at % kSegment, end - at});
  }

  /// Elements [at, at + n), within one segment; with numbers of 8 bits `at` is a multiple of kScaleBlock.
  Block open(std::size_t at, std::size_t n) {
    prefetch_block(at + kDecoded);
    const Block block = read(at, n);
    for (std::size_t k = 0; k < many_states_; ++k) states_[k].codec.decode(at, n, states_[k].buffer);
    return block;
  }

  /// The same for any elements, without the contents of states.
  Block read(std::size_t at, std::size_t n) const {
    Block block = tensor_.exact_block(at, at + n);
    if (grad_.buffer != nullptr) {
      tensor_.rows == nullptr ? grad_.codec.decode(at, n, grad_.buffer) : read_rows(at, n);
      block.grad = grad_.buffer;
    }
    if (param_.buffer != nullptr) {
      param_.codec.decode(at, n, param_.buffer);
      block.param = param_.buffer;
    }
    for (std::size_t k = 0; k < many_states_; ++k) block.state[states_[k].number] = states_[k].buffer;
    return block;
  }

  /// Writes back a block that open() returned, after it has been changed.
  void close(const Block& block) {
    if (!thresholds_ || block.at / kSegment != segment_) {
      segment_ = block.at / kSegment;
      thresholds_.emplace(thresholds_of(tensor_, block.at));
    }
    for (std::size_t k = 0; k < many_states_; ++k)
      states_[k].codec.encode(block.at, block.size, states_[k].buffer,
                              thresholds_->from(block.at, states_[k].number / 2));
    if (writes_param_)
      param_.codec.encode(block.at, block.size, static_cast<const float*>(block.param), thresholds_->from(block.at, 2));
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

  /// Prefetches kDecoded elements of all arrays, from `at` on.
  void prefetch_block(std::size_t at) const {
    if (tensor_.lazy()) return;                                        // the next row is elsewhere
    const auto lines = [at](const void* from, std::size_t itemsize) {  // only addresses: they may be past the end
      for (std::size_t byte = at * itemsize; byte < (at + kDecoded) * itemsize; byte += 64)
        prefetch<true>(static_cast<const char*>(from), byte);
    };
    const auto itemsize = [](Format format) -> std::size_t {
      return format == Format::exact ? 4 : format == Format::float16 || format == Format::bfloat16 ? 2 : 1;
    };
    if (tensor_.rows == nullptr && tensor_.sparse == nullptr) lines(tensor_.grad, itemsize(tensor_.grad_format));
    const Storage* const storage = tensor_.storage;
    lines(tensor_.param, storage == nullptr ? 4 : itemsize(storage->param.format));
    if (storage == nullptr || tensor_.kernel->factored()) return;
    if (storage->master != nullptr) lines(storage->master, 4);
    for (std::size_t s = 0; s < tensor_.kernel->states; ++s) {
      const StoredArray& state = storage->state[s];
      lines(state.format == Format::exact ? tensor_.state[s] : state.numbers, itemsize(state.format));
    }
  }

  void read_rows(std::size_t at, std::size_t n) const {
    std::uint16_t halves[kScaleBlock] = {};
    const Codec codec({tensor_.grad_format, halves}, Rounding::nearest);
    for (std::size_t i = 0; i < n; i += kScaleBlock) {
      const std::size_t few = std::min(kScaleBlock, n - i);
      gather(static_cast<const std::uint16_t*>(tensor_.grad), *tensor_.rows, at + i, few, halves);
      codec.decode(0, few, grad_.buffer + i);
    }
  }

  const Tensor& tensor_;
  float* room_;
  std::size_t most_, many_states_ = 0;
  Part grad_, param_;
  bool writes_param_ = false;
  std::array<Part, kMostStates> states_;
  std::size_t segment_ = 0;               // the current segment
  std::optional<Thresholds> thresholds_;  // of the current segment
};

/// Updates elements [range): the loop over blocks.
template <class Access> void update_blocks(const Tensor& tensor, Range range, bool far, Access&& access) {
  for (std::size_t at = range.begin, n; at < range.end; at += n) {
    n = access.size(at, range.end);
    const Block block = access.open(at, n);
    tensor.kernel->update(tensor, block, far);
    if (tensor.zero) zero_gradient(tensor, {at, at + n});
    access.close(block);
  }
}

/// Reads ranges of a tensor of any storage.  Decoded numbers are in memory that the thread keeps, so a thread has one
/// Reader at a time.
class Reader {
 public:
  Reader(const Tensor& tensor, std::size_t most)
      : tensor_(tensor),
        most_((most + kScaleBlock - 1) / kScaleBlock * kScaleBlock),
        decoded_(tensor, most_, tensor.packed() ? room(Decoded::kArrays * most_) : nullptr) {}

  /// read() gives the parameter and its gradient, read_all() the states too.
  Block read(Range range) const {
    return tensor_.packed() ? decoded_.read(range.begin, range.end - range.begin)
                            : tensor_.exact_block(range.begin, range.end);
  }
  Block read_all(Range range) {
    return tensor_.packed() ? decoded_.open(range.begin, range.end - range.begin)
                            : tensor_.exact_block(range.begin, range.end);
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
  Decoded decoded_;
};

}  // namespace fastopt
