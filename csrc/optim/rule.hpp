/// Update rules: their contract.
///
/// A rule is the formula of one paper.  It is constructed from its hyperparameters and the number of the step, in
/// double, and called with the parameter p, the gradient g and the state of some elements at once (a native vector or a
/// single number):
///
///   template <class T> struct Rule {
///     static constexpr std::array options{"lr", …};          // names of its hyperparameters, as in Python
///     static constexpr std::array<State, S> state{…};        // its state buffers, named as in torch
///     Rule(const std::array<double, …>& options, double step);
///     template <class V> void operator()(V& p, V g, V& state0, …) const;
///   };
///
/// A rule may keep numbers of its own for each parameter, in double; its constructor updates them for the new step:
///
///     static constexpr std::array numbers{"mu_product"};
///     Rule(const std::array<double, …>& options, double step, std::array<double, …>& numbers);
///
/// A rule that needs sums over a whole tensor says which products are to be summed, and gets the sums before it is
/// called; memory is then read twice:
///
///     static constexpr std::size_t sums = 2;
///     template <class V> std::array<std::pair<V, V>, sums> measure(V p, V g, V state0, …) const;
///     void conclude(const std::array<double, sums>& sums, double size);
///
/// A rule whose moments are often stored in 16 or 8 bits gets a loop of its own for them, which is 10 to 20 % faster
/// than the loop that all rules share, and costs 50 KB of code:
///
///     static constexpr bool often_packed = true;
///
/// A rule that can take a gradient of few rows lazily: it updates these rows and leaves the others alone, with their
/// state, as torch's SparseAdam does.
///
///     static constexpr bool lazy = true;
///
/// A rule may say at which rate it takes a gradient: if the gradient has been g in all steps, this step is −rate·g.
/// Proximal L1 shrinks an element by l1·rate: then an element is at rest where the gradient and the penalty's are in
/// balance, whatever the rule divides by, and however much its momentum adds up.  The states are those after the step.
///
///     double rate_of() const;                                            // the same for all elements
///     template <class V> V rate_of(V state0, …) const;                   // or one for each
///
/// L1 and L2 terms, weight decay, clipping, averages and storage formats are the same for every rule; no rule knows of
/// them.
#pragma once

#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <utility>

namespace fastopt {

inline constexpr std::size_t kMostStates = 4, kMostNumbers = 2, kMostSums = 2;

/// A buffer of a rule's state: its name, as in torch, and its contents.
struct State {
  enum Kind { exact, moment, square };

  const char* name;
  Kind kind;
};

/// A running mean of gradients or of similar numbers.  It may be stored with fewer bits.
constexpr State moment(const char* name) { return {name, State::moment}; }
/// A running mean of numbers that are never negative.  It may be stored with fewer bits, too.
constexpr State square(const char* name) { return {name, State::square}; }
/// Numbers that must be stored in the type in which they are computed: weights, or numbers whose small differences
/// matter.
constexpr State exact(const char* name) { return {name, State::exact}; }

/// How many numbers of its own a rule keeps, how many sums it asks for, and whether its moments are often packed.
template <class Rule> constexpr std::size_t numbers_of() {
  if constexpr (requires { Rule::numbers; })
    return Rule::numbers.size();
  else
    return 0;
}
template <class Rule> constexpr std::size_t sums_of() {
  if constexpr (requires { Rule::sums; })
    return Rule::sums;
  else
    return 0;
}

template <class Rule> constexpr bool is_often_packed() {
  if constexpr (requires { Rule::often_packed; })
    return Rule::often_packed;
  else
    return false;
}

template <class Rule> constexpr bool is_lazy() {
  if constexpr (requires { Rule::lazy; })
    return Rule::lazy;
  else
    return false;
}

/// Whether a rule has one rate for all elements.
template <class Rule>
concept HasOneRate = requires(const Rule& rule) {
  { rule.rate_of() } -> std::same_as<double>;
};

/// Whether a rule has a rate, of either kind, for numbers of type T.
template <class Rule, class T> constexpr bool has_rate() {
  return []<std::size_t... K>(std::index_sequence<K...>) {
    return HasOneRate<Rule> || requires(const Rule& rule, T state) { rule.rate_of((static_cast<void>(K), state)...); };
  }(std::make_index_sequence<Rule::state.size()>{});
}

/// 1 + μ + … + μⁿ⁻¹: what a momentum has added up after n equal gradients.
inline double geometric(double mu, double n) { return mu == 1 ? n : (1 - std::pow(mu, n)) / (1 - mu); }

}  // namespace fastopt
