/// The loop for rules whose moments are often packed: the codecs of a block are compiled into it.
///
/// It takes whole blocks whose moments are bfloat16, or of 8 bits and rounded at random, if only scale, l2, l1 and decay
/// surround the rule.  Everything else goes through Decoded, with the same bits.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/codec/codec.hpp"
#include "core/cost.hpp"
#include "core/random.hpp"
#include "core/threads/parallel.hpp"
#include "optim/blocks.hpp"
#include "optim/loop.hpp"
#include "optim/tensor.hpp"

namespace fastopt {

/// An access whose codecs are known at compile time: moments of one packing, with parameters and gradients in float32
/// or, if Halves, in bfloat16.
template <class Rule, Packing packing, bool Halves> class InlineCodecs {
 public:
  static constexpr std::size_t S = Rule::state.size();

  InlineCodecs(const Tensor& tensor, const Block& block, const Thresholds& thresholds)
      : storage_(*tensor.storage),
        begin_(block.at),
        grad_{Format::bfloat16, const_cast<void*>(tensor.grad)},
        given_(block),
        of_param_(thresholds.from(begin_, 2)) {
    for (std::size_t s = 0; s < S; ++s) of_state_[s] = thresholds.from(begin_, s / 2);
  }

  /// Prefetches block `at`: the work on one block fills the processor, so that it does not see the next one.
  [[gnu::always_inline]] void prefetch_block(std::size_t at) const {
    const auto lines = [](auto* from, std::size_t first) {
      using T = std::remove_pointer_t<decltype(from)>;
      for (std::size_t i = 0; i < kScaleBlock; i += 64 / sizeof(T)) prefetch<!std::is_const_v<T>>(from, first + i);
    };
    if constexpr (Halves) {
      lines(static_cast<const std::uint16_t*>(grad_.numbers), at);
      lines(static_cast<std::uint16_t*>(storage_.param.numbers), at);
      if (storage_.master != nullptr) lines(storage_.master, at);
    } else {
      lines(given_.grad, at - begin_);
      lines(given_.param, at - begin_);
    }
    unroll<S>([&](auto s) {
      if constexpr (Rule::state[s].kind == State::exact)
        lines(given_.state[s], at - begin_);
      else if constexpr (packing == Packing::bfloat16)
        lines(static_cast<std::uint16_t*>(storage_.state[s].numbers), at);
      else
        lines(static_cast<std::uint8_t*>(storage_.state[s].numbers), at);
    });
  }

  [[gnu::always_inline]] Arrays<float, S> open(std::size_t at) {
    Arrays<float, S> arrays;
    if constexpr (Halves) {
      InHalves<Bfloat16>::decode(grad_, at, kScaleBlock, gradient_);
      arrays.grad = gradient_;
      arrays.param = storage_.master != nullptr ? storage_.master + at : weights_;
      if (storage_.param.rest == Rest::compensation)
        Compensated<Bfloat16>::decode(storage_.param, at, kScaleBlock, weights_);
      else if (storage_.param.rest == Rest::correction)
        Corrected::decode(storage_.param, at, kScaleBlock, weights_);
      else if (storage_.param.rest == Rest::none)
        InHalves<Bfloat16>::decode(storage_.param, at, kScaleBlock, weights_);
    } else {
      arrays.grad = given_.grad + (at - begin_);
      arrays.param = given_.param + (at - begin_);
    }
    unroll<S>([&](auto s) {
      if constexpr (Rule::state[s].kind == State::exact) {
        arrays.state[s] = given_.state[s] + (at - begin_);
      } else {
        Layout<s>::decode(storage_.state[s], at, kScaleBlock, moments_[s]);
        arrays.state[s] = moments_[s];
      }
    });
    return arrays;
  }

  [[gnu::always_inline]] void close(std::size_t at, const Arrays<float, S>& arrays) const {
    const auto from_block = [&](const Random& random) { return Random{random.table + (at - begin_), random.offset}; };
    unroll<S>([&](auto s) {
      using How = std::conditional_t<s % 2 == 0, High, Low>;
      if constexpr (Rule::state[s].kind != State::exact) {
        if (packing == Packing::blocks || storage_.random_state)
          Layout<s>::encode(storage_.state[s], at, kScaleBlock, moments_[s], How(from_block(of_state_[s])));
        else
          Layout<s>::encode(storage_.state[s], at, kScaleBlock, moments_[s], Nearest({}));
      }
    });
    if constexpr (Halves) {
      const StoredArray& param = storage_.param;
      if (param.rest == Rest::compensation)
        Compensated<Bfloat16>::encode(param, at, kScaleBlock, weights_, Nearest({}));
      else if (param.rest == Rest::correction)
        Corrected::encode(param, at, kScaleBlock, weights_, High(from_block(of_param_)));
      else if (storage_.random_param && storage_.master == nullptr)
        InHalves<Bfloat16>::encode(param, at, kScaleBlock, arrays.param, High(from_block(of_param_)));
      else
        InHalves<Bfloat16>::encode(param, at, kScaleBlock, arrays.param, Nearest({}));
    }
  }

 private:
  template <std::size_t s>
  using Layout = std::conditional_t<
      packing == Packing::bfloat16, InHalves<Bfloat16>,
      std::conditional_t<Rule::state[s].kind == State::square, InBlocks<Square8>, InBlocks<Moment8>>>;

  const Storage& storage_;
  const std::size_t begin_;
  const StoredArray grad_;
  const Arrays<float, S> given_;  // the exact arrays
  const Random of_param_;
  std::array<Random, S> of_state_;
  alignas(64) float moments_[S][kScaleBlock], gradient_[kScaleBlock], weights_[kScaleBlock];
};

/// Applies the rule alone to whole blocks of one segment.
template <Packing packing, bool Halves, class Rule>
void update_packed(const Tensor& tensor, const Block& all, const Thresholds& thresholds) {
  InlineCodecs<Rule, packing, Halves> access(tensor, all, thresholds);
  const auto blocks = [&, rule = rule_of<Rule>(tensor),
                       factor = Factors<float>::of(tensor)]<Added added>(std::integral_constant<Added, added>) {
    for (std::size_t at = all.at; at < all.at + all.size; at += kScaleBlock) {
      access.prefetch_block(at + kBlocksAhead);
      const auto arrays = access.open(at);
      for (std::size_t i = 0; i < kScaleBlock; i += width<Floats>)
        update_vector<added, Floats>(rule, arrays, factor, i);
      access.close(at, arrays);
    }
  };
  const Around& around = tensor.setting->around;
  if (around.l1 == 0 && around.l2 == 0)
    blocks(std::integral_constant<Added, Added::nothing>{});
  else
    blocks(std::integral_constant<Added, Added::any>{});
}

/// The kernel's loop for these packed moments; null where the kernel has none, or where more is to be done than the
/// loop does.
inline auto packed_loop(const Tensor& tensor, bool halves) -> decltype(Kernel::update_packed)::value_type::value_type {
  if (tensor.storage == nullptr || tensor.gathers() || tensor.shaped() || tensor.setting->around.finishes())
    return nullptr;
  for (const StoredArray& state : tensor.storage->state)
    if (state.format != Format::exact) {
      const Packing packing = state.format == Format::bfloat16 ? Packing::bfloat16 : Packing::blocks;
      if (packing == Packing::blocks && !tensor.storage->random_state) return nullptr;
      return tensor.kernel->update_packed[static_cast<std::size_t>(packing)][halves];
    }
  return nullptr;
}

/// Updates a range of a packed tensor; the range begins at the beginning of a segment.
inline void update_any_packed(const Tensor& tensor, Range range) {
  alignas(64) float room[Decoded::kArrays * kDecoded];
  const bool halves = tensor.storage != nullptr && tensor.storage->param.format == Format::bfloat16 &&
                      tensor.grad_format == Format::bfloat16 && tensor.rows == nullptr;
  const auto loop = packed_loop(tensor, halves);
  if (loop == nullptr) return update_blocks(tensor, range, false, Decoded(tensor, kDecoded, room));
  for (std::size_t begin = range.begin; begin < range.end; begin += kSegment) {
    const std::size_t end = std::min(begin + kSegment, range.end);
    const std::size_t whole = begin + (end - begin) / kScaleBlock * kScaleBlock;
    const Thresholds thresholds = thresholds_of(tensor, begin);
    if (halves) {
      if (whole != begin) loop(tensor, tensor.exact_block(begin, whole), thresholds);
      if (tensor.zero) zero_gradient(tensor, {begin, whole});
    } else {
      Decoded access(tensor, kDecoded, room, false);
      for (std::size_t at = begin, n; at < whole; at += n) {
        n = access.size(at, whole);
        const Block block = access.open(at, n);
        loop(tensor, block, thresholds);
        if (tensor.zero) zero_gradient(tensor, {at, at + n});
        access.close(block);
      }
    }
    if (whole != end) update_blocks(tensor, {whole, end}, false, Decoded(tensor, kDecoded, room));
  }
}

}  // namespace fastopt
