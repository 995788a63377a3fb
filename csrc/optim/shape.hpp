/// The work on a block before the rule (shaping the gradient) and after it (finishing the parameter).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/cost.hpp"
#include "core/random.hpp"
#include "core/reduce.hpp"
#include "core/rows.hpp"
#include "core/simd.hpp"
#include "core/threads/parallel.hpp"
#include "optim/gather.hpp"
#include "optim/tensor.hpp"

namespace fastopt {

static_assert(kPiece % kRandomNormals == 0);

/// Calls body(i, V) for i in [0, n), with copies of its captures.
template <class T, class Body> [[gnu::always_inline]] inline void map(std::size_t n, Body body) { each<T>(n, body); }

/// Writes the gradient that the rule will see to `to`, for a block of at most kPiece elements.
template <class T> void shape_gradient(const Tensor& tensor, const Block& block, T* to) {
  const Around& around = tensor.setting->around;
  const std::size_t at = block.at, n = block.size;
  const T* grad = static_cast<const T*>(block.grad);
  const T* p = static_cast<const T*>(block.param);
  if (grad == nullptr) {
    gather_gradient(tensor, at, n, to);
    grad = to;
  }
  const auto each_g = [&](auto change) {
    map<T>(n, [=](std::size_t i, auto number) { store(to + i, change(load<decltype(number)>(grad + i), i)); });
    grad = to;
  };
  each_g([scale = static_cast<T>(tensor.scale)](auto g, std::size_t) { return g * scale; });
  if (tensor.unit_scale != nullptr)
    for (std::size_t done = 0; done < n;) {
      const std::size_t unit = (at + done) / tensor.unit,
                        count = std::min(n - done, (unit + 1) * tensor.unit - at - done);
      map<T>(count, [to = to + done, scale = static_cast<T>(tensor.unit_scale[unit])](std::size_t i, auto number) {
        store(to + i, load<decltype(number)>(to + i) * scale);
      });
      done += count;
    }
  if (tensor.clip >= 0)
    each_g([clip = static_cast<T>(tensor.clip)](auto g, std::size_t) { return clamp(g, -clip, clip); });
  if (around.noise != 0) {
    alignas(64) float normals[kPiece + kRandomNormals];
    const std::size_t past = at % kRandomNormals;
    for (std::size_t i = 0; i < past + n; i += kRandomNormals)
      random_normals({around.seed, around.step, tensor.member}, (at + i) / kRandomNormals, normals + i);
    const T sigma = static_cast<T>(around.noise);
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) to[i] = to[i] + sigma * static_cast<T>(normals[past + i]);
  }
  if (around.l2 != 0)
    each_g([p, l2 = static_cast<T>(around.l2)](auto g, std::size_t i) { return g + l2 * load<decltype(g)>(p + i); });
  if (around.l2_init != 0)
    each_g([p, initial = static_cast<const T*>(tensor.initial) + at, l2 = static_cast<T>(around.l2_init)](
               auto g, std::size_t i) {
      using V = decltype(g);
      return g + l2 * (load<V>(p + i) - load<V>(initial + i));
    });
  if (around.l1 != 0)
    each_g(
        [p, l1 = static_cast<T>(around.l1)](auto g, std::size_t i) { return g + l1 * sign(load<decltype(g)>(p + i)); });
}

/// Sets elements [range) of the gradient to zero.
inline void zero_gradient(const Tensor& tensor, Range range) {
  const auto fill = [&]<class T>(T* grad) {
    if (tensor.rows == nullptr)
      std::fill(grad + range.begin, grad + range.end, T{});
    else
      for_runs(*tensor.rows, range.begin, range.end - range.begin,
               [&](std::ptrdiff_t from, std::size_t count, std::size_t) {
                 for (std::size_t i = 0; i < count; ++i)
                   grad[from + static_cast<std::ptrdiff_t>(i) * tensor.rows->step] = T{};
               });
  };
  void* const grad = const_cast<void*>(tensor.grad);
  if (tensor.grad_format != Format::exact)
    fill(static_cast<std::uint16_t*>(grad));
  else if (tensor.kernel->itemsize == sizeof(float))
    fill(static_cast<float*>(grad));
  else
    fill(static_cast<double*>(grad));
}

/// map() in less code, for loops that every rule has: without short vectors.
template <class T, class Body> [[gnu::always_inline]] inline void map_briefly(std::size_t n, Body body) {
  using V = Vector<T>;
  std::size_t i = 0;
  for (; i + width<V> <= n; i += width<V>) body(i, V{});
#pragma GCC unroll 1
  for (; i < n; ++i) body(i, T{});
}

/// |p| ← max(|p| − threshold, 0)
template <class V> [[gnu::always_inline]] inline V shrunk(V p, V threshold) {
  const V low = V{} - threshold;
  return p > threshold ? p - threshold : (p < low ? p + threshold : p - p);
}

/// After the rule's update: pulls a block to p₀, shrinks it, and adds it to the average.
template <class T> void finish(const Tensor& tensor, const Block& block) {
  const Around& around = tensor.setting->around;
  const std::size_t at = block.at, n = block.size;
  T* const p = static_cast<T*>(block.param);
  if (around.pull != 0)
    map<T>(n, [p, initial = static_cast<const T*>(tensor.initial) + at, pull = static_cast<T>(around.pull)](
                  std::size_t i, auto number) {
      using V = decltype(number);
      const V here = load<V>(p + i);
      store(p + i, here + pull * (load<V>(initial + i) - here));
    });
  if (around.threshold != 0)
    map<T>(n, [p, threshold = static_cast<T>(around.threshold)](std::size_t i, auto number) {
      using V = decltype(number);
      store(p + i, shrunk<V>(load<V>(p + i), V{} + threshold));
    });
  else if (around.proximal != 0 && tensor.kernel->shrink != nullptr)
    tensor.kernel->shrink(tensor, block);
  if (around.average != 0)
    map<T>(n, [p, a = static_cast<T*>(tensor.average) + at, weight = static_cast<T>(around.average)](std::size_t i,
                                                                                                     auto number) {
      using V = decltype(number);
      const V average = load<V>(a + i);
      store(a + i, average + weight * (load<V>(p + i) - average));
    });
}

}  // namespace fastopt
