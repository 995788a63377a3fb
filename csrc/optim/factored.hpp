/// Rules that store the second moment of a matrix as one number for each row and one for each column.
///
/// The gradients are read three times: for the sums of rows and columns, for the norm of the direction, and for the
/// update.  The state is small: one thread reads and writes it between the passes.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <new>
#include <vector>

#include "optim/blocks.hpp"
#include "optim/kernel.hpp"
#include "optim/loop.hpp"
#include "optim/rule.hpp"
#include "optim/rules/adafactor.hpp"
#include "optim/shape.hpp"
#include "optim/tensor.hpp"

namespace fastopt {

/// Calls body(piece, gradients) for the pieces of a block; no piece crosses the end of a row.
template <class T, class Body> void for_row_pieces(const Tensor& tensor, const Block& block, Body&& body) {
  const bool plain = block.grad != nullptr && tensor.plain() && tensor.scale == 1;
  alignas(64) T shaped[kPiece];
  for (std::size_t done = 0, n; done < block.size; done += n) {
    const std::size_t left_in_row = tensor.columns - (block.at + done) % tensor.columns;
    n = std::min({plain ? tensor.columns : kPiece, left_in_row, block.size - done});
    const Block piece = block.part<T>(done, n);
    if (!plain) shape_gradient(tensor, piece, shaped);
    body(piece, plain ? static_cast<const T*>(piece.grad) : shaped);
  }
}

/// Takes Σg² of a row of a matrix; the squares are also added to the sums of the columns.
template <class T> void sum_factors(const Tensor& tensor, const Block& row, double* of_row, double* of_columns) {
  DoubleLanes lanes;
  for_row_pieces<T>(tensor, row, [&](const Block& piece, const T* g) {
    add_squares(g, piece.size, lanes, of_columns + (piece.at - row.at));
  });
  *of_row = lanes.total();
}

/// Brings row_var and col_var to the new step and replaces Σg² of each row by its factor: v = factor·col_var.
template <class Rule, class T> void join_factors(const Tensor& tensor, double* rows, const double* columns) {
  const Rule& rule = rule_of<Rule>(tensor);
  const std::size_t chunks = (tensor.matrix_rows + kFactorRows - 1) / kFactorRows, width = tensor.columns;
  const std::size_t matrices = tensor.size / (tensor.matrix_rows * width);
  T* row_var = static_cast<T*>(tensor.state[0]);
  T* column_var = static_cast<T*>(tensor.state[1]);
  for (std::size_t m = 0; m < matrices; ++m, columns += chunks * width) {
    for (std::size_t c = 0; c < width; ++c) {
      double sum = 0;
      for (std::size_t chunk = 0; chunk < chunks; ++chunk) sum += columns[chunk * width + c];
      T& var = column_var[m * width + c];
      var = rule.kept * var + rule.fresh * static_cast<T>(sum / static_cast<double>(tensor.matrix_rows));
    }
    double mean = 0;
    for (std::size_t r = m * tensor.matrix_rows; r < (m + 1) * tensor.matrix_rows; ++r) {
      row_var[r] = rule.kept * row_var[r] + rule.fresh * static_cast<T>(rows[r] / static_cast<double>(width));
      mean += static_cast<double>(row_var[r]);
    }
    mean = std::max(mean / static_cast<double>(tensor.matrix_rows), rule.eps1);  // keeps NaN
    // Divided by infinity the other rows would have a second moment of 0, and their steps would be huge.
    if (std::isinf(mean)) mean = std::numeric_limits<double>::quiet_NaN();
    for (std::size_t r = m * tensor.matrix_rows; r < (m + 1) * tensor.matrix_rows; ++r)
      rows[r] = static_cast<double>(static_cast<T>(static_cast<double>(row_var[r]) / mean));
  }
}

template <class T> struct FactorsAt {
  T row;
  const T* column;

  FactorsAt(const Tensor& tensor, std::size_t at)
      : row(static_cast<T>(tensor.row_factor[at / tensor.columns])),
        column(static_cast<const T*>(tensor.state[1]) + at / (tensor.matrix_rows * tensor.columns) * tensor.columns +
               at % tensor.columns) {}
};

template <class Rule, class T> void update_factored(const Tensor& tensor, const Block& block, bool) {
  const Rule rule = rule_of<Rule>(tensor);
  const T decay = static_cast<T>(tensor.setting->around.decay);
  for_row_pieces<T>(tensor, block, [&](const Block& piece, const T* g) {
    const FactorsAt<T> factors(tensor, piece.at);
    T* const param = static_cast<T*>(piece.param);
    map<T>(piece.size, [rule, decay, factors, param, g](std::size_t i, auto number) {
      using V = decltype(number);
      const V p = load<V>(param + i) * decay;
      store(param + i, p - rule.rate * rule.direction(load<V>(g + i), factors.row, load<V>(factors.column + i)));
    });
    finish<T>(tensor, piece);
  });
}

template <class Rule, class T> void shrink_factored(const Tensor& tensor, const Block& piece) {
  map_briefly<T>(piece.size, [rule = rule_of<Rule>(tensor), factors = FactorsAt<T>(tensor, piece.at),
                              param = static_cast<T*>(piece.param),
                              l1 = static_cast<T>(tensor.setting->around.proximal)](std::size_t i, auto number) {
    using V = decltype(number);
    store(param + i, shrunk<V>(load<V>(param + i), l1 * rule.rate_of(factors.row, load<V>(factors.column + i))));
  });
}

template <class Rule, class T> void measure_factored(const Tensor& tensor, const Block& block, double* sums) {
  const Rule rule = rule_of<Rule>(tensor);
  DoubleLanes lanes[2];
  alignas(64) T directions[kPiece];
  for (std::size_t done = 0; done < block.size; done += kPiece) {
    const Block part = block.part<T>(done, std::min(kPiece, block.size - done));
    for_row_pieces<T>(tensor, part, [&](const Block& piece, const T* g) {
      T* const to = directions + (piece.at - part.at);
      map<T>(piece.size, [rule, factors = FactorsAt<T>(tensor, piece.at), to, g](std::size_t i, auto number) {
        using V = decltype(number);
        store(to + i, rule.direction(load<V>(g + i), factors.row, load<V>(factors.column + i)));
      });
    });
    each<T>(part.size, [&, param = static_cast<const T*>(part.param)](std::size_t i, auto number) {
      using V = decltype(number);
      const V p = load<V>(param + i), u = load<V>(directions + i);
      lanes[0].add(i % kLanes, p, p);
      lanes[1].add(i % kLanes, u, u);
    });
  }
  for (std::size_t k = 0; k < 2; ++k) sums[k] = lanes[k].total();
}

/// Adafactor for matrices: algorithm 4.  r and c are the means of g² over rows and columns.
///   v_ij = r_i c_j / max(mean r, ε₁)
/// A matrix whose mean is not finite is NaN after the step, as it is after torch's first step.
template <class T> struct AdafactorFactored : Adafactor<T> {
  static constexpr std::array state{exact("row_var"), exact("col_var")};
  static constexpr bool factored = true;
  using Adafactor<T>::Adafactor;

  template <class V> V direction(V g, T row, V column) const { return g / this->root(row * column); }
  template <class V> V rate_of(T row, V column) const { return this->rate / this->root(row * column); }
};

template <class Rule, class T> Kernel factored_kernel() {
  Kernel kernel = kernel_of<Rule, T>();
  kernel.bytes = 3 * sizeof(T);
  kernel.sum_factors = &sum_factors<T>;
  kernel.join_factors = &join_factors<Rule, T>;
  kernel.update = &update_factored<Rule, T>;
  kernel.shrink = &shrink_factored<Rule, T>;
  kernel.measure = &measure_factored<Rule, T>;
  return kernel;
}

/// Brings the factors of all factored tensors to the new step.  The tensors' row_factor will point into `rows`.
inline void factor(std::vector<Tensor>& tensors, std::vector<double>& rows) {
  struct Part {
    const Tensor* tensor;
    std::size_t first, rows;  // the rows of all its matrices
    double *of_rows, *of_columns;
  };
  std::size_t all_rows = 0, all_columns = 0;
  double bytes = 0;
  for (const Tensor& tensor : tensors)
    if (tensor.kernel->factored() && tensor.size != 0) {
      const std::size_t chunks = (tensor.matrix_rows + kFactorRows - 1) / kFactorRows;
      all_rows += tensor.size / tensor.columns;
      all_columns += tensor.size / (tensor.matrix_rows * tensor.columns) * chunks * tensor.columns;
      bytes += static_cast<double>(tensor.size * tensor.kernel->itemsize);
    }
  if (all_rows == 0) return;
  rows.assign(all_rows, 0);
  std::vector<double> columns(all_columns);
  std::vector<Part> parts;
  std::vector<std::pair<Tensor*, double*>> whole;  // with the sums of their columns
  double* of_rows = rows.data();
  double* of_columns = columns.data();
  for (Tensor& tensor : tensors)
    if (tensor.kernel->factored() && tensor.size != 0) {
      tensor.row_factor = of_rows;
      whole.emplace_back(&tensor, of_columns);
      const std::size_t total = tensor.size / tensor.columns;
      for (std::size_t row = 0; row < total;) {
        const std::size_t left = tensor.matrix_rows - row % tensor.matrix_rows, count = std::min(kFactorRows, left);
        parts.push_back({&tensor, row, count, of_rows, of_columns});
        row += count;
        of_columns += tensor.columns;
      }
      of_rows += total;
    }
  parallel(threads_for(bytes * kStepPerByte), [&](int thread, int threads) {
    const Range mine = share(parts.size(), thread, threads);
    for (std::size_t i = mine.begin; i < mine.end; ++i) {
      const Part& part = parts[i];
      const Tensor& tensor = *part.tensor;
      const Reader reader(tensor, tensor.columns);
      for (std::size_t row = part.first; row < part.first + part.rows; ++row)
        tensor.kernel->sum_factors(tensor, reader.read({row * tensor.columns, (row + 1) * tensor.columns}),
                                   part.of_rows + row, part.of_columns);
    }
  });
  parallel(threads_for(bytes / 64 * kStepPerByte), [&](int thread, int threads) {
    const Range mine = share(whole.size(), thread, threads);
    for (std::size_t i = mine.begin; i < mine.end; ++i) {
      const Tensor& tensor = *whole[i].first;
      tensor.kernel->join_factors(tensor, const_cast<double*>(tensor.row_factor), whole[i].second);
    }
  });
}

}  // namespace fastopt
