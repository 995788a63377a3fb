/// Softmax of rows, for every type.
#include "nn/softmax.hpp"

#include <algorithm>
#include <limits>

#include "core/rows.hpp"
#include "core/scratch.hpp"
#include "core/threads/environment.hpp"
#include "core/threads/parallel.hpp"
#include "nn/exp_sums.hpp"

namespace fastopt {

namespace {

constexpr double kForwardPerElement = 0.7, kBackwardPerElement = 0.4;  // nanoseconds

/// How many elements of a row count.
std::size_t length_of(const SoftmaxOptions& options, std::size_t row, std::size_t width) {
  return options.queries == 0 ? width : width - options.queries + row % options.queries + 1;
}

/// Calls body(row, room) for all rows, by all threads; room has place for `arrays` rows.
template <class T, class Body>
void for_rows(std::size_t rows, std::size_t width, std::size_t arrays, double nanoseconds, const Body& body) {
  parallel(threads_for(static_cast<double>(rows * width) * nanoseconds), [&](int thread, int threads) {
    const Range mine = share(rows, thread, threads);
    const Scratch<T> room(arrays * width);
    for (std::size_t row = mine.begin; row < mine.end; ++row) body(row, room.data());
  });
}

}  // namespace

template <class T> void SoftmaxKernels<T>::forward(const SoftmaxOptions& options, const T* x, const Rows& rows, T* y) {
  using V = Vector<T>;
  const FlushSubnormals environment;
  const std::size_t width = rows.width;
  const auto scale = static_cast<T>(options.scale);
  const std::size_t arrays = (rows.contiguous() ? 0 : 1) + (options.log ? 1 : 0);
  for_rows<T>(rows.count(), width, arrays, kForwardPerElement, [&](std::size_t row, T* room) {
    const std::size_t n = length_of(options, row, width);
    const T* const from = part_of(x, rows, row, 0, n, room + (options.log ? width : 0));
    T* const to = y + row * width;
    // The largest of scale·x: of the smallest x where the scale is negative.
    T most = -std::numeric_limits<T>::infinity();
    if (scale > 0) {
      most = largest(from, n) * scale;
    } else {
      for (std::size_t i = 0; i < n; ++i) most = maximum(T(from[i] * scale), most);
    }
    const double sum = exp_sum(from, scale, most, n, options.log ? room : to);
    if (options.log) {
      const auto rest = static_cast<T>(log(sum));
      map_elements<T, 1, 1>(n, {to}, {from}, [=](V v) { return std::array{V(v * scale - most - rest)}; });
      std::fill(to + n, to + width, -std::numeric_limits<T>::infinity());
    } else {
      const auto factor = static_cast<T>(1 / sum);
      map_elements<T, 1, 1>(n, {to}, {to}, [=](V v) { return std::array{V(v * factor)}; });
      std::fill(to + n, to + width, T{});
    }
  });
}

template <class T>
void SoftmaxKernels<T>::backward(const SoftmaxOptions& options, const T* dy, const Rows& dy_rows, const T* y,
                                 const Rows& y_rows, T* dx) {
  using V = Vector<T>;
  const FlushSubnormals environment;
  const std::size_t width = y_rows.width;
  const auto scale = static_cast<T>(options.scale);
  for_rows<T>(y_rows.count(), width, 2, kBackwardPerElement, [&](std::size_t row, T* room) {
    const std::size_t n = length_of(options, row, width);
    const T *const g = part_of(dy, dy_rows, row, 0, n, room), *const p = part_of(y, y_rows, row, 0, n, room + width);
    T* const to = dx + row * width;
    if (options.log) {
      const auto [total] =
          row_sums<1, T>(n, [=](std::size_t i, auto number) { return std::array{load<decltype(number)>(g + i)}; });
      const auto sum = static_cast<T>(total);
      map_elements<T, 1, 2>(n, {to}, {g, p}, [=](V a, V b) { return std::array{V(scale * (a - exp(b) * sum))}; });
    } else {
      const auto [total] = row_sums<1, T>(n, [=](std::size_t i, auto number) {
        using U = decltype(number);
        return std::array{U(load<U>(g + i) * load<U>(p + i))};
      });
      const auto sum = static_cast<T>(total);
      map_elements<T, 1, 2>(n, {to}, {g, p}, [=](V a, V b) { return std::array{V(scale * (b * (a - sum)))}; });
    }
    std::fill(to + n, to + width, T{});
  });
}

template struct SoftmaxKernels<float>;
template struct SoftmaxKernels<double>;

}  // namespace fastopt
