/// Losses, for every type.
#include "nn/loss.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "core/cost.hpp"
#include "core/scratch.hpp"
#include "core/threads/environment.hpp"
#include "core/threads/parallel.hpp"
#include "nn/exp_sums.hpp"

namespace fastopt {

namespace {

constexpr double kPerLogit = 0.8, kPerElement = 1;  // nanoseconds

/// Σ terms(i, V) over n elements.
template <class T, class Term> double sum_of(std::size_t n, const Term& term) {
  return row_sums<1, T>(n, [&](std::size_t i, auto number) { return std::array{term(i, number)}; })[0];
}

/// One row of cross entropy: dx, if there is one, and the loss.  `room`: width numbers; x: contiguous.
template <class T>
double cross_entropy_of_row(const CrossEntropy<T>& a, std::size_t row, const T* x, const T* q, T* room) {
  using V = Vector<T>;
  const std::size_t width = a.rows.width;
  T* const to = a.dx ? a.dx + row * width : room;
  const T most = largest(x, width);
  const std::int64_t label = a.labels ? a.labels[row] : 0;
  const T x_of_label = a.labels ? x[label] : T{};  // as dx may be x
  const double each = a.smoothing / static_cast<double>(width), one = 1 - a.smoothing;
  // Σ q w and Σ q w (x − most): of the distribution as it is, and of the even one.
  double own = 1, own_x = 0, even = 0, even_x = 0;
  if (a.labels) {
    own = a.weight ? static_cast<double>(a.weight[label]) : 1;
    own_x = own * static_cast<double>(x_of_label - most);
  } else {
    const T* const w = a.weight;
    const auto weighted = [=](std::size_t i, auto number) {
      using U = decltype(number);
      return w ? U(load<U>(q + i) * load<U>(w + i)) : load<U>(q + i);
    };
    own = sum_of<T>(width, weighted);
    own_x = sum_of<T>(width, [=](std::size_t i, auto number) {
      using U = decltype(number);
      return U(weighted(i, number) * (load<U>(x + i) - most));
    });
  }
  if (a.smoothing != 0) {
    const T* const w = a.weight;
    even = w ? sum_of<T>(width, [=](std::size_t i, auto number) { return load<decltype(number)>(w + i); })
             : static_cast<double>(width);
    even_x = sum_of<T>(width, [=](std::size_t i, auto number) {
      using U = decltype(number);
      const U distance = load<U>(x + i) - most;
      return w ? U(load<U>(w + i) * distance) : distance;
    });
  }
  const double weights = one * own + each * even;
  const double products = one * own_x + each * even_x;
  const double sum = exp_sum(x, T(1), most, width, to);
  if (a.dx) {
    const auto p_factor = static_cast<T>(weights * a.factor / sum);
    const auto even_factor = static_cast<T>(each * a.factor), own_factor = static_cast<T>(one * a.factor);
    const T* const w = a.weight;
    if (a.smoothing == 0 && a.labels) {
      map_elements<T, 1, 1>(width, {to}, {to}, [=](V e) { return std::array{V(e * p_factor)}; });
    } else if (a.labels) {
      if (w)
        map_elements<T, 1, 2>(width, {to}, {to, w},
                              [=](V e, V weight) { return std::array{V(e * p_factor - even_factor * weight)}; });
      else
        map_elements<T, 1, 1>(width, {to}, {to}, [=](V e) { return std::array{V(e * p_factor - even_factor)}; });
    } else if (w) {
      map_elements<T, 1, 3>(width, {to}, {to, q, w}, [=](V e, V t, V weight) {
        return std::array{V(e * p_factor - (own_factor * t + even_factor) * weight)};
      });
    } else {
      map_elements<T, 1, 2>(width, {to}, {to, q},
                            [=](V e, V t) { return std::array{V(e * p_factor - (own_factor * t + even_factor))}; });
    }
    if (a.labels) to[label] = to[label] - own_factor * static_cast<T>(own);
  }
  return weights * log(sum) - products;
}

/// The formulas of losses of elements: value and dx.
template <class T, class V> std::array<V, 2> formula_of(Loss loss, V x, V t, V w, V positive, T delta) {
  const V z = x - t;
  if (loss == Loss::mse) return {w * (z * z), w * (z + z)};
  if (loss == Loss::huber) {
    const V magnitude = absolute(z), inner = T(0.5) * (z * z), outer = delta * (magnitude - T(0.5) * delta);
    return {w * (magnitude <= delta ? inner : outer), w * clamp(z, -delta, delta)};
  }
  const V small = exp(V(-absolute(x))), softplus = log_above_1(small) + (x < 0 ? V(-x) : V{});  // log(1 + e^{−x})
  const V share = (x < 0 ? V{} + 1 : small) / (1 + small);                                      // σ(−x)
  const V rest = 1 - t, of_one = 1 + (positive - 1) * t;
  return {w * (rest * x + of_one * softplus), w * (rest - of_one * share)};
}

/// Values and gradients of n elements.
template <class T, Loss loss>
void loss_of_part(std::size_t n, const std::array<const T*, 4>& from, T delta, T factor, T* values, T* dx) {
  using V = Vector<T>;
  map_elements<T, 2, 4>(n, {values, dx}, from, [=](V x, V t, V w, V positive) {
    const auto [value, gradient] = formula_of<T>(loss, x, t, w, positive, delta);
    return std::array{value, V(gradient * factor)};
  });
}

}  // namespace

template <class T> double LossKernels<T>::cross_entropy(const CrossEntropy<T>& a) {
  const FlushSubnormals environment;
  const std::size_t rows = a.rows.count(), width = a.rows.width;
  parallel(threads_for(static_cast<double>(rows * width) * kPerLogit), [&](int thread, int threads) {
    const Range mine = share(rows, thread, threads);
    const Scratch<T> room(3 * width);
    for (std::size_t row = mine.begin; row < mine.end; ++row) {
      if (a.labels && a.labels[row] == a.ignored) {
        a.losses[row] = 0;
        if (a.dx) std::fill_n(a.dx + row * width, width, T{});
        continue;
      }
      const T* const x = part_of(a.x, a.rows, row, 0, width, room.data() + width);
      const T* const q =
          a.targets ? part_of(a.targets, a.target_rows, row, 0, width, room.data() + 2 * width) : nullptr;
      a.losses[row] = cross_entropy_of_row(a, row, x, q, room.data());
    }
  });
  return sum_of<double>(rows,
                        [losses = a.losses](std::size_t i, auto number) { return load<decltype(number)>(losses + i); });
}

template <class T> double LossKernels<T>::element_loss(const ElementLoss<T>& a) {
  const FlushSubnormals environment;
  static constexpr std::array kParts{loss_of_part<T, Loss::mse>, loss_of_part<T, Loss::huber>,
                                     loss_of_part<T, Loss::bce>};
  const auto loss = kParts[static_cast<std::size_t>(a.loss)];
  const std::size_t parts = (a.size + kPart - 1) / kPart;
  const std::vector<T> ones(kPart, T{1});
  std::vector<double> sums(parts);
  for_row_parts(1, a.size, kPerElement, [&](std::size_t, std::size_t first, std::size_t n) {
    alignas(64) T room[6][kPart];
    const auto part = [&](const T* x, const Rows& rows, T* to) {
      return x ? part_of(x, rows, 0, first, n, to) : ones.data();
    };
    T* const values = a.values ? a.values + first : room[4];
    loss(n,
         {part(a.x, a.x_rows, room[0]), part(a.target, a.target_rows, room[1]), part(a.weight, a.weight_rows, room[2]),
          part(a.positive, a.positive_rows, room[3])},
         static_cast<T>(a.delta), static_cast<T>(a.factor), values, a.dx ? a.dx + first : room[5]);
    sums[first / kPart] =
        sum_of<T>(n, [values](std::size_t i, auto number) { return load<decltype(number)>(values + i); });
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

template struct LossKernels<float>;
template struct LossKernels<double>;

}  // namespace fastopt
