/// The backward pass of normalizations of rows.
///
///   four rows     read x and dy → Σ g, Σ g x̂ of each row
///                 → dx of all four; dw and db of a column add up over them
///                 (wide rows go one by one, as four would leave the cache; so do those that are written past the caches:
///                 cache lines of four rows that are written in turn leave the processor in pieces)
///   16 rows       → sums in the compute type
///   a chunk       → sums in double
///   all chunks    → dw, db, in order
///
/// The chunks depend on the number of rows only.  Between the two passes over a row of 16 bits, its numbers are kept in
/// the type in which they are computed.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>
#include <vector>

#include "core/cost.hpp"
#include "core/reduce.hpp"
#include "core/rows.hpp"
#include "core/scratch.hpp"
#include "core/threads/environment.hpp"
#include "core/threads/parallel.hpp"
#include "norm/rows/arrays.hpp"
#include "norm/rows/parts.hpp"
#include "norm/statistics.hpp"

namespace fastopt {

/// One row of the backward pass, and its constants: dx = (g − mean_g − x̂·mean_gx)·scale.
template <bool Centred, class S> struct BackwardRow {
  using T = Computed<S>;
  const T *x, *dy;
  const S *next_x, *next_dy, *dsum;
  S* dx;
  RowConstants<Centred, T> constants;
  T mean_g, mean_gx, scale;
};

/// Computes dx of a few rows and adds their terms to dw and db.  The rows go together, so that dw and db are loaded and
/// stored once for all of them.
template <class Norm, bool Added, bool Streamed, std::size_t Few, class S, class T>
[[gnu::noinline]] void write_gradients(const std::array<BackwardRow<Norm::centred, S>, Few>& rows, std::size_t width,
                                       const T* weight, T* dweight, T* dbias) {
  constexpr bool kWeighted = Norm::weights == Weights::columns;
  each<T>(width, [=](std::size_t i, auto number) {
    using V = decltype(number);
    V w = {}, dw = {}, db = {};
    if constexpr (kWeighted) {
      w = load<V>(weight + i);
      dw = load<V>(dweight + i);
      if constexpr (Norm::centred) db = load<V>(dbias + i);
    }
    unroll<Few>([&](auto r) {
      const auto& row = rows[r];
      if constexpr (Streamed) {
        prefetch_along<V>(row.next_x, i);
        prefetch_along<V>(row.next_dy, i);
      }
      const V xhat = row.constants.xhat(load<V>(row.x + i)), dy = load<V>(row.dy + i);
      const V g = kWeighted ? dy * w : dy;
      V dx = g;
      if constexpr (Norm::centred) dx = dx - row.mean_g;
      dx = (dx - xhat * row.mean_gx) * row.scale;
      if constexpr (Added) dx = dx + load<V>(row.dsum + i);
      put<Streamed>(row.dx + i, dx);
      if constexpr (kWeighted) {
        dw += dy * xhat;
        if constexpr (Norm::centred) db += dy;
      }
    });
    if constexpr (kWeighted) {
      store(dweight + i, dw);
      if constexpr (Norm::centred) store(dbias + i, db);
    }
  });
}

/// The backward pass of some chunks of rows, by one thread.
template <class Norm, bool Added, bool Streamed, class S> class RowNormGradient {
 public:
  using T = Computed<S>;

  RowNormGradient(const RowNormBackward<S>& arrays, const T* weight, std::size_t sums)
      : a_(arrays),
        width_(arrays.rows.width),
        together_(!Streamed && width_ * sizeof(T) <= kWideRow ? kTogether : 1),
        contiguous_(arrays.rows.contiguous() && arrays.dy_rows.contiguous() && arrays.dsum_rows.contiguous()),
        weight_(weight),
        sums_(sums),
        kept_(is_16bit<S> ? 2 * together_ * width_ : 0),
        copied_(contiguous_ ? 0 : 3 * together_ * width_),
        block_(sums) {}

  /// Does rows [begin, end).  Writes their sums to `total` and returns Σ g x̂ over all of them.
  double run(std::size_t begin, std::size_t end, double* total) {
    std::fill_n(total, sums_, 0.0);
    gain_ = 0;
    for (std::size_t first = begin; first < end; first += kBlock) {
      std::fill_n(block_.data(), sums_, T{});
      const std::size_t last = std::min(first + kBlock, end);
      std::size_t row = first;
      if constexpr (!Streamed)
        if (together_ == kTogether)
          for (; row + kTogether <= last; row += kTogether) few_rows<kTogether>(row);
      for (; row < last; ++row) few_rows<1>(row);
#pragma omp simd
      for (std::size_t i = 0; i < sums_; ++i) total[i] += static_cast<double>(block_.data()[i]);
    }
    return gain_;
  }

 private:
  template <std::size_t Few> void few_rows(std::size_t first) {
    std::array<BackwardRow<Norm::centred, S>, Few> rows;
    for (std::size_t r = 0; r < Few; ++r) {
      const std::size_t row = first + r, next = std::min(row + Few, a_.rows.count() - 1);
      const S *const x = input(a_.x, a_.rows, row, 0, r), *const dy = input(a_.dy, a_.dy_rows, row, 1, r);
      rows[r].next_x = contiguous_ ? a_.x + a_.rows.offset(next) : x;
      rows[r].next_dy = contiguous_ ? a_.dy + a_.dy_rows.offset(next) : dy;
      rows[r].dsum = Added ? input(a_.dsum, a_.dsum_rows, row, 2, r) : nullptr;
      rows[r].dx = a_.dx + row * width_;
      set_constants(rows[r], row, x, dy, kept_.data() + 2 * r * width_);
    }
    T* const dbias = Norm::centred && sums_ != 0 ? block_.data() + width_ : nullptr;
    write_gradients<Norm, Added, Streamed>(rows, width_, weight_, block_.data(), dbias);
  }

  /// Row number `row` of an array; it is copied if it is not contiguous.
  const S* input(const S* from, const Rows& rows, std::size_t row, std::size_t array, std::size_t r) const {
    from += rows.offset(row);
    return contiguous_ ? from : copied_part(from, rows, 0, width_, copied_.data() + (array * together_ + r) * width_);
  }

  /// Takes the sums of a row, keeps its numbers at `kept`, and sets the row's constants.
  void set_constants(BackwardRow<Norm::centred, S>& it, std::size_t row, const S* x, const S* dy, T* kept) {
    T *const kept_x = kept, *const kept_dy = kept + width_;
    if constexpr (is_16bit<S>) {
      it.x = kept_x;
      it.dy = kept_dy;
    } else {
      it.x = x;
      it.dy = dy;
    }
    const double rstd = a_.rstd[row], n = Norm::averaged ? static_cast<double>(width_) : 1;
    it.constants = RowConstants<Norm::centred, T>(Norm::centred ? a_.mean[row] : 0, rstd);
    it.scale =
        Norm::weights == Weights::scalar ? static_cast<T>(rstd * static_cast<double>(*a_.gain)) : it.constants.scale;
    const auto x_of = [=](std::size_t i, auto number) {
      const auto value = load<decltype(number)>(x + i);
      if constexpr (is_16bit<S>) store(kept_x + i, value);
      return value;
    };
    const auto g_of = [=, weight = weight_](std::size_t i, auto number) {
      using V = decltype(number);
      V g = load<V>(dy + i);
      if constexpr (is_16bit<S>) store(kept_dy + i, g);
      if constexpr (Norm::weights == Weights::columns) g = g * load<V>(weight + i);
      return g;
    };
    if constexpr (Norm::centred) {
      // Σ g x̂ from Σ g (x − high), corrected in double by the difference between the mean and its nearest T.
      const Centre<T> centre = it.constants.centre;
      const auto [g, gx] = row_sums<2, T>(width_, [=](std::size_t i, auto number) {
        const auto value = g_of(i, number);
        return std::array{value, value * (x_of(i, number) - centre.high)};
      });
      it.mean_g = static_cast<T>(g / n);
      it.mean_gx = static_cast<T>((gx - static_cast<double>(centre.low) * g) * rstd / n);
    } else {
      const auto [gx] = row_sums<1, T>(
          width_, [=](std::size_t i, auto number) { return std::array{g_of(i, number) * x_of(i, number)}; });
      it.mean_gx = static_cast<T>(gx * rstd / n);
      gain_ += gx * rstd;
    }
  }

  const RowNormBackward<S>& a_;
  const std::size_t width_, together_;
  const bool contiguous_;
  const T* const weight_;
  const std::size_t sums_;
  const Scratch<T> kept_;
  const Scratch<S> copied_;
  const Scratch<T> block_;
  double gain_ = 0;
};

template <class Norm, class S> void row_norm_backward(const RowNormBackward<S>& a) {
  using T = Computed<S>;
  const FlushSubnormals environment;
  const std::size_t width = a.rows.width, count = a.rows.count();
  constexpr std::size_t kFewest = 2, kMost = 32;  // blocks in a chunk; chunks
  const std::size_t blocks = (count + kBlock - 1) / kBlock;
  const Chunks chunks{count, kBlock * std::max(kFewest, (blocks + kMost - 1) / kMost)};
  constexpr bool kWeighted = Norm::weights == Weights::columns;
  const std::size_t sums = kWeighted ? (Norm::centred ? 2 : 1) * width : 0;  // dw, then db
  const Scratch<double> partial(chunks.count() * (sums + 1));                // of each chunk; the last one is Σ g x̂
  const Scratch<T> ones(kWeighted && !a.weight ? width : 0);
  std::fill_n(ones.data(), kWeighted && !a.weight ? width : 0, T{1});
  const T* const weight = a.weight ? a.weight : ones.data();

  const double bytes = 3.0 * sizeof(S) * static_cast<double>(width * count);
  const bool streamed = worth_streaming(a.dx, width * sizeof(S), 2 * width * count * sizeof(S));
  parallel(threads_for(bytes * kRowBackwardPerByte), [&](int thread, int threads) {
    const Range mine = share(chunks.count(), thread, threads);
    const auto pass = [&](auto added, auto past_caches) {
      RowNormGradient<Norm, added, past_caches, S> gradient(a, weight, sums);
      for (std::size_t chunk = mine.begin; chunk < mine.end; ++chunk) {
        double* const total = partial.data() + chunk * (sums + 1);
        total[sums] = gradient.run(chunks.begin(chunk), chunks.begin(chunk) + chunks.size(chunk), total);
      }
      if constexpr (past_caches) stream_fence();
    };
    with_streaming<S>(streamed, [&](auto past_caches) {
      if constexpr (kWeighted)
        with_flag(a.dsum != nullptr, [&](auto added) { pass(added, past_caches); });
      else
        pass(std::false_type{}, past_caches);
    });
  });

  if (a.dgain) {
    double total = 0;
    for (std::size_t chunk = 0; chunk < chunks.count(); ++chunk) total += partial.data()[(chunk + 1) * (sums + 1) - 1];
    *a.dgain = static_cast<T>(total);
  }
  if (!a.dweight && !a.dbias) return;
  parallel(threads_for(static_cast<double>(chunks.count() * sums) * kSumOfChunks), [&](int thread, int threads) {
    const Range mine = share(sums, thread, threads, kLanes);
    std::vector<double> total(mine.end - mine.begin);
    for (std::size_t chunk = 0; chunk < chunks.count(); ++chunk) {
      const double* const of_chunk = partial.data() + chunk * (sums + 1) + mine.begin;
#pragma omp simd
      for (std::size_t i = 0; i < total.size(); ++i) total[i] += of_chunk[i];
    }
    const auto write = [&](T* to, std::size_t first) {  // this thread's part of the `width` sums from number `first` on
      if (to == nullptr) return;
      for (std::size_t i = std::max(mine.begin, first), end = std::min(mine.end, first + width); i < end; ++i)
        to[i - first] = static_cast<T>(total[i - mine.begin]);
    };
    write(a.dweight, 0);
    write(a.dbias, width);
  });
}

}  // namespace fastopt
