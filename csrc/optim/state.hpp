/// What rules keep between steps.
#pragma once

namespace fastopt {

/// A buffer of a rule's state: its name, as in torch, and what is in it.
struct State {
  enum Kind { exact, moment, square };

  const char* name;
  Kind kind;
};

/// A running mean of gradients, or the like: it may be kept with fewer bits.
constexpr State moment(const char* name) { return {name, State::moment}; }
/// A running mean of what is never negative: likewise.
constexpr State square(const char* name) { return {name, State::square}; }
/// What must be kept as it is computed with: weights, or what small differences are taken of.
constexpr State exact(const char* name) { return {name, State::exact}; }

}  // namespace fastopt
