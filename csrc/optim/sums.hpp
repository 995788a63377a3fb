/// Sums over blocks: squares for norms, and the products that rules ask for.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "core/cost.hpp"
#include "core/reduce.hpp"
#include "core/simd.hpp"
#include "optim/gather.hpp"
#include "optim/loop.hpp"
#include "optim/shape.hpp"
#include "optim/tensor.hpp"

namespace fastopt {

/// Whether all elements of a float64 gradient are finite.
inline bool is_finite(const Tensor& tensor, const double* grad) {
  if (tensor.sparse != nullptr) {
    const SparseRows& sparse = *tensor.sparse;
    RowReader<double> reader(sparse);
    for (std::size_t k = 0; k < sparse.count(); ++k)
      for (std::size_t at = 0, n; at < sparse.width; at += n) {
        n = std::min(reader.kMost, sparse.width - at);
        const double* const sums = reader.read(k, at, n);
        if (!std::all_of(sums, sums + n, [](double g) { return std::isfinite(g); })) return false;
      }
    return true;
  }
  if (tensor.rows == nullptr) return std::all_of(grad, grad + tensor.size, [](double g) { return std::isfinite(g); });
  bool all = true;
  for_runs(*tensor.rows, 0, tensor.size, [&](std::ptrdiff_t from, std::size_t count, std::size_t) {
    for (std::size_t i = 0; i < count; ++i)
      all = all && std::isfinite(grad[from + static_cast<std::ptrdiff_t>(i) * tensor.rows->step]);
  });
  return all;
}

/// Σ of the squares of the gradient or the parameter, over a block of at most one chunk.
template <class T> void square(const Tensor& tensor, const Block& block, bool of_param, double* sum) {
  DoubleLanes lanes;
  const auto add = [&](const T* x, std::size_t n) {
    each<T>(n, [&](std::size_t i, auto number) {
      const auto value = load<decltype(number)>(x + i);
      lanes.add(i, value, value);
    });
  };
  if (const T* const from = static_cast<const T*>(of_param ? block.param : block.grad)) {
    const std::size_t whole = block.size - block.size % kLanes;
    // Some lanes at a time, so that their sums stay in registers, over pieces short enough to be read from memory in order.
    // With narrow vectors float64 would lose more by jumping than it gains.
    if constexpr (kVectorBytes == 64 || sizeof(T) == sizeof(float)) {
      using D = Vector<double>;
      constexpr std::size_t kSums = 8;
      for (std::size_t piece = 0; piece < whole; piece += kPiece) {
        const std::size_t end = std::min(piece + kPiece, whole);
        for (std::size_t lane = 0; lane < kLanes; lane += kSums * width<D>) {
          std::array<D, kSums> squares;
          for (std::size_t k = 0; k < kSums; ++k) squares[k] = load<D>(lanes.of + lane + k * width<D>);
          for (std::size_t at = piece + lane; at < end; at += kLanes)
            unroll<kSums>([&](auto k) {
              const D x = widened(from + at + k * width<D>);
              squares[k] += x * x;
            });
          for (std::size_t k = 0; k < kSums; ++k) store(lanes.of + lane + k * width<D>, squares[k]);
        }
      }
    } else {
      for (std::size_t at = 0; at < whole; at += kLanes) add(from + at, kLanes);
    }
    add(from + whole, block.size - whole);
  } else {
    T tile[kLanes];
    for (std::size_t done = 0; done < block.size; done += kLanes) {
      const std::size_t n = std::min(kLanes, block.size - done);
      gather_gradient(tensor, block.at + done, n, tile);
      add(tile, n);
    }
  }
  *sum = lanes.total();
}

/// The sums that a rule asks for, over a block of at most one chunk.
template <class Rule, class T> void measure(const Tensor& tensor, const Block& block, double* sums) {
  constexpr std::size_t S = Rule::state.size();
  const Rule rule = rule_of<Rule>(tensor);
  const bool plain = block.grad != nullptr && tensor.plain();
  const T scale = plain ? static_cast<T>(tensor.scale) : T{1};
  DoubleLanes lanes[Rule::sums];
  alignas(64) T shaped[kPiece];
  for (std::size_t done = 0; done < block.size; done += kPiece) {
    const Block piece = block.part<T>(done, std::min(kPiece, block.size - done));
    Arrays<T, S> arrays(piece);
    if (!plain) {
      shape_gradient(tensor, piece, shaped);
      arrays.grad = shaped;
    }
    each<T>(piece.size, [&, rule, arrays, scale](std::size_t i, auto number) {
      using V = decltype(number);
      [&]<std::size_t... K>(std::index_sequence<K...>) {
        const auto products =
            rule.measure(load<V>(arrays.param + i), load<V>(arrays.grad + i) * scale, load<V>(arrays.state[K] + i)...);
        for (std::size_t k = 0; k < Rule::sums; ++k) lanes[k].add(i % kLanes, products[k].first, products[k].second);
      }(std::make_index_sequence<S>{});
    });
  }
  for (std::size_t k = 0; k < Rule::sums; ++k) sums[k] = lanes[k].total();
}

}  // namespace fastopt
