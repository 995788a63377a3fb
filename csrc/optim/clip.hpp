/// Clipping of gradients by itself, in place, for loops that clip and step separately.
#pragma once

#include <cstddef>
#include <vector>

#include "optim/tensor.hpp"

namespace fastopt {

/// min(1, limit / (norm + 1e-6)); NaN stays NaN.
inline double clip_factor(double limit, double norm) {
  const double ratio = limit / (norm + 1e-6);
  return ratio > 1 ? 1.0 : ratio;
}

/// Gradients that are clipped together.  Each fills its memory without gaps, and no two share memory.
class Gradients {
 public:
  void reserve(std::size_t count) { tensors_.reserve(count); }

  /// Adds `size` float64 numbers if `wide`, otherwise float32 numbers or those of a format with 16 bits.  `rows` is where
  /// their order in memory is not the one in which they are summed; it must live as long as this object.
  void add(void* data, std::size_t size, bool wide, Format format, const Rows* rows = nullptr);

  /// √Σg² over all of them, in double: what a step with clip_norm calls the norm.
  double norm() const;
  /// g ← factor·g, as a step scales; 16 bits are rounded to the nearest.
  void scale(double factor);
  /// g ← min(max(g, −limit), limit); NaN stays NaN.
  void clip(double limit);

  /// The time that clipping takes, at most.
  double nanoseconds() const;

 private:
  template <class Change> void change(const Change& change);

  std::vector<Tensor> tensors_;
};

}  // namespace fastopt
