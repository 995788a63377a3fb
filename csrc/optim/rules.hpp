/// The table of update rules.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "optim/rule.hpp"
#include "optim/tensor.hpp"

namespace fastopt {

/// A rule: the names that Python knows, and its kernels.
struct Entry {
  const char* name;
  std::vector<State> states;
  std::vector<std::string> numbers, options;
  std::array<Kernel, 2> kernels;  ///< by dtype: float32, float64
};

/// Every rule there is.
const std::vector<Entry>& rules();

/// The rule of that name, or null.
const Entry* find_rule(const std::string& name);

}  // namespace fastopt
