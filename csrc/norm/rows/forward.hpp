/// The forward pass of normalizations of rows.
///
///   rows k to k+3     read a part → add the residual → keep it → sums       │ at the same time, part by part
///   rows k−4 to k−1   kept part → x̂ → times weight, plus bias → y            │
///   then              sums → mean, rstd → constants of rows k to k+3        k ← k + 4
///
/// So memory is read and written all the time, and a part of weight and bias stays in cache for all of the rows.  Where
/// sums and y are both stored past the caches, there is one row at a time, and reading and writing take turns.  Parts
/// are kept in a scratch buffer where memory has the numbers in another form or they have left the cache: with 16-bit
/// types, with rows that are not contiguous, and with sums that are stored past the caches.  Rows that are too wide to
/// keep are read again instead.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>

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

/// The forward pass of some rows, by one thread.
template <class Norm, bool Added, bool Streamed, class S> class RowNormForward {
 public:
  using T = Computed<S>;

  explicit RowNormForward(const RowNorm<S>& arrays)
      : a_(arrays),
        width_(arrays.rows.width),
        together_(kBeside && width_ * sizeof(T) <= kWidestRow ? kTogether : 1),
        contiguous_(arrays.rows.contiguous() && (!Added || arrays.residual_rows.contiguous())),
        keeps_((kStores || (!contiguous_ && !Added)) && width_ * sizeof(T) <= kWidestRow),
        kept_(keeps_ ? 2 * together_ * width_ : 0),
        room_(contiguous_ ? 0 : 2 * kPart) {
    if (!arrays.weight) std::fill_n(ones_, kPart, T{1});
    if (!arrays.bias) std::fill_n(zeros_, kPart, -T{});
  }

  void run(Range mine) {
    std::array<Row, kTogether> ready{}, next{};  // rows whose constants are known, and rows that are being read
    std::array<Sums, kTogether> sums;
    for (std::size_t written = mine.begin, known = mine.begin; written < mine.end; ready = next) {
      const std::size_t writes = known - written, reads = std::min(together_, mine.end - known);
      for (std::size_t r = 0; r < reads; ++r) begin(next[r], sums[r], known + r);
      for_parts(width_, [&](std::size_t first, std::size_t n) {
        for (std::size_t r = 0; r < std::max(reads, writes); ++r) {
          if (r >= writes) {
            read(next[r], sums[r], first, n, [](std::size_t, auto) {});
            continue;
          }
          const auto write = writing(ready[r], written + r, first, n);
          if constexpr (kBeside) {
            if (r < reads) {
              read(next[r], sums[r], first, n, write);
              continue;
            }
          } else if (r < reads) {
            read(next[r], sums[r], first, n, [](std::size_t, auto) {});
          }
          each<T>(n, [&](std::size_t i, auto number) { write(i, number); });
        }
      });
      for (std::size_t r = 0; r < reads; ++r) finish(next[r], sums[r], known + r);
      written += writes;
      known += reads;
    }
    if constexpr (Streamed) stream_fence();
  }

 private:
  static constexpr std::size_t kSums = Norm::centred ? 2 : 1;
  /// Whether reading stores the numbers in the scratch buffer.  Otherwise x or the sum has them as they are computed,
  /// or they are copied.
  static constexpr bool kStores = is_16bit<S> || (Added && Streamed);

  /// Whether a part is read and another one written in one loop, of several rows in turn.  Where both the sum and y are
  /// stored past the caches, half a line of each in turn would leave the processor by itself.
  static constexpr bool kBeside = !(Added && Streamed);

  /// A row between reading and writing.
  struct Row {
    const S *x, *residual;  // its first elements
    S* sum;
    T* kept;  // null if the row is not kept
    RowConstants<Norm::centred, T> constants;
  };
  struct Sums {
    T near;  // close to the mean
    Lanes<kSums> lanes;
  };

  void begin(Row& row, Sums& sums, std::size_t number) {
    row.x = a_.x + a_.rows.offset(number);
    row.residual = Added ? a_.residual + a_.residual_rows.offset(number) : nullptr;
    row.sum = Added ? a_.sum + number * width_ : nullptr;
    row.kept = keeps_ ? kept_.data() + number % (2 * together_) * width_ : nullptr;
    sums = {};
    if constexpr (Norm::centred) {
      const auto [x, residual] = input(row, 0, std::min(kNear, width_));
      sums.near = near_mean<T>(
          width_, [x = x, residual = residual](std::size_t i, auto of) { return value(x, residual, i, of); });
    }
  }

  /// A part of x and of the residual.
  std::pair<const S*, const S*> input(const Row& row, std::size_t first, std::size_t n) const {
    if (contiguous_) return {row.x + first, Added ? row.residual + first : nullptr};
    S* room = room_.data();
    if constexpr (std::is_same_v<S, T> && !kStores)
      if (!Added && keeps_) room = row.kept + first;
    return {copied_part(row.x, a_.rows, first, n, room),
            Added ? copied_part(row.residual, a_.residual_rows, first, n, room_.data() + kPart) : nullptr};
  }

  template <class V> static V value(const S* x, const S* residual, std::size_t i, V) {
    const V value = load<V>(x + i);
    if constexpr (Added)
      return as_stored<S>(value + load<V>(residual + i));
    else
      return value;
  }

  /// Reads a part for the first time: adds the residual, stores the numbers and takes their sums.  beside(i, V) does
  /// the work on another row; it is called for all elements of the part.
  template <class Beside>
  [[gnu::always_inline]] void read(const Row& row, Sums& sums, std::size_t first, std::size_t n, const Beside& beside) {
    const auto [x, residual] = input(row, first, n);
    T spare[kStores ? kPart : 1];
    add(sums, n,
        [x = x, residual = residual, sum = Added ? row.sum + first : nullptr,
         kept = row.kept != nullptr ? row.kept + first : spare, &beside](std::size_t i, auto number) {
          using V = decltype(number);
          const V s = value(x, residual, i, number);
          if constexpr (Added) put<Streamed>(sum + i, s);
          if constexpr (kStores) store(kept + i, s);
          if constexpr (Streamed) {  // then x comes from memory
            prefetch_along<V>(x, i, kRowAhead / sizeof(S));
            if constexpr (Added) prefetch_along<V>(residual, i, kRowAhead / sizeof(S));
          }
          beside(i, number);
          return s;
        });
  }

  /// The numbers of a part that has been read.
  const T* part(const Row& row, std::size_t first, std::size_t n, T* room) const {
    if (row.kept != nullptr) return row.kept + first;
    if constexpr (std::is_same_v<S, T>) {
      if constexpr (Added) return row.sum + first;
      return contiguous_ ? row.x + first : copied_part(row.x, a_.rows, first, n, room);
    } else {
      const S* const from = Added ? row.sum + first : input(row, first, n).first;
      each<T>(n, [=](std::size_t i, auto number) { store(room + i, load<decltype(number)>(from + i)); });
      return room;
    }
  }

  /// Returns a function that writes element(s) i of a part of y.
  auto writing(const Row& row, std::size_t number, std::size_t first, std::size_t n) {
    return [from = part(row, first, n, again_), constants = row.constants, to = a_.y + number * width_ + first,
            weight = a_.weight ? a_.weight + first : ones_,
            bias = a_.bias ? a_.bias + first : zeros_](std::size_t i, auto number_) {
      using V = decltype(number_);
      V y = constants.xhat(load<V>(from + i));
      if constexpr (Norm::weights == Weights::columns) y = y * load<V>(weight + i);
      if constexpr (Norm::centred) y = y + load<V>(bias + i);
      put<Streamed>(to + i, y);
    };
  }

  /// Adds n elements at(i, V) to the sums of a row.
  template <class At> [[gnu::always_inline]] static void add(Sums& sums, std::size_t n, const At& at) {
    LaneBlock<kSums, T> block;
    sum_block(block, 0, n / kLanes, n % kLanes, [near = sums.near, &at](std::size_t i, auto number) {
      const auto s = at(i, number);
      if constexpr (Norm::centred) {
        const auto d = s - near;
        return std::array{d, d * d};
      } else {
        return std::array{s * s};
      }
    });
    add_block(sums.lanes, block);
  }

  /// Mean, rstd and the constants of a row that has been read.
  void finish(Row& row, Sums& of, std::size_t number) {
    const double n = Norm::averaged ? static_cast<double>(width_) : 1;
    const auto sums = fold(of.lanes);
    const auto visit = [&](const auto& f) {
      for_parts(width_, [&](std::size_t first, std::size_t some) {
        const T* const s = part(row, first, some, again_);
        for (std::size_t i = 0; i < some; ++i) f(static_cast<double>(s[i]));
      });
    };
    double mean = 0, rstd;
    if constexpr (Norm::centred) {
      const auto again = [&](T nearer) {
        of = {nearer, {}};
        for_parts(width_, [&](std::size_t first, std::size_t some) {
          add(of, some, [s = part(row, first, some, again_)](std::size_t i, auto number_) {
            return load<decltype(number_)>(s + i);
          });
        });
        return fold(of.lanes);
      };
      const Moments moments = Moments::around_or_again(of.near, sums, n, a_.eps, again, visit);
      mean = moments.mean;
      rstd = rstd_of(moments.m2, n, a_.eps);
      a_.mean[number] = mean;
    } else {
      rstd = rstd_of(squares_lost<T>(sums[0], n, a_.eps, 0, visit) ? careful_squares(0, visit) : sums[0], n, a_.eps);
    }
    a_.rstd[number] = rstd;
    row.constants = RowConstants<Norm::centred, T>(
        mean, Norm::weights == Weights::scalar ? rstd * static_cast<double>(*a_.gain) : rstd);
  }

  const RowNorm<S>& a_;
  const std::size_t width_, together_;
  const bool contiguous_, keeps_;
  const Scratch<T> kept_;
  const Scratch<S> room_;
  alignas(64) T ones_[kPart], zeros_[kPart];  // stand in for a missing weight and bias: they change nothing
  alignas(64) T again_[kPart];                // a part of a row that is read again
};

/// y, and the statistics.
template <class Norm, class S> void row_norm(const RowNorm<S>& a) {
  const FlushSubnormals environment;
  const std::size_t width = a.rows.width, count = a.rows.count();
  const double bytes = 2.0 * sizeof(S) * static_cast<double>(width * count);
  const auto worth = [&](const S* to) { return worth_streaming(to, width * sizeof(S), 2 * width * count * sizeof(S)); };
  const bool streamed = worth(a.y) && (!a.sum || worth(a.sum));
  parallel(threads_for(bytes * kRowForwardPerByte), [&](int thread, int threads) {
    const Range mine = share(count, thread, threads);
    with_streaming<S>(streamed, [&](auto past_caches) {
      if constexpr (Norm::weights == Weights::columns)
        with_flag(a.residual != nullptr, [&](auto added) { RowNormForward<Norm, added, past_caches, S>(a).run(mine); });
      else
        RowNormForward<Norm, false, past_caches, S>(a).run(mine);
    });
  });
}

}  // namespace fastopt
