/// Clipping of gradients by itself.
#include "optim/clip.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/codec/codec.hpp"
#include "core/cost.hpp"
#include "core/threads/parallel.hpp"
#include "optim/apply.hpp"
#include "optim/shape.hpp"
#include "optim/sums.hpp"

namespace fastopt {

namespace {

/// What norms need of a rule.
template <class T>
constexpr Kernel kSquares = [] {
  Kernel kernel{};
  kernel.itemsize = sizeof(T);
  kernel.square = &square<T>;
  return kernel;
}();

// Changes of a number that is computed as T.

struct Scale {
  double factor;
  template <class T> auto of() const {
    return [factor = static_cast<T>(factor)](auto g) { return g * factor; };
  }
};

struct Clamp {
  double limit, one;
  template <class T> auto of() const {
    const T most = static_cast<T>(limit) < std::numeric_limits<T>::min() ? T{} : static_cast<T>(limit);
    // The product makes subnormals zero everywhere.  By itself only a vector's minimum does, and not a single number's.
    return [most, one = static_cast<T>(one)](auto g) { return clamp(g * one, -most, most); };
  }
};

template <class T, class Body> void change_numbers(T* g, std::size_t n, const Body& body) {
  map<T>(n, [g, body](std::size_t i, auto number) { store(g + i, body(load<decltype(number)>(g + i))); });
}

template <class Body> void change_halves(const Tensor& tensor, Range range, const Body& body) {
  const Codec codec({tensor.grad_format, const_cast<void*>(tensor.grad)}, Rounding::nearest);
  alignas(64) float numbers[kDecoded + kScaleBlock];  // decoding writes whole blocks
  for (std::size_t at = range.begin, n; at < range.end; at += n) {
    n = std::min(kDecoded, range.end - at);
    codec.decode(at, n, numbers);
    change_numbers(numbers, n, body);
    codec.encode(at, n, numbers, {});
  }
}

}  // namespace

void Gradients::add(void* data, std::size_t size, bool wide, Format format, const Rows* rows) {
  Tensor& tensor = tensors_.emplace_back();
  tensor.kernel = wide ? &kSquares<double> : &kSquares<float>;
  tensor.size = size;
  tensor.grad = data;
  tensor.grad_format = format;
  tensor.rows = rows;
}

double Gradients::norm() const {
  double sum = 0;
  for (const double square : squared_norms(tensors_)) sum += square;
  return std::sqrt(sum);
}

void Gradients::scale(double factor) { change(Scale{factor}); }
void Gradients::clip(double limit) {
  const volatile double one = 1;  // so that the compiler keeps the product
  change(Clamp{limit, one});
}

double Gradients::nanoseconds() const {
  double bytes = 0;
  for (const Tensor& tensor : tensors_) bytes += static_cast<double>(3 * tensor.size * tensor.kernel->itemsize);
  return static_cast<double>(tensors_.size()) * kCheckPerTensor + bytes * kSlowStepPerByte;
}

template <class Change> void Gradients::change(const Change& change) {
  double bytes = 0;
  for (const Tensor& tensor : tensors_) bytes += static_cast<double>(2 * tensor.size * tensor.kernel->itemsize);
  for_parts(
      tensors_, bytes * kStepPerByte, [](const Tensor& tensor) { return tensor.packed() ? kSegment : kGrain; },
      [&](const Tensor& tensor, Range range) {
        void* const grad = const_cast<void*>(tensor.grad);
        const std::size_t n = range.end - range.begin;
        if (tensor.packed())
          change_halves(tensor, range, change.template of<float>());
        else if (tensor.kernel->itemsize == sizeof(float))
          change_numbers(static_cast<float*>(grad) + range.begin, n, change.template of<float>());
        else
          change_numbers(static_cast<double*>(grad) + range.begin, n, change.template of<double>());
      });
}

}  // namespace fastopt
