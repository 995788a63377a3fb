/// One step over a list of tensors: unscale, clip, skip, count, update, zero.
///
///   members (once)  ─┐
///   gradients ───────┴→ tensors → norms, scales → skip? → counts, settings → sums that rules ask for → update
///
/// take() takes a step as a whole or not at all.  Its caller sees to it that no fork of the process comes while it writes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/rows.hpp"
#include "optim/tensor.hpp"

namespace fastopt {

/// One parameter and everything that its steps need, except the gradient.
struct Member {
  const Kernel* kernel = nullptr;
  std::size_t group = 0;  ///< the group whose options it has
  std::size_t size = 0;
  std::size_t unit = 1;                      ///< elements that clip_adaptive takes together
  std::size_t columns = 1, matrix_rows = 1;  ///< of its last two axes
  void* param = nullptr;
  std::array<void*, kMostStates> state{};
  std::array<double*, kMostNumbers> numbers{};
  const void* initial = nullptr;  ///< p₀, or null
  void* average = nullptr;        ///< the moving average, or null
  std::int64_t* step = nullptr;   ///< how many steps it has taken
  Storage storage;                ///< where `packed`: the formats of its arrays
  bool packed = false;

  /// The bytes that a step moves.
  double bytes() const { return static_cast<double>(size) * kernel->bytes; }
};

/// The options of one step; a negative limit means none, and an infinite clip_norm asks for the norm only.
struct StepOptions {
  double grad_scale = 1, clip_norm = -1, clip_value = -1, clip_param_norm = -1, clip_adaptive = -1;
  bool skip_nonfinite = false, zero_grads = false;

  bool needs_norms() const { return clip_norm >= 0 || clip_param_norm >= 0 || skip_nonfinite; }
  bool scales() const { return grad_scale != 1 || needs_norms() || clip_adaptive >= 0; }
};

struct Outcome {
  std::optional<double> norm;  ///< of all gradients, unscaled, where clip_norm or skip_nonfinite needed it
  bool skipped = false;
};

/// Writes the sums of the rows that occur in a gradient, one after the other, as float32 or float64; the gradient must be
/// grouped.
template <class T> void sum_rows(const SparseRows& sparse, T* to);

/// Σx² of an array of `size` numbers of the kernel's dtype, in double.
double squared_norm(const Kernel& kernel, const void* numbers, std::size_t size);

class Plan {
 public:
  std::vector<Member> members;
  std::vector<std::vector<double>> options;  ///< of each group: the options of Around, then the rule's own
  std::int64_t* count = nullptr;             ///< how many steps have been taken, or null

  /// Forgets the gradients of the last step.
  void begin() {
    which_.clear();
    sparse_.clear();
  }

  /// Adds a gradient for the step that take() will take; members must come in increasing order.
  void add(std::size_t number, const void* data, Format format, const Rows* rows, const StepOptions& wish);

  /// The same with a gradient of few rows, which take() groups.
  void add_rows(std::size_t number, SparseRows& sparse, const StepOptions& wish);

  /// The members that have a gradient.
  const std::vector<std::size_t>& which() const { return which_; }

  /// Takes the step.
  Outcome take(const StepOptions& wish);

  /// Sets all counts to 0, as if no step had been taken.
  void restart();

  /// Whether the step is worth more than one thread.
  bool parallel() const;

  /// The sums that the rules asked for in the last step, over all parameters.
  const std::array<double, kMostSums>& measured() const { return measured_; }

 private:
  /// A member's tensor, with everything that does not change from step to step.
  Tensor of_member(std::size_t number) const;

  /// Sets the scales of gradients; false where the step is to be skipped.
  bool scale(const StepOptions& wish, std::optional<double>& norm);

  /// Counts the step and gives every tensor its setting.
  void count_step();

  /// Takes the sums that the rules ask for, and hands them to the rules.
  void measure();

  std::array<double, kMostSums> measured_{};

  // For the step that is being taken; the vectors keep their memory.
  std::vector<std::size_t> which_;   // members that have a gradient
  std::vector<SparseRows*> sparse_;  // the gradients of few rows
  std::vector<Tensor> tensors_;      // their tensors; before take() perhaps more, mostly those of the last step
  std::vector<double> unit_scales_, row_factors_;
  std::vector<Setting> settings_;
  bool measures_ = false;
};

}  // namespace fastopt
