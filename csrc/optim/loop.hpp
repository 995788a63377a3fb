/// The loops that apply a rule to elements.
///
/// update() takes a block in the type in which it is computed; blocks.hpp cuts tensors of any storage into blocks.
/// Everything that surrounds the rule is done while the elements are in registers or L1, so that a step is one pass
/// over memory, whatever is switched on.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include "core/cost.hpp"
#include "core/reduce.hpp"
#include "core/simd.hpp"
#include "optim/rule.hpp"
#include "optim/shape.hpp"
#include "optim/tensor.hpp"

namespace fastopt {

static_assert(kPiece % kLanes == 0 && kChunk % kPiece == 0);

/// A block's arrays with their types.
template <class T, std::size_t S> struct Arrays {
  T* param;
  const T* grad;
  std::array<T*, S> state;

  Arrays() = default;
  explicit Arrays(const Block& block) : param(static_cast<T*>(block.param)), grad(static_cast<const T*>(block.grad)) {
    for (std::size_t s = 0; s < S; ++s) state[s] = static_cast<T*>(block.state[s]);
  }
};

/// The factors that surround a rule.
template <class T> struct Factors {
  T scale;  ///< g ← scale·g
  T l2;     ///< g ← g + l2·p
  T l1;     ///< g ← g + l1·sign(p)
  T decay;  ///< p ← decay·p

  static Factors of(const Tensor& tensor) {
    const Around& around = tensor.setting->around;
    return {static_cast<T>(tensor.scale), static_cast<T>(around.l2), static_cast<T>(around.l1),
            static_cast<T>(around.decay)};
  }
};

/// The terms that are added to the gradient: none, l2·p, l1·sign(p) and perhaps l2·p, or whichever are found at run
/// time.
enum class Added { nothing, l2, l1, any };

template <class Rule> const Rule& rule_of(const Tensor& tensor) {
  return *std::launder(reinterpret_cast<const Rule*>(tensor.setting->rule));
}

/// Updates the elements V at i by the rule.
template <Added added, class V, class Rule, class T, std::size_t S>
[[gnu::always_inline]] inline void update_vector(const Rule& rule, const Arrays<T, S>& arrays, const Factors<T>& factor,
                                                 std::size_t i) {
  [&]<std::size_t... K>(std::index_sequence<K...>) {
    V p = load<V>(arrays.param + i), g = load<V>(arrays.grad + i);
    std::array<V, S> state{load<V>(arrays.state[K] + i)...};
    g = g * factor.scale;
    if constexpr (added == Added::l2) g = g + factor.l2 * p;
    if constexpr (added == Added::l1 || added == Added::any)
      if (factor.l2 != 0) g = g + factor.l2 * p;
    if constexpr (added == Added::l1) g = g + factor.l1 * sign(p);
    if constexpr (added == Added::any)
      if (factor.l1 != 0) g = g + factor.l1 * sign(p);
    p = p * factor.decay;
    rule(p, g, state[K]...);
    store(arrays.param + i, p);
    (store(arrays.state[K] + i, state[K]), ...);
  }(std::make_index_sequence<S>{});
}

/// Updates some elements from `at` on by the rule.  The rule and all numbers are copies, so that they stay in
/// registers: in memory, any store might change them.
template <Added added, class Rule, class T, std::size_t S, class Count>
inline void update_elements(Rule rule, Arrays<T, S> arrays, Factors<T> factor, std::size_t at, Count count) {
  each<T>(count,
          [=](std::size_t i, auto number) { update_vector<added, decltype(number)>(rule, arrays, factor, at + i); });
}

template <class Rule, class T, std::size_t S>
[[gnu::noinline]] void update_few(const Rule& rule, const Arrays<T, S>& arrays, Factors<T> factor, std::size_t at,
                                  std::size_t count) {
  update_elements<Added::any>(rule, arrays, factor, at, count);
}

template <class T, std::size_t S> inline void prefetch_tile(const Arrays<T, S>& arrays, std::size_t at) {
  for (std::size_t i = at; i < at + kLanes; i += 64 / sizeof(T)) {
    prefetch(arrays.grad, i);
    prefetch<true>(arrays.param, i);
    for (std::size_t s = 0; s < S; ++s) prefetch<true>(arrays.state[s], i);
  }
}

/// Updates `count` elements by the rule, tile by tile.
template <class Rule, class T, std::size_t S>
[[gnu::noinline]] void update_run(const Rule& of, const Arrays<T, S>& arrays, Factors<T> factor, std::size_t count,
                                  bool far) {
  const Rule rule = of;
  // Whole vectors begin at the parameter's cache lines; state that is allocated with it begins there too.
  // With few elements, as a row has, the remainders before and behind whole tiles would take longer than vectors that
  // cross lines.
  const std::size_t past_line = reinterpret_cast<std::uintptr_t>(arrays.param) % 64 / sizeof(T);
  std::size_t at = 0;
  if (past_line != 0 && count > kShortRun) {
    at = std::min(64 / sizeof(T) - past_line, count);
    update_few(rule, arrays, factor, 0, at);
  }
  const auto tiles = [&, rule, arrays, factor]<Added added>(std::integral_constant<Added, added>) {
    for (; at + kLanes <= count; at += kLanes) {  // a branch inside would cost a quarter more time
      if (far) prefetch_tile(arrays, at + kAhead);
      update_elements<added>(rule, arrays, factor, at, std::integral_constant<std::size_t, kLanes>{});
    }
  };
  if (factor.l1 != 0)
    tiles(std::integral_constant<Added, Added::l1>{});
  else if (factor.l2 != 0)
    tiles(std::integral_constant<Added, Added::l2>{});
  else
    tiles(std::integral_constant<Added, Added::nothing>{});
  if (at < count) update_few(rule, arrays, factor, at, count - at);
}

/// Updates a block: shapes the gradient, applies the rule, and does what follows it.
template <class Rule, class T> void update(const Tensor& tensor, const Block& block, bool far) {
  Arrays<T, Rule::state.size()> arrays(block);
  Factors<T> factor = Factors<T>::of(tensor);
  alignas(64) T shaped[kPiece];
  if (block.grad == nullptr || tensor.shaped()) {
    shape_gradient(tensor, block, shaped);
    arrays.grad = shaped;
    factor = {T{1}, T{0}, T{0}, factor.decay};
  }
  update_run(rule_of<Rule>(tensor), arrays, factor, block.size, far);
  if (tensor.setting->around.finishes()) finish<T>(tensor, block);
}

/// Proximal L1 in the metric of a rule that has a rate for each element.
template <class Rule, class T> void shrink(const Tensor& tensor, const Block& block) {
  constexpr std::size_t S = Rule::state.size();
  map_briefly<T>(block.size, [rule = rule_of<Rule>(tensor), arrays = Arrays<T, S>(block),
                              l1 = static_cast<T>(tensor.setting->around.proximal)](std::size_t i, auto number) {
    using V = decltype(number);
    const V rate = [&]<std::size_t... K>(std::index_sequence<K...>) {
      return rule.rate_of(load<V>(arrays.state[K] + i)...);
    }(std::make_index_sequence<S>{});
    store(arrays.param + i, shrunk<V>(load<V>(arrays.param + i), l1 * rate));
  });
}

}  // namespace fastopt
