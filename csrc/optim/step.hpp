/// The one loop that applies an update rule to a list of tensors.
///
/// A rule is the formula of one paper.  It is constructed from its hyperparameters and the number of the step, in
/// double, and called with the parameter p, the gradient g and the state of some elements at once (a native vector or a
/// single number):
///
///   template <class T> struct Rule {
///     static constexpr std::array options{"lr", …};             // names of its hyperparameters, as in Python
///     static constexpr std::array<const char*, S> state{…};     // names of its state buffers, as in torch
///     Rule(const std::array<double, …>& options, double step);
///     template <class V> void operator()(V& p, V g, V& state0, …) const;
///   };
///
/// What surrounds it is done here, for every rule, while the elements are in registers: the step is one trip over
/// memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/parallel.hpp"
#include "core/storage.hpp"
#include "core/tile.hpp"

namespace fastopt {

/// What every rule understands beside its own hyperparameters.
template <class T> struct Around {
  static constexpr std::array options{"scale", "l2", "l1", "decay"};

  T scale;  ///< g ← scale·g first: −1 to maximize
  T l2;     ///< then g ← g + l2·p
  T l1;     ///< then g ← g + l1·sign(p)
  T decay;  ///< p ← decay·p before the rule's own update: 1 − lr·λ
  bool shapes_gradient;

  explicit Around(const std::array<double, 4>& o)
      : scale(static_cast<T>(o[0])),
        l2(static_cast<T>(o[1])),
        l1(static_cast<T>(o[2])),
        decay(static_cast<T>(o[3])),
        shapes_gradient(scale != 1 || l2 != 0 || l1 != 0) {}

  template <class V> V gradient(V g, V p) const {
    g = g * scale;
    if (l2 != 0) g = g + l2 * p;
    if (l1 != 0) g = g + l1 * sign(p);
    return g;
  }
};

/// A contiguous run of elements with one setting.
template <class T, std::size_t S> struct Piece {
  std::size_t size;
  std::size_t setting;
  T* param;
  const T* grad;
  std::array<T*, S> state;
};

template <class Rule, class T> struct Setting {
  Rule rule;
  Around<T> around;
};

namespace detail {

inline constexpr std::size_t kAhead = 512;  // elements between a prefetch and the tile that is computed

/// Elements [at, at + count) of a piece.  The setting is a copy, so that its numbers stay in registers: in memory, any
/// store might have changed them.
template <bool Shapes, class Rule, class T, std::size_t S, class Count>
inline void update_tile(Setting<Rule, T> setting, Piece<T, S> piece, std::size_t at, Count count) {
  each<T>(count, [=](std::size_t i, auto number) {
    using V = decltype(number);
    [&]<std::size_t... K>(std::index_sequence<K...>) {
      V p = load<V>(piece.param + at + i), g = load<V>(piece.grad + at + i);
      std::array<V, S> state{load<V>(piece.state[K] + at + i)...};
      if constexpr (Shapes) g = setting.around.gradient(g, p);
      p = p * setting.around.decay;
      setting.rule(p, g, state[K]...);
      store(piece.param + at + i, p);
      (store(piece.state[K] + at + i, state[K]), ...);
    }(std::make_index_sequence<S>{});
  });
}

template <class T, std::size_t S> inline void prefetch_tile(const Piece<T, S>& piece, std::size_t at) {
  for (std::size_t line = 0; line < kLanes; line += 64 / sizeof(T)) {
    prefetch(piece.grad + at + line);
    prefetch<true>(piece.param + at + line);
    for (std::size_t s = 0; s < S; ++s) prefetch<true>(piece.state[s] + at + line);
  }
}

template <bool Shapes, class Rule, class T, std::size_t S>
void update(const Setting<Rule, T>& setting, const Piece<T, S>& piece, Range range, bool far) {
  // Whole vectors begin where the parameter's cache lines do; state that is allocated with it begins there too.
  const std::size_t past_line = reinterpret_cast<std::uintptr_t>(piece.param + range.begin) % 64 / sizeof(T);
  std::size_t at = range.begin;
  if (past_line != 0) {
    const std::size_t head = std::min(64 / sizeof(T) - past_line, range.end - at);
    update_tile<Shapes>(setting, piece, at, head);
    at += head;
  }
  for (; at + kLanes <= range.end; at += kLanes) {
    if (far) prefetch_tile(piece, at + kAhead);
    update_tile<Shapes>(setting, piece, at, std::integral_constant<std::size_t, kLanes>{});
  }
  if (at < range.end) update_tile<Shapes>(setting, piece, at, range.end - at);
}

}  // namespace detail

/// One step over all pieces, in one parallel region.
template <class Rule, class T, std::size_t S>
void step(const std::vector<Setting<Rule, T>>& settings, const std::vector<Piece<T, S>>& pieces) {
  std::size_t tiles = 0, elements = 0;
  for (const auto& piece : pieces) {
    tiles += (piece.size + kLanes - 1) / kLanes;
    elements += piece.size;
  }
  constexpr double kBytes = (3 + 2 * S) * sizeof(T);  // moved per element
  constexpr double kNanosecondsPerByte = 1.0 / 70;    // of one thread, from cache
  constexpr double kCached = 1 << 25;                 // moved bytes up to which caches hold what a step needs
  const double bytes = kBytes * static_cast<double>(elements);
  const bool far = bytes > kCached && prefetching_streams_pays();

  parallel(threads_for(bytes * kNanosecondsPerByte), [&](int thread, int threads) {
    Range mine = share(tiles, thread, threads);
    for (const auto& piece : pieces) {
      if (mine.begin >= mine.end) break;
      const std::size_t here = (piece.size + kLanes - 1) / kLanes;
      if (mine.begin < here) {
        const Range range{mine.begin * kLanes, std::min(mine.end * kLanes, piece.size)};
        const auto& setting = settings[piece.setting];
        with_flag(setting.around.shapes_gradient,
                  [&](auto shapes) { detail::update<shapes>(setting, piece, range, far); });
      }
      mine.begin -= std::min(mine.begin, here);
      mine.end -= std::min(mine.end, here);
    }
  });
}

}  // namespace fastopt
