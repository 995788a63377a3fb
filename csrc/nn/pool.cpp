/// Pooling of images, for every type.
#include "nn/pool.hpp"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/codec/half.hpp"
#include "core/cost.hpp"
#include "core/reduce.hpp"
#include "core/threads/parallel.hpp"
#include "nn/phases.hpp"

namespace fastopt {

double Divisors::operator()(const Pool& pool, std::ptrdiff_t oy, std::ptrdiff_t ox) const {
  if (always != 0) return always;
  const auto along = [&](const Windows& axis, std::ptrdiff_t o) {
    const Windows::Range inside = axis.elements(o);
    if (!padding) return inside.end - inside.begin;
    return std::min(axis.at(o, axis.size), axis.in + axis.padding) - axis.at(o, 0);
  };
  return static_cast<double>(along(pool.y, oy) * along(pool.x, ox));
}

namespace {

/// As many integers, of the same size, as V has numbers.
template <class V> struct PlacesOf {
  using type = decltype(V{} < V{});
};
template <> struct PlacesOf<float> {
  using type = std::int32_t;
};
template <> struct PlacesOf<double> {
  using type = std::int64_t;
};
template <class V> using Places = typename PlacesOf<V>::type;
template <class T> using Place = Places<T>;

template <class V> inline Places<V> load_places(const std::int32_t* from) {
  if constexpr (is_number<V>)
    return *from;
  else if constexpr (sizeof(typename Element<V>::type) == 4)
    return load<Places<V>>(from);
  else
    return __builtin_convertvector(load<typename Words<width<V>>::type>(from), Places<V>);
}
template <class V> inline void store_places(std::int32_t* to, Places<V> places) {
  if constexpr (is_number<V>)
    *to = static_cast<std::int32_t>(places);
  else if constexpr (sizeof(typename Element<V>::type) == 4)
    store(to, places);
  else
    store(to, __builtin_convertvector(places, typename Words<width<V>>::type));
}

double cost(const Pool& pool, const Images& in) {
  return static_cast<double>(in.samples * in.channels * pool.pooled() * pool.y.size * pool.x.size) * kPoolPerElement;
}

/// Elements of windows that are worked on together: those at one place of theirs, in a row of planes or of channels.
template <class E> struct Source {
  const E* from;
  std::ptrdiff_t place;  ///< in the plane, of the first one
};
template <class E> struct Sources : std::vector<Source<E>> {
  /// Calls body(the elements of V's windows from number i on, place of that of window 0), for each element in order.
  template <class V, class Body>
  [[gnu::always_inline]] inline void each_element(std::size_t i, const Body& body) const {
    for (const Source<E>& one : *this) body(load<V>(one.from + i), one.place);
  }
};
/// The same for windows of two elements in a row that lie side by side.
template <class E> struct PairSources : std::vector<Source<E>> {
  template <class V, class Body>
  [[gnu::always_inline]] inline void each_element(std::size_t i, const Body& body) const {
    for (const Source<E>& one : *this) {
      body(every_second<0, V>(one.from + 2 * i), one.place);
      body(every_second<1, V>(one.from + 2 * i), one.place + 1);
    }
  }
};

/// Whether windows are pairs of neighbours along rows, that begin with the first.
bool in_pairs(const Windows& axis) {
  return axis.size == 2 && axis.stride == 2 && axis.padding == 0 && axis.dilation == 1 && 2 * axis.out <= axis.in;
}

/// The rows of a plane that windows of one row of results need, each in as many phases as the windows need.
template <class S> class SplitRows {
 public:
  using T = Computed<S>;

  SplitRows(const Pool& pool, T filler)
      : pool_(pool),
        filler_(filler),
        slots_(std::min(pool.y.reach(), pool.y.in)),
        phases_(std::min(pool.x.stride, pool.x.reach())),
        length_(pool.x.out + (pool.x.reach() - 1) / pool.x.stride),
        held_(size(slots_), -1),
        room_(size(slots_ * phases_ * length_)) {}

  void begin_plane() { std::ranges::fill(held_, -1); }

  /// Lists what the windows of row `oy` of results have inside, in order; x: the plane.
  void list(const S* x, const Images& in, std::ptrdiff_t oy, Sources<T>& sources) {
    const Windows& wide = pool_.x;
    sources.clear();
    const Windows::Range inside = pool_.y.elements(oy);
    for (std::ptrdiff_t ky = inside.begin; ky < inside.end; ++ky) {
      const std::ptrdiff_t y = pool_.y.at(oy, ky);
      T* const row = room_.data() + y % slots_ * phases_ * length_;
      if (held_[size(y % slots_)] != y) split(x + y * in.row, in.column, row);
      held_[size(y % slots_)] = y;
      for (std::ptrdiff_t kx = 0; kx < wide.size; ++kx) {
        const std::ptrdiff_t at = kx * wide.dilation;
        sources.push_back({row + at % wide.stride * length_ + at / wide.stride, y * wide.in + at - wide.padding});
      }
    }
  }

 private:
  void split(const S* row, std::ptrdiff_t step, T* to) const {
    const Windows& wide = pool_.x;
    for (std::ptrdiff_t phase = 0; phase < phases_; ++phase, to += length_) {
      const auto first_from = [&](std::ptrdiff_t at) {  // the element of this phase that is at `at` or behind it
        const std::ptrdiff_t n = at + wide.padding - phase;
        return std::min(n <= 0 ? 0 : (n + wide.stride - 1) / wide.stride, length_);
      };
      const std::ptrdiff_t begin = first_from(0), end = std::max(begin, first_from(wide.in));
      std::fill(to, to + begin, filler_);
      if (begin < end)
        take_every(row + (begin * wide.stride + phase - wide.padding) * step, wide.stride * step, size(end - begin),
                   to + begin);
      std::fill(to + end, to + length_, filler_);
    }
  }

  const Pool& pool_;
  T filler_;
  std::ptrdiff_t slots_, phases_, length_;
  std::vector<std::ptrdiff_t> held_;
  std::vector<T> room_;
};

/// Calls body(sources, oy, ox, count, to): for `count` results one behind the other, from element `to` on.  With planes
/// these are a row of results, with columns the channels of one.
template <bool Columns, class S, class Body>
void for_windows(const Pool& pool, const S* x, const Images& x_in, const Images& in, Computed<S> filler,
                 const Body& body) {
  using T = Computed<S>;
  if constexpr (Columns) {
    parallel(threads_for(cost(pool, in)), [&](int thread, int threads) {
      const Range mine = share(size(in.samples * pool.pooled()), thread, threads);
      Sources<S> sources;
      const bool apart = x_in.channel != 1 && in.channels > 1;
      std::vector<S> packed(apart ? size(pool.y.size * pool.x.size * in.channels) : 0);
      for (auto i = static_cast<std::ptrdiff_t>(mine.begin); i < static_cast<std::ptrdiff_t>(mine.end); ++i) {
        const std::ptrdiff_t n = i / pool.pooled(), oy = i % pool.pooled() / pool.x.out, ox = i % pool.x.out;
        const Windows::Range tall = pool.y.elements(oy), wide = pool.x.elements(ox);
        sources.clear();
        for (std::ptrdiff_t ky = tall.begin; ky < tall.end; ++ky)
          for (std::ptrdiff_t kx = wide.begin; kx < wide.end; ++kx) {
            const std::ptrdiff_t y = pool.y.at(oy, ky), at = pool.x.at(ox, kx);
            const S* from = x + x_in.offset(n, 0, y, at);
            if (apart) {
              S* const to = packed.data() + sources.size() * size(in.channels);
              for (std::ptrdiff_t c = 0; c < in.channels; ++c) to[c] = from[c * x_in.channel];
              from = to;
            }
            sources.push_back({from, y * pool.x.in + at});
          }
        body(sources, oy, ox, size(in.channels), in.offset(n, 0, oy, ox));
      }
    });
  } else {
    parallel(threads_for(cost(pool, in)), [&](int thread, int threads) {
      const Range mine = share(size(in.samples * in.channels * pool.y.out), thread, threads);
      SplitRows<S> rows(pool, filler);
      Sources<T> sources;
      PairSources<S> pairs;
      const bool paired = in_pairs(pool.x) && x_in.column == 1;
      std::ptrdiff_t oy = static_cast<std::ptrdiff_t>(mine.begin) % pool.y.out;
      std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(mine.begin) / pool.y.out, n = 0, c = 0;
      for (std::size_t i = mine.begin; i < mine.end; ++i, ++oy) {
        if (oy == pool.y.out) oy = 0, ++plane;
        if (oy == 0 || i == mine.begin) {
          rows.begin_plane();
          n = plane / in.channels;
          c = plane % in.channels;
        }
        const S* const from = x + x_in.offset(n, c, 0, 0);
        if (paired) {
          pairs.clear();
          const Windows::Range inside = pool.y.elements(oy);
          for (std::ptrdiff_t ky = inside.begin; ky < inside.end; ++ky) {
            const std::ptrdiff_t y = pool.y.at(oy, ky);
            pairs.push_back({from + y * x_in.row, y * pool.x.in});
          }
          body(pairs, oy, 0, size(pool.x.out), in.offset(n, c, oy, 0));
        } else {
          rows.list(from, x_in, oy, sources);
          body(sources, oy, 0, size(pool.x.out), in.offset(n, c, oy, 0));
        }
      }
    });
  }
}

/// For each window along a row, numbers that `of` makes of it.
template <class T, class Of> std::vector<T> along_row(const Pool& pool, const Of& of) {
  std::vector<T> all(size(pool.x.out));
  for (std::ptrdiff_t ox = 0; ox < pool.x.out; ++ox) all[size(ox)] = static_cast<T>(of(ox));
  return all;
}

/// What each result of a plane is divided by.
template <class T> std::vector<T> divisors_of(const Pool& pool, const Divisors& divisors) {
  std::vector<T> all;
  for (std::ptrdiff_t oy = 0; oy < pool.y.out; ++oy)
    for (std::ptrdiff_t ox = 0; ox < pool.x.out; ++ox) all.push_back(static_cast<T>(divisors(pool, oy, ox)));
  return all;
}

/// A row of `count` numbers that are `step` apart, contiguous: itself, or a copy in `room`.
template <class S> const S* contiguous(const S* row, std::ptrdiff_t step, std::size_t count, std::vector<S>& room) {
  if (step == 1 || count <= 1) return row;
  room.resize(count);
  for (std::size_t i = 0; i < count; ++i) room[i] = row[static_cast<std::ptrdiff_t>(i) * step];
  return room.data();
}

/// dx[i] = Σ over the windows that contain i: of dy where i is their largest element, or of dy/divisor; in columns.
template <bool Max, class S>
void gather_columns(const Pool& pool, const std::vector<Computed<S>>& divisors, const S* dy, const Images& dy_in,
                    const std::int32_t* indices, const Images& indices_in, S* dx, const Images& in) {
  using T = Computed<S>;
  const WindowsOf tall(pool.y), wide(pool.x);
  const auto divided = [&](auto value, std::ptrdiff_t oy, std::ptrdiff_t ox) {
    return value / (decltype(value){} + divisors[size(oy * pool.x.out + ox)]);
  };
  struct Of {
    const S* dy;
    const std::int32_t* places;
    std::ptrdiff_t oy, ox;
  };
  parallel(threads_for(cost(pool, in)), [&](int thread, int threads) {
    const Range mine = share(size(in.samples * pool.plane()), thread, threads);
    const std::size_t channels = size(in.channels);
    std::vector<Of> windows;
    std::vector<std::vector<S>> rooms(size(pool.y.size * pool.x.size));
    for (auto i = static_cast<std::ptrdiff_t>(mine.begin); i < static_cast<std::ptrdiff_t>(mine.end); ++i) {
      const std::ptrdiff_t n = i / pool.plane(), place = i % pool.plane(), y = place / pool.x.in, x = place % pool.x.in;
      windows.clear();
      for (const auto* v = tall.begin(y); v != tall.end(y); ++v)
        for (const auto* h = wide.begin(x); h != wide.end(x); ++h)
          windows.push_back({contiguous(dy + dy_in.offset(n, 0, v->window, h->window), dy_in.channel, channels,
                                        rooms[windows.size()]),
                             Max ? indices + indices_in.offset(n, 0, v->window, h->window) : nullptr, v->window,
                             h->window});
      S* const to = dx + in.offset(n, 0, y, x);
      each<T>(channels, [&](std::size_t c, auto number) {
        using V = decltype(number);
        V sum{};
        for (const Of& one : windows) {
          const V value = load<V>(one.dy + c);
          if constexpr (Max)
            sum += load_places<V>(one.places + c) == Places<V>{} + static_cast<Place<T>>(place) ? value : V{};
          else
            sum += divided(value, one.oy, one.ox);
        }
        store(to + c, sum);
      });
    }
  });
}

/// The same of dy/divisor, in planes.
template <class S>
void gather_means(const Pool& pool, const std::vector<Computed<S>>& divisors, const S* dy, const Images& dy_in, S* dx,
                  const Images& in) {
  using T = Computed<S>;
  const WindowsOf tall(pool.y);
  // Along a row of dx, element q of phase f is at q·stride + f − padding.
  const std::ptrdiff_t stride = pool.x.stride, length = (pool.x.in + pool.x.padding + stride - 1) / stride + 1;
  parallel(threads_for(cost(pool, in)), [&](int thread, int threads) {
    const Range mine = share(size(in.samples * in.channels * pool.y.in), thread, threads);
    std::vector<T> phases(size(stride * length)), quotients(size(pool.x.out));
    std::vector<S> room;
    const bool paired = in_pairs(pool.x) && (dy_in.column == 1 || pool.x.out == 1);
    std::ptrdiff_t y = static_cast<std::ptrdiff_t>(mine.begin) % pool.y.in;
    std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(mine.begin) / pool.y.in, n = 0, c = 0;
    struct Row {
      const S* dy;
      const T* divisors;
    };
    std::vector<Row> rows;
    for (std::size_t i = mine.begin; i < mine.end; ++i, ++y) {
      if (y == pool.y.in) y = 0, ++plane;
      if (y == 0 || i == mine.begin) n = plane / in.channels, c = plane % in.channels;
      S* const to_row = dx + in.offset(n, c, y, 0);
      if (paired) {
        rows.clear();
        for (const auto* v = tall.begin(y); v != tall.end(y); ++v)
          rows.push_back({dy + dy_in.offset(n, c, v->window, 0), divisors.data() + v->window * pool.x.out});
        each<T>(size(pool.x.out), [&](std::size_t o, auto number) {
          using V = decltype(number);
          V sum{};
          for (const Row& row : rows) sum += load<V>(row.dy + o) / load<V>(row.divisors + o);
          store_in_turn(to_row + 2 * o, sum, sum);
        });
        std::fill(to_row + 2 * pool.x.out, to_row + pool.x.in, S{});
        continue;
      }
      std::ranges::fill(phases, T{});
      for (const auto* v = tall.begin(y); v != tall.end(y); ++v) {
        const S* const row = contiguous(dy + dy_in.offset(n, c, v->window, 0), dy_in.column, size(pool.x.out), room);
        each<T>(size(pool.x.out), [&](std::size_t k, auto number) {
          using V = decltype(number);
          store(quotients.data() + k, load<V>(row + k) / load<V>(divisors.data() + size(v->window * pool.x.out) + k));
        });
        for (std::ptrdiff_t kx = pool.x.size; kx-- > 0;) {
          const std::ptrdiff_t at = kx * pool.x.dilation;
          const auto [begin, end] = pool.x.windows(kx);
          T* const to = phases.data() + at % stride * length + at / stride;
          each<T>(size(end - begin), [&, first = size(begin)](std::size_t k, auto number) {
            using V = decltype(number);
            store(to + first + k, load<V>(to + first + k) + load<V>(quotients.data() + first + k));
          });
        }
      }
      merge_phases(phases.data(), size(length), size(stride), size(pool.x.padding), size(pool.x.in), to_row);
    }
  });
}

/// dx = 0, and then dy[o] is added where its largest element was, in the order of o: in planes, each on one thread.
template <class S>
void scatter(const Pool& pool, const S* dy, const Images& dy_in, const std::int32_t* indices, const Images& indices_in,
             S* dx, const Images& in) {
  using T = Computed<S>;
  const bool direct = std::is_same_v<S, T> && in.row == pool.x.in;
  const auto last = static_cast<std::uint32_t>(pool.plane() - 1);
  parallel(threads_for(cost(pool, in)), [&](int thread, int threads) {
    const Range mine = share(size(in.samples * in.channels), thread, threads);
    std::vector<T> room(direct ? 0 : size(pool.plane()));
    for (auto plane = static_cast<std::ptrdiff_t>(mine.begin); plane < static_cast<std::ptrdiff_t>(mine.end); ++plane) {
      const std::ptrdiff_t n = plane / in.channels, c = plane % in.channels;
      S* const to = dx + in.offset(n, c, 0, 0);
      T* sums = room.data();
      if constexpr (std::is_same_v<S, T>)
        if (direct) sums = to;
      std::fill_n(sums, pool.plane(), T{});
      for (std::ptrdiff_t oy = 0; oy < pool.y.out; ++oy) {
        const S* const row = dy + dy_in.offset(n, c, oy, 0);
        const std::int32_t* const places = indices + indices_in.offset(n, c, oy, 0);
        for (std::ptrdiff_t ox = 0; ox < pool.x.out; ++ox) {
          // They have been checked; the limit keeps what another thread has written there since inside of the plane.
          const std::uint32_t place = std::min(static_cast<std::uint32_t>(places[ox]), last);
          sums[place] += load<T>(row + ox * dy_in.column);
        }
      }
      if (direct) continue;
      for (std::ptrdiff_t y = 0; y < pool.y.in; ++y, sums += pool.x.in)
        each<T>(size(pool.x.in), [&](std::size_t i, auto number) {
          using V = decltype(number);
          store(to + y * in.row + i, load<V>(sums + i));
        });
    }
  });
}

}  // namespace

template <class S>
void PoolKernels<S>::max(const Pool& pool, const S* x, const Images& x_in, S* y, std::int32_t* indices,
                         const Images& in) {
  using T = Computed<S>;
  constexpr T kLeast = -std::numeric_limits<T>::infinity();
  // Where the windows of a row are, and the first element inside of each.
  const auto steps = along_row<Place<T>>(pool, [&](std::ptrdiff_t ox) { return ox * pool.x.stride; });
  const auto first =
      along_row<Place<T>>(pool, [&](std::ptrdiff_t ox) { return pool.x.at(ox, pool.x.elements(ox).begin); });
  with_flag(indices != nullptr, [&](auto indexed) {
    with_flag(pool.columns, [&](auto columns) {
      for_windows<columns>(
          pool, x, x_in, in, kLeast,
          [&](const auto& sources, std::ptrdiff_t oy, std::ptrdiff_t ox, std::size_t count, std::ptrdiff_t at) {
            const auto above = static_cast<Place<T>>(pool.y.at(oy, pool.y.elements(oy).begin) * pool.x.in);
            each<T>(count, [&](std::size_t i, auto number) {
              using V = decltype(number);
              V best = V{} + kLeast;
              Places<V> place{}, step{};
              if constexpr (columns) {
                place += above + first[size(ox)];
              } else {
                place = load<Places<V>>(first.data() + i) + above;
                step = load<Places<V>>(steps.data() + i);
              }
              sources.template each_element<V>(i, [&](V value, std::ptrdiff_t from) {
                const auto better = (value > best) | (value != value);
                best = better ? value : best;
                if constexpr (indexed) place = better ? step + static_cast<Place<T>>(from) : place;
              });
              store(y + at + i, best);
              if constexpr (indexed) store_places<V>(indices + at + i, place);
            });
          });
    });
  });
}

template <class S>
void PoolKernels<S>::mean(const Pool& pool, const Divisors& divisors, const S* x, const Images& x_in, S* y,
                          const Images& in) {
  using T = Computed<S>;
  const std::vector<T> by = divisors_of<T>(pool, divisors);
  with_flag(pool.columns, [&](auto columns) {
    for_windows<columns>(
        pool, x, x_in, in, T{},
        [&](const auto& sources, std::ptrdiff_t oy, std::ptrdiff_t ox, std::size_t count, std::ptrdiff_t at) {
          const T* const row = by.data() + size(oy * pool.x.out + ox);
          each<T>(count, [&](std::size_t i, auto number) {
            using V = decltype(number);
            V sum{};
            sources.template each_element<V>(i, [&](V value, std::ptrdiff_t) { sum += value; });
            if constexpr (columns)
              store(y + at + i, sum / (V{} + *row));
            else
              store(y + at + i, sum / load<V>(row + i));
          });
        });
  });
}

template <class S>
void PoolKernels<S>::max_backward(const Pool& pool, const S* dy, const Images& dy_in, const std::int32_t* indices,
                                  const Images& indices_in, S* dx, const Images& in) {
  if (pool.columns)
    gather_columns<true>(pool, {}, dy, dy_in, indices, indices_in, dx, in);
  else
    scatter(pool, dy, dy_in, indices, indices_in, dx, in);
}

template <class S>
void PoolKernels<S>::mean_backward(const Pool& pool, const Divisors& divisors, const S* dy, const Images& dy_in, S* dx,
                                   const Images& in) {
  const auto by = divisors_of<Computed<S>>(pool, divisors);
  if (pool.columns)
    gather_columns<false>(pool, by, dy, dy_in, nullptr, {}, dx, in);
  else
    gather_means(pool, by, dy, dy_in, dx, in);
}

template struct PoolKernels<float>;
template struct PoolKernels<double>;
template struct PoolKernels<float16>;
template struct PoolKernels<bfloat16>;

}  // namespace fastopt
