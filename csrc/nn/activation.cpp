/// Activations, for every type.
#include "nn/activation.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "core/cost.hpp"
#include "core/functions.hpp"
#include "core/scratch.hpp"
#include "core/threads/environment.hpp"
#include "nn/parts.hpp"

namespace fastopt {

namespace {

constexpr double kRootHalf = 0.7071067811865476;   // 1/√2
constexpr double kGaussian = 0.3989422804014327;   // 1/√(2π)
constexpr double kTanhSlope = 0.7978845608028654;  // √(2/π)
constexpr double kCubic = 0.044715, kThrice = 3 * kCubic;

/// f, and f' of what is saved.
template <Activation f> struct Formula;

template <> struct Formula<Activation::identity> {
  template <class V> static V value(V z) { return z; }
  template <class V> static V gradient(V dy, V) { return dy; }
};
template <> struct Formula<Activation::relu> {
  template <class V> static V value(V z) { return z <= 0 ? V{} : z; }
  template <class V> static V gradient(V dy, V y) { return y <= 0 ? V{} : dy; }
};
template <> struct Formula<Activation::gelu> {
  template <class V> static V cdf(V z) {
    using T = typename Element<V>::type;
    return T(0.5) * (1 + erf(V(z * T(kRootHalf))));
  }
  template <class V> static V value(V z) { return z * cdf(z); }
  template <class V> static V gradient(V dy, V z) {
    using T = typename Element<V>::type;
    return dy * (cdf(z) + z * (T(kGaussian) * exp(V(T(-0.5) * z * z))));
  }
};
template <> struct Formula<Activation::gelu_tanh> {
  template <class V> static V inner(V z) {
    using T = typename Element<V>::type;
    return tanh(V(T(kTanhSlope) * z * (1 + T(kCubic) * (z * z))));
  }
  template <class V> static V value(V z) {
    using T = typename Element<V>::type;
    return T(0.5) * z * (1 + inner(z));
  }
  template <class V> static V gradient(V dy, V z) {
    using T = typename Element<V>::type;
    const V t = inner(z);
    return dy * (T(0.5) * (1 + t) + T(0.5) * z * (1 - t * t) * (T(kTanhSlope) * (1 + T(kThrice) * (z * z))));
  }
};
template <> struct Formula<Activation::silu> {
  template <class V> static V value(V z) { return z * sigmoid(z); }
  template <class V> static V gradient(V dy, V z) {
    const V s = sigmoid(z);
    return dy * (s * (1 + z * (1 - s)));
  }
};
template <> struct Formula<Activation::tanh> {
  template <class V> static V value(V z) { return fastopt::tanh(z); }
  template <class V> static V gradient(V dy, V y) { return dy * (1 - y * y); }
};
template <> struct Formula<Activation::sigmoid> {
  template <class V> static V value(V z) { return fastopt::sigmoid(z); }
  template <class V> static V gradient(V dy, V y) { return dy * (y * (1 - y)); }
};

/// The loops of one activation over contiguous elements.
template <class T> struct Loops {
  void (*forward)(std::size_t n, const T* x, const T* bias, T* y, T* z);
  void (*backward)(std::size_t n, const T* dy, const T* saved, T* dx);
};

template <class T, Activation f> constexpr Loops<T> loops() {
  using V = Vector<T>;
  return {[](std::size_t n, const T* x, const T* bias, T* y, T* z) {
            map_elements<T, 2, 2>(n, {z, y}, {x, bias}, [](V a, V b) {
              const V sum = a + b;
              return std::array{sum, Formula<f>::value(sum)};
            });
          },
          [](std::size_t n, const T* dy, const T* saved, T* dx) {
            map_elements<T, 1, 2>(n, {dx}, {dy, saved},
                                  [](V g, V s) { return std::array{Formula<f>::gradient(g, s)}; });
          }};
}

template <class T> const Loops<T>& loops_of(Activation f) {
  using enum Activation;
  static constexpr std::array all{loops<T, identity>(),           loops<T, relu>(), loops<T, gelu>(),
                                  loops<T, gelu_tanh>(),          loops<T, silu>(), loops<T, Activation::tanh>(),
                                  loops<T, Activation::sigmoid>()};  // in the order of the enumeration
  return all[static_cast<std::size_t>(f)];
}

/// Nanoseconds that one thread takes for an element.
double cost_of(Activation f) { return f == Activation::identity || f == Activation::relu ? 0.25 : 1; }

}  // namespace

template <class T>
void ActivationKernels<T>::forward(Activation f, const T* x, const Rows& rows, const T* bias, T* y, T* z) {
  const FlushSubnormals environment;
  const std::size_t width = rows.width;
  const std::vector<T> none(bias ? 0 : kPart, -T{});  // which keeps even the sign of a zero
  const auto loop = loops_of<T>(f).forward;
  for_row_parts(rows.count(), width, cost_of(f), [&](std::size_t row, std::size_t first, std::size_t n) {
    alignas(64) T room[kPart];
    T* const to = y + row * width + first;
    loop(n, part_of(x, rows, row, first, n, room), bias ? bias + first : none.data(), to,
         z ? z + row * width + first : to);
  });
}

template <class T>
void ActivationKernels<T>::backward(Activation f, const T* dy, const Rows& dy_rows, const T* saved,
                                    const Rows& saved_rows, T* dx, T* dbias) {
  const FlushSubnormals environment;
  const std::size_t count = dy_rows.count(), width = dy_rows.width;
  const auto loop = loops_of<T>(f).backward;
  const auto differentiate = [&](std::size_t row, std::size_t first, std::size_t n) {
    alignas(64) T room[2][kPart];
    loop(n, part_of(dy, dy_rows, row, first, n, room[0]), part_of(saved, saved_rows, row, first, n, room[1]),
         dx + row * width + first);
  };
  if (!dbias) return for_row_parts(count, width, cost_of(f), differentiate);

  // Columns are summed chunk by chunk, and the chunks in order.
  const Chunks chunks = chunks_of_columns(count, width);
  const std::size_t groups = (width + kColumns - 1) / kColumns;
  const Scratch<double> partial(chunks.count() * width);
  parallel(threads_for(static_cast<double>(count * width) * cost_of(f)), [&](int thread, int threads) {
    const Range mine = share(chunks.count() * groups, thread, threads);
    for (std::size_t i = mine.begin; i < mine.end; ++i) {
      const std::size_t chunk = i / groups, first = i % groups * kColumns, columns = std::min(kColumns, width - first);
      const std::size_t begin = chunks.begin(chunk), end = begin + chunks.size(chunk);
      ColumnSums<1> sums;
      for (std::size_t block = begin; block < end; block += kBlock) {
        const std::size_t rows = std::min(kBlock, end - block);
        alignas(64) T copied[kBlock * kColumns];
        const T* const from = dx ? dx + block * width + first : copied;
        const std::size_t apart = dx ? width : kColumns;
        for (std::size_t row = 0; row < rows; ++row) {
          if (dx)
            differentiate(block + row, first, columns);
          else
            dy_rows.pack(dy + dy_rows.offset(block + row), first, columns, copied + row * kColumns);
        }
        add_columns<1, T>(sums, from, rows, columns, [from, apart](std::size_t row) {
          return [x = from + row * apart](std::size_t k, auto number) {
            return std::array{load<decltype(number)>(x + k)};
          };
        });
      }
      std::copy_n(sums.of[0], columns, partial.data() + chunk * width + first);
    }
  });
  std::vector<double> total(width);
  for (std::size_t chunk = 0; chunk < chunks.count(); ++chunk) {
    const double* const part = partial.data() + chunk * width;
#pragma omp simd
    for (std::size_t i = 0; i < width; ++i) total[i] += part[i];
  }
  for (std::size_t i = 0; i < width; ++i) dbias[i] = static_cast<T>(total[i]);
}

template struct ActivationKernels<float>;
template struct ActivationKernels<double>;

}  // namespace fastopt
