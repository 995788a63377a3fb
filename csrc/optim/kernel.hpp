/// Makes the kernel of a rule: its functions for one dtype, behind untyped pointers.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <new>
#include <type_traits>

#include "optim/loop.hpp"
#include "optim/packed.hpp"
#include "optim/rule.hpp"
#include "optim/sums.hpp"
#include "optim/tensor.hpp"

namespace fastopt {

template <class Rule, class T> constexpr Kernel kernel_of() {
  static_assert(sizeof(Rule) <= Setting::kBytes && alignof(Rule) <= 16 && std::is_trivially_copyable_v<Rule>);
  static_assert(Rule::state.size() <= kMostStates && numbers_of<Rule>() <= kMostNumbers &&
                sums_of<Rule>() <= kMostSums);
  Kernel kernel{};
  kernel.states = Rule::state.size();
  kernel.numbers = numbers_of<Rule>();
  kernel.sums = sums_of<Rule>();
  kernel.itemsize = sizeof(T);
  kernel.lazy = is_lazy<Rule>();
  kernel.bytes = static_cast<double>((3 + 2 * Rule::state.size()) * sizeof(T));
  kernel.construct = [](void* rule, const double* options, double step, double* numbers) {
    std::array<double, Rule::options.size()> o;
    std::copy_n(options, o.size(), o.begin());
    if constexpr (numbers_of<Rule>() != 0) {
      std::array<double, Rule::numbers.size()> n;
      std::copy_n(numbers, n.size(), n.begin());
      new (rule) Rule(o, step, n);
      std::copy_n(n.begin(), n.size(), numbers);
    } else {
      new (rule) Rule(o, step);
    }
  };
  if constexpr (!requires { Rule::factored; }) {
    kernel.update = &update<Rule, T>;
    if constexpr (std::is_same_v<T, float> && is_often_packed<Rule>() && !kBaseline)
      kernel.update_packed = {
          {{&update_packed<Packing::bfloat16, false, Rule>, &update_packed<Packing::bfloat16, true, Rule>},
           {&update_packed<Packing::blocks, false, Rule>, &update_packed<Packing::blocks, true, Rule>}}};
  }
  if constexpr (HasOneRate<Rule>)
    kernel.rate = [](const void* rule) { return std::launder(static_cast<const Rule*>(rule))->rate_of(); };
  else if constexpr (has_rate<Rule, T>() && !requires { Rule::factored; })
    kernel.shrink = &shrink<Rule, T>;
  kernel.square = &square<T>;
  if constexpr (sums_of<Rule>() != 0) {
    if constexpr (!requires { Rule::factored; }) kernel.measure = &measure<Rule, T>;
    kernel.conclude = [](void* rule, const double* sums, double size) {
      std::array<double, Rule::sums> s;
      std::copy_n(sums, s.size(), s.begin());
      std::launder(static_cast<Rule*>(rule))->conclude(s, size);
    };
  }
  return kernel;
}

}  // namespace fastopt
