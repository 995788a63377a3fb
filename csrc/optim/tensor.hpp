/// One parameter in one step: its memory, its formats, and the work to do on it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/codec/stored.hpp"
#include "core/rows.hpp"
#include "optim/around.hpp"
#include "optim/rule.hpp"
#include "optim/sparse.hpp"

namespace fastopt {

/// The formats of a tensor's arrays, if not all of them are exact.
struct Storage {
  StoredArray param;
  float* master = nullptr;   ///< the float32 weights, or null; the parameter is a copy of them
  bool random_param = true;  ///< the parameter is rounded at random
  std::array<StoredArray, kMostStates> state;
  bool random_state = true;
};

/// The formats of moments that have loops of their own, in rules that are often packed.
enum class Packing : std::uint8_t { bfloat16, blocks };

/// Some elements of a tensor, in the type in which they are computed: pointers into each array.
struct Block {
  std::size_t at, size;  ///< the number of the first element, and how many there are
  void* param;
  const void* grad;  ///< null where the gradient is gathered
  std::array<void*, kMostStates> state;

  /// n of these elements, from number `first` of this block on.
  template <class T> Block part(std::size_t first, std::size_t n) const {
    Block part{at + first,
               n,
               static_cast<T*>(param) + first,
               grad == nullptr ? nullptr : static_cast<const T*>(grad) + first,
               {}};
    for (std::size_t s = 0; s < kMostStates; ++s)
      if (state[s] != nullptr) part.state[s] = static_cast<T*>(state[s]) + first;
    return part;
  }
};

class Thresholds;
struct Tensor;

/// A rule for one dtype, behind untyped pointers.
struct Kernel {
  std::size_t states, numbers, sums;
  std::size_t itemsize;
  double bytes;  ///< bytes that a step moves for each element
  bool lazy;     ///< whether it may skip rows without a gradient
  void (*construct)(void* rule, const double* options, double step, double* numbers);
  void (*conclude)(void* rule, const double* sums, double size);
  /// Does everything that a step does to a block but zero its gradient.  If tensor.surrounded(), the block has at
  /// most kPiece elements.
  void (*update)(const Tensor& tensor, const Block& block, bool far);
  /// The rule alone for whole blocks of one segment, with packed moments; those of 8 bits are rounded at random.
  /// Indices: the packing, and whether the parameter and its gradient are bfloat16 too.  Null for rules that are not
  /// often_packed.
  std::array<std::array<void (*)(const Tensor&, const Block&, const Thresholds&), 2>, 2> update_packed;
  /// The rate of a rule that has one for all elements, and proximal L1 for a rule that has one for each.  Both are null
  /// where a rule has no rate.
  double (*rate)(const void* rule);
  void (*shrink)(const Tensor& tensor, const Block& block);
  void (*measure)(const Tensor& tensor, const Block& block, double* sums);
  void (*square)(const Tensor& tensor, const Block& block, bool of_param, double* sum);
  void (*sum_factors)(const Tensor& tensor, const Block& row, double* of_row, double* of_columns);
  void (*join_factors)(const Tensor& tensor, double* rows, const double* columns);

  /// Whether the state has one number for each row and each column instead of one for each element.
  bool factored() const { return sum_factors != nullptr; }
  /// Whether the rule says at which rate it takes a gradient.
  bool has_rate() const { return rate != nullptr || shrink != nullptr; }
};

/// The numbers that parameters with the same hyperparameters and the same count of steps share.
struct Setting {
  static constexpr std::size_t kBytes = 128;

  alignas(16) std::byte rule[kBytes];
  Around around;
};

/// One parameter in one step.  Its arrays have the kernel's type unless `storage` or `grad_format` says otherwise.
struct Tensor {
  const Kernel* kernel;
  const Setting* setting;
  std::size_t size;
  void* param;
  const void* grad;
  std::array<void*, kMostStates> state;
  const void* initial;       ///< p₀, if the setting needs it
  void* average;             ///< a, if the setting needs it
  const Rows* rows;          ///< where the gradient lies, if it is not contiguous
  const SparseRows* sparse;  ///< the gradient itself, if it is one of few rows
  double scale;              ///< g ← scale·g first
  const double* unit_scale;  ///< then, unless null, each `unit` elements are scaled by a factor of their own
  std::size_t unit;
  double clip;                       ///< then g is clipped to [−clip, clip], if clip ≥ 0
  bool zero;                         ///< whether to set the gradient to zero afterwards
  std::uint32_t member;              ///< the number of its stream of noise
  std::size_t columns, matrix_rows;  ///< the last two axes
  const double* row_factor;          ///< a factor for each row, where the second moment is factored
  const Storage* storage;            ///< null where parameter and state are exact
  Format grad_format;

  /// Whether a contiguous gradient needs more than scaling and adding l2·p and l1·sign(p).
  bool shaped() const { return unit_scale != nullptr || clip >= 0 || setting->around.shapes_gradient(); }
  /// Whether the gradient needs nothing but scaling.
  bool plain() const { return !shaped() && setting->around.l2 == 0 && setting->around.l1 == 0; }
  /// Whether there is more to do than the rule, scale, l2, l1 and decay, so that the work is done piece by piece.
  bool surrounded() const {
    return rows != nullptr || sparse != nullptr || shaped() || zero || setting->around.finishes();
  }
  /// Whether blocks have no gradient, because kernels gather it from its rows.  Decoding gathers gradients of 16 bits.
  bool gathers() const { return sparse != nullptr || (rows != nullptr && grad_format == Format::exact); }
  /// Whether only the rows that occur in the gradient are updated.
  bool lazy() const { return sparse != nullptr && sparse->lazy; }
  /// How many elements the step works on.
  std::size_t work() const { return lazy() ? sparse->size() : size; }
  /// Whether the tensor must be decoded for kernels.
  bool packed() const { return storage != nullptr || grad_format != Format::exact; }

  /// Elements [begin, end) of the exact arrays, and null for the others.
  Block exact_block(std::size_t begin, std::size_t end) const {
    const std::size_t bytes = begin * kernel->itemsize;
    Block block{begin, end - begin, nullptr, nullptr, {}};
    if (storage == nullptr || storage->param.format == Format::exact)
      block.param = static_cast<char*>(param) + bytes;
    else if (storage->master != nullptr)
      block.param = storage->master + begin;
    if (grad_format == Format::exact && !gathers()) block.grad = static_cast<const char*>(grad) + bytes;
    if (kernel->factored()) return block;
    for (std::size_t s = 0; s < kernel->states; ++s)
      if (storage == nullptr || storage->state[s].format == Format::exact)
        block.state[s] = static_cast<char*>(state[s]) + bytes;
    return block;
  }
};

}  // namespace fastopt
