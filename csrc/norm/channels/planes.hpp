/// Sums and elementwise work over the planes of one statistic, which stay in cache between the two.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "core/reduce.hpp"
#include "core/rows.hpp"
#include "core/scratch.hpp"
#include "core/threads/parallel.hpp"
#include "norm/channels/constants.hpp"
#include "norm/channels/layout.hpp"
#include "norm/statistics.hpp"

namespace fastopt {

/// A scratch buffer for pieces of planes where an input is not contiguous, and the layouts of the inputs that are
/// copied.
template <class S> struct PlaneScratch {
  static constexpr std::size_t kMost = kBlock * kLanes;  ///< elements of each array that are copied at once

  const Rows *x, *dy, *more;  ///< null for inputs that are contiguous
  Scratch<S> room;
  RowList<S> piece;

  explicit PlaneScratch(const ChannelBatch<S>& batch)
      : x(batch.x.scattered()),
        dy(batch.dy.scattered()),
        more(batch.more.scattered()),
        room(batch.scattered() ? 3 * kMost : 0),
        piece(batch.scattered() ? kBlock : 0) {}
};

/// Some planes of a list: `size` of them, `step` apart, of `width` elements each.
template <class S> struct Planes {
  const RowList<S>* of;
  std::size_t first, step, size, width;
  PlaneScratch<S>* scratch;  ///< null where all inputs are contiguous

  RowPointers<S> operator[](std::size_t i) const { return (*of)[first + i * step]; }
  /// The planes of one of `channels` channels, which take turns in the list.
  Planes of_channel(std::size_t channel, std::size_t channels) const {
    return {of, channel, channels, size / channels, width, scratch};
  }
};

/// Iterates over planes for sums and maps: all at once where they are contiguous, otherwise in pieces, which are
/// copied.  A piece is one block of add_rows: a part of a plane, or some short planes.
template <class S> class Pieces {
 public:
  explicit Pieces(const Planes<S>& planes) : all_(planes), piece_{planes, 0} {}

  struct Piece {
    Planes<S> planes;
    std::size_t row;  ///< the number of the first plane
  };
  /// Moves to the first or next piece; false where there is none.
  bool next() { return all_.scratch ? copy_next() : !std::exchange(begun_, true); }
  const Piece& operator*() const { return piece_; }
  const Piece* operator->() const { return &piece_; }

 private:
  [[gnu::noinline]] bool copy_next() {
    PlaneScratch<S>& scratch = *all_.scratch;
    if (begun_) first_ += piece_.planes.width;
    if (first_ >= all_.width) {
      piece_.row += begun_ ? piece_.planes.size : 0;
      first_ = 0;
    }
    begun_ = true;
    if (all_.width == 0 || piece_.row >= all_.size) return false;
    const std::size_t tiles = (all_.width + kLanes - 1) / kLanes;
    const std::size_t rows = std::min(std::max<std::size_t>(1, kBlock / tiles), all_.size - piece_.row);
    const std::size_t width = std::min(scratch.kMost, all_.width - first_);
    auto* room = scratch.room.data();
    const auto contiguous = [&](const S* from, const Rows* layout) -> const S* {
      if (!from || !layout) return from ? from + first_ : nullptr;
      layout->pack(from, first_, width, room);
      return std::exchange(room, room + width);
    };
    for (std::size_t r = 0; r < rows; ++r) {
      const RowPointers<S> row = all_[piece_.row + r];
      const S *x = contiguous(row.x, scratch.x), *dy = contiguous(row.dy, scratch.dy),
              *more = contiguous(row.more, scratch.more);
      scratch.piece.set(
          r, {x, dy, more, row.to ? row.to + first_ : nullptr, row.also_to ? row.also_to + first_ : nullptr});
    }
    piece_.planes = {&scratch.piece, 0, 1, rows, width, nullptr};
    return true;
  }

  const Planes<S> all_;
  std::size_t first_ = 0;
  bool begun_ = false;
  Piece piece_;
};

/// K sums over planes: terms(plane, i, V); ahead(plane) is called in time to prefetch it.
template <std::size_t K, class S, class Terms, class Ahead>
std::array<double, K> plane_sums(const Planes<S>& planes, const Terms& terms, const Ahead& ahead) {
  Lanes<K> lanes;
  for (Pieces<S> pieces(planes); pieces.next();)
    add_rows<K, Computed<S>>(
        lanes, pieces->planes.size, pieces->planes.width,
        [&, some = pieces->planes](std::size_t p) {
          return [terms, plane = some[p]](std::size_t i, auto number) { return terms(plane, i, number); };
        },
        [&, some = pieces->planes](std::size_t p) { ahead(some[p]); });
  return fold(lanes);
}

/// Σ x².
template <class S> [[gnu::noinline]] double plane_squares(const Planes<S>& planes) {
  return plane_sums<1>(
      planes,
      [](const auto& plane, std::size_t i, auto number) {
        const auto x = load<decltype(number)>(plane.x + i);
        return std::array{x * x};
      },
      [width = planes.width](const auto& plane) { prefetch_row(plane.x, width); })[0];
}

/// Σ (x − near) and Σ (x − near)².
template <class S>
[[gnu::noinline]] std::array<double, 2> plane_sums_around(const Planes<S>& planes, Computed<S> near) {
  return plane_sums<2>(
      planes,
      [=](const auto& plane, std::size_t i, auto number) {
        const auto d = load<decltype(number)>(plane.x + i) - near;
        return std::array{d, d * d};
      },
      [width = planes.width](const auto& plane) { prefetch_row(plane.x, width); });
}

/// Σ g and Σ g (x − high); g is the gradient that reaches the normalization.
template <After after, class S>
[[gnu::noinline]] std::array<double, 2> plane_gradient_sums(const Planes<S>& planes, const Constant<Computed<S>>& c) {
  return plane_sums<2>(
      planes, [=](const auto& plane, std::size_t i, auto number) { return gradient_terms<after>(plane, i, c, number); },
      [width = planes.width](const auto& plane) {
        prefetch_row(plane.x, width);
        prefetch_row(plane.dy, width);
      });
}

/// Calls f for each number of planes, one plane after the other.
template <class S, class F> void visit_planes(const Planes<S>& planes, const F& f) {
  for (Pieces<S> pieces(planes); pieces.next();)
    for (std::size_t k = 0; k < pieces->planes.size; ++k)
      for (std::size_t i = 0; i < pieces->planes.width; ++i)
        f(static_cast<double>(load<Computed<S>>(pieces->planes[k].x + i)));
}

/// The mean, and the sum of squares around it.
template <class S> [[gnu::noinline]] Moments plane_moments(const Planes<S>& planes, double eps) {
  using T = Computed<S>;
  std::array<S, kNear> few;
  const S* x = planes.size == 0 ? nullptr : planes[0].x;
  if (x && planes.scratch && planes.scratch->x) {
    planes.scratch->x->pack(x, 0, std::min(kNear, planes.width), few.data());
    x = few.data();
  }
  const auto near =
      !x ? T{} : near_mean<T>(planes.width, [x](std::size_t i, auto number) { return load<decltype(number)>(x + i); });
  const auto around = [&](T value) { return plane_sums_around(planes, value); };
  return Moments::around_or_again(near, around(near), static_cast<double>(planes.size * planes.width), eps, around,
                                  [&](const auto& f) { visit_planes(planes, f); });
}

/// Elementwise work on planes: to ← formula(plane, i, c, V).  Plane k belongs to set first + k mod sets.
template <class S, class Formula>
[[gnu::noinline]] void map_planes(const Planes<S>& planes, const Constants<Computed<S>>& constants, std::size_t first,
                                  std::size_t sets, bool streamed, const Formula& formula) {
  using T = Computed<S>;
  for (Pieces<S> pieces(planes); pieces.next();)
    for (std::size_t k = 0; k < pieces->planes.size; ++k) {
      const auto c = Constant<T>::of(constants.rows(first + (pieces->row + k) % sets), 0);
      const auto plane = pieces->planes[k];
      with_streaming<S>(streamed, [&](auto past_caches) {
        each<T>(pieces->planes.width,
                [=](std::size_t i, auto number) { put<past_caches>(plane.to + i, formula(plane, i, c, number)); });
      });
    }
}

}  // namespace fastopt
