/// Elementary functions, for every type.
#include "nn/elementwise.hpp"

#include <array>
#include <cstddef>

#include "core/functions.hpp"
#include "core/threads/environment.hpp"
#include "nn/parts.hpp"

namespace fastopt {

namespace {

template <class T> using Loop = void (*)(std::size_t n, const T* x, T* y);

/// In the order of the enumeration.
template <class T> const std::array<Loop<T>, 4>& loops_of_functions() {
  using V = Vector<T>;
  static constexpr std::array<Loop<T>, 4> loops{
      [](std::size_t n, const T* x, T* y) {
        map_elements<T, 1, 1>(n, {y}, {x}, [](V v) { return std::array{exp(v)}; });
      },
      [](std::size_t n, const T* x, T* y) {
        map_elements<T, 1, 1>(n, {y}, {x}, [](V v) { return std::array{erf(v)}; });
      },
      [](std::size_t n, const T* x, T* y) {
        map_elements<T, 1, 1>(n, {y}, {x}, [](V v) { return std::array{tanh(v)}; });
      },
      [](std::size_t n, const T* x, T* y) {
        map_elements<T, 1, 1>(n, {y}, {x}, [](V v) { return std::array{sigmoid(v)}; });
      }};
  return loops;
}

}  // namespace

template <class T> void ElementwiseKernels<T>::apply(Elementwise function, const T* x, const Rows& rows, T* y) {
  const FlushSubnormals environment;
  const Loop<T> loop = loops_of_functions<T>()[static_cast<std::size_t>(function)];
  for_row_parts(rows.count(), rows.width, 1, [&](std::size_t row, std::size_t first, std::size_t n) {
    alignas(64) T room[kPart];
    loop(n, part_of(x, rows, row, first, n, room), y + row * rows.width + first);
  });
}

template struct ElementwiseKernels<float>;
template struct ElementwiseKernels<double>;

}  // namespace fastopt
