/// Whether the indices of a pooling are in their windows.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/cost.hpp"
#include "core/threads/parallel.hpp"
#include "nn/pool.hpp"

namespace fastopt {

std::ptrdiff_t first_misplaced(const Pool& pool, const std::int32_t* indices, const Images& in) {
  // Of each window of a plane: the place of the first element inside, how many columns behind it the last one is, and
  // how many rows below.
  std::vector<std::int32_t> begin, reach, below;
  const bool dense = pool.y.dilation == 1 && pool.x.dilation == 1;
  for (std::ptrdiff_t oy = 0; dense && oy < pool.y.out; ++oy)
    for (std::ptrdiff_t ox = 0; ox < pool.x.out; ++ox) {
      const Windows::Range tall = pool.y.elements(oy), wide = pool.x.elements(ox);
      begin.push_back(static_cast<std::int32_t>(pool.y.at(oy, tall.begin) * pool.x.in + pool.x.at(ox, wide.begin)));
      reach.push_back(static_cast<std::int32_t>(wide.end - 1 - wide.begin));
      below.push_back(static_cast<std::int32_t>(tall.end - 1 - tall.begin));
    }
  const auto is_misplaced = [&](std::int32_t place, std::ptrdiff_t oy, std::ptrdiff_t ox) {
    if (place < 0 || place >= pool.plane()) return true;
    const Windows::Range tall = pool.y.elements(oy), wide = pool.x.elements(ox);
    const auto element = [](const Windows& axis, const Windows::Range& inside, std::ptrdiff_t o, std::ptrdiff_t at) {
      const std::ptrdiff_t distance = at - axis.at(o, 0), k = distance / axis.dilation;
      return distance >= 0 && distance % axis.dilation == 0 && k >= inside.begin && k < inside.end;
    };
    return !element(pool.y, tall, oy, place / pool.x.in) || !element(pool.x, wide, ox, place % pool.x.in);
  };
  std::atomic<std::ptrdiff_t> found{std::numeric_limits<std::ptrdiff_t>::max()};
  const auto report = [&](std::ptrdiff_t number) {
    std::ptrdiff_t least = found.load();
    while (number < least && !found.compare_exchange_weak(least, number)) {
    }
  };
  // A run of indices: a plane, a row of one that has gaps, or the channels of one place.
  const std::ptrdiff_t rows = !pool.columns && in.row == pool.x.out ? pool.y.out : 1, apart = pool.columns ? 0 : 1;
  const std::ptrdiff_t count = pool.columns ? in.channels : rows * pool.x.out;
  const auto misplaced_in = [&](const std::int32_t* run, std::ptrdiff_t window, std::int32_t* good) {
    const std::int32_t *const firsts = begin.data() + window, *const most = reach.data() + window,
                              *const deepest = below.data() + window;
    std::fill_n(good, count, 0);
    for (std::int32_t ky = 0; ky < pool.y.size; ++ky) {
      const auto above = static_cast<std::uint32_t>(ky * pool.x.in);
      const auto mark = [&](auto step) {
#pragma omp simd
        for (std::ptrdiff_t k = 0; k < count; ++k)
          good[k] |= (static_cast<std::uint32_t>(run[k]) - above - static_cast<std::uint32_t>(firsts[k * step]) <=
                      static_cast<std::uint32_t>(most[k * step])) &
                             (ky <= deepest[k * step])
                         ? 1
                         : 0;
      };
      pool.columns ? mark(std::integral_constant<int, 0>{}) : mark(std::integral_constant<int, 1>{});
    }
    std::int32_t all = 1;
#pragma omp simd reduction(& : all)
    for (std::ptrdiff_t k = 0; k < count; ++k) all &= good[k];
    return all == 0;
  };
  const std::ptrdiff_t along = pool.columns ? pool.x.out : 1, planes = in.samples * (pool.columns ? 1 : in.channels);
  parallel(threads_for(static_cast<double>(in.samples * in.channels * pool.pooled() * pool.y.size) * kPoolPerElement),
           [&](int thread, int threads) {
             const Range mine = share(size(planes), thread, threads);
             std::vector<std::int32_t> good(size(count));
             for (auto plane = static_cast<std::ptrdiff_t>(mine.begin); plane < static_cast<std::ptrdiff_t>(mine.end);
                  ++plane) {
               const std::ptrdiff_t n = pool.columns ? plane : plane / in.channels;
               const std::ptrdiff_t c = pool.columns ? 0 : plane % in.channels;
               for (std::ptrdiff_t oy = 0; oy < pool.y.out; oy += rows)
                 for (std::ptrdiff_t ox = 0; ox < along; ++ox) {
                   const std::int32_t* const run = indices + in.offset(n, c, oy, ox);
                   const std::ptrdiff_t window = oy * pool.x.out + ox;
                   if (dense && !misplaced_in(run, window, good.data())) continue;
                   for (std::ptrdiff_t k = 0; k < count; ++k) {
                     const std::ptrdiff_t its = window + k * apart;
                     if (is_misplaced(run[k], its / pool.x.out, its % pool.x.out))
                       report((n * in.channels + c + k * (1 - apart)) * pool.pooled() + its);
                   }
                 }
             }
           });
  return found == std::numeric_limits<std::ptrdiff_t>::max() ? -1 : found.load();
}

}  // namespace fastopt
