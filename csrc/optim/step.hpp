/// The one loop that applies update rules to tensors.
///
/// A rule is the formula of one paper.  It is constructed from its hyperparameters and the number of the step, in
/// double, and called with the parameter p, the gradient g and the state of some elements at once (a native vector or a
/// single number):
///
///   template <class T> struct Rule {
///     static constexpr std::array options{"lr", …};          // names of its hyperparameters, as in Python
///     static constexpr std::array<State, S> state{…};        // its state buffers, named as in torch
///     Rule(const std::array<double, …>& options, double step);
///     template <class V> void operator()(V& p, V g, V& state0, …) const;
///   };
///
/// A rule may keep numbers of its own for each parameter, in double, and bring them to the new step:
///
///     static constexpr std::array numbers{"mu_product"};
///     Rule(const std::array<double, …>& options, double step, std::array<double, …>& numbers);
///
/// A rule that needs norms of a whole tensor says what products are to be summed, and hears the sums before it is
/// called; the memory is read twice then:
///
///     static constexpr std::size_t sums = 2;
///     template <class V> std::array<std::pair<V, V>, sums> measure(V p, V g, V state0, …) const;
///     void conclude(const std::array<double, sums>& sums, double size);
///
/// What surrounds the rule is done here, for all of them, while the elements are in registers or L1: a step is one trip
/// over memory, whatever is switched on.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/formats.hpp"
#include "core/parallel.hpp"
#include "core/random.hpp"
#include "core/rows.hpp"
#include "core/storage.hpp"
#include "core/tile.hpp"
#include "optim/state.hpp"

namespace fastopt {

inline constexpr std::size_t kMostStates = 4, kMostNumbers = 2, kMostSums = 2;
inline constexpr std::size_t kPiece = 1024;  ///< elements that are worked on at once where there is more than the rule
inline constexpr std::size_t kGrain = 256;   ///< elements by which threads share a tensor
inline constexpr std::size_t kChunk = 1 << 14;           ///< elements whose sum is taken by one thread
inline constexpr double kNanosecondsPerByte = 1.0 / 70;  ///< of one thread, from cache
static_assert(kPiece % kRandomNormals == 0 && kChunk % kPiece == 0 && kPiece % kLanes == 0);

/// What every rule understands beside its own hyperparameters.
struct Around {
  static constexpr std::array options{"maximize",   "l2",        "l1",      "l2_init", "decay",
                                      "pull",       "threshold", "noise",   "seed",    "ema_decay",
                                      "ema_warmup", "swa_start", "swa_freq"};

  double sign;       ///< −1 to maximize
  double l2;         ///< g ← g + l2·p
  double l1;         ///< g ← g + l1·sign(p)
  double l2_init;    ///< g ← g + l2_init·(p − p₀)
  double decay;      ///< p ← decay·p before the rule's own update
  double pull;       ///< p ← p + pull·(p₀ − p) after it
  double threshold;  ///< then |p| ← max(|p| − threshold, 0)
  double noise;      ///< standard deviation of what is added to g
  double average;    ///< a ← a + average·(p − a) at last; 0 leaves a alone
  std::uint64_t seed;
  std::uint32_t step;

  Around(const double* o, double step)
      : sign(o[0] != 0 ? -1 : 1),
        l2(o[1]),
        l1(o[2]),
        l2_init(o[3]),
        decay(o[4]),
        pull(o[5]),
        threshold(o[6]),
        noise(o[7]),
        average(0),
        seed(static_cast<std::uint64_t>(o[8])),
        step(static_cast<std::uint32_t>(static_cast<std::uint64_t>(step))) {
    const double ema_decay = o[9], swa_start = o[11], swa_freq = o[12];
    const bool warmup = o[10] != 0;
    if (ema_decay >= 0) average = 1 - (warmup ? std::min(ema_decay, (1 + step) / (10 + step)) : ema_decay);
    if (swa_start > 0 && step >= swa_start && std::fmod(step - swa_start, swa_freq) == 0)
      average = 1 / ((step - swa_start) / swa_freq + 1);
  }

  bool shapes_gradient() const { return l2_init != 0 || noise != 0; }  ///< beside l2 and l1
  bool finishes() const { return pull != 0 || threshold != 0 || average != 0; }
};

struct Tensor;

/// A tensor's memory where it is not all as it is computed with.
struct Storage {
  Kept param;
  float* master = nullptr;   ///< of which the parameter is a copy
  bool random_param = true;  ///< rounded at random
  std::array<Kept, kMostStates> state;
  bool random_state = true;
};

/// How moments that are kept with fewer bits are, where it matters for speed that a rule's loop is made for it.
enum class Packing : std::uint8_t { bfloat16, blocks };

/// A rule for one dtype, as the driver knows it: without types.
struct Kernel {
  std::size_t states, numbers, sums;
  std::size_t itemsize;
  double bytes;  ///< that a step moves, for each element
  void (*construct)(void* rule, const double* options, double step, double* numbers);
  void (*conclude)(void* rule, const double* sums, double size);
  void (*update)(const Tensor& tensor, Range range, bool far);
  /// The rule alone for whole blocks of one segment, with moments that are packed and rounded at random; by packing,
  /// and whether the parameter and its gradient are bfloat16 too.
  std::array<std::array<void (*)(const Tensor&, Range, const Thresholds&), 2>, 2> update_blocks;
  void (*measure)(const Tensor& tensor, Range range, double* sums);
  void (*square)(const Tensor& tensor, Range range, bool of_param, double* sum);
  void (*zero)(const Tensor& tensor, Range range);
  void (*sum_factors)(const Tensor& tensor, std::size_t row, double* of_rows, double* of_columns);
  void (*join_factors)(const Tensor& tensor, double* rows, const double* columns);
};

/// What parameters with the same hyperparameters and the same count of steps share.
struct Setting {
  static constexpr std::size_t kBytes = 128;

  alignas(16) std::byte rule[kBytes];
  Around around;
};

/// One parameter in one step.  Its memory has the type of its kernel.
struct Tensor {
  const Kernel* kernel;
  const Setting* setting;
  std::size_t size;
  void* param;
  const void* grad;
  std::array<void*, kMostStates> state;
  const void* initial;       ///< p₀, where the setting needs it
  void* average;             ///< a, likewise
  const Rows* rows;          ///< where the gradient lies, if it is not contiguous
  double scale;              ///< g ← scale·g first
  const double* unit_scale;  ///< then, where it is not null, by another factor for each `unit` elements
  std::size_t unit;
  double clip;                       ///< then to [−clip, clip], if that is at least 0
  bool zero;                         ///< the gradient is zero afterwards
  std::uint32_t member;              ///< the number of its stream of noise
  std::size_t columns, matrix_rows;  ///< of its last two axes
  const double* row_factor;          ///< of each row, where the second moment is factored
  const Storage* storage;            ///< how it is kept, where that is not as it is computed with
  Format grad_format;                ///< and the gradient

  /// Whether there is more to do to the gradient than to scale it and to add l2·p and l1·sign(p).
  bool shaped() const {
    return rows != nullptr || unit_scale != nullptr || clip >= 0 || setting->around.shapes_gradient();
  }
  /// Whether there is nothing to do to it but to scale it.
  bool plain() const { return !shaped() && setting->around.l2 == 0 && setting->around.l1 == 0; }
  /// Whether kernels need it unpacked.
  bool packed() const { return storage != nullptr || grad_format != Format::exact; }
  /// Whether there is something to do after the rule's update.
  bool finished() const { return zero || setting->around.finishes(); }
};

namespace detail {

inline constexpr std::size_t kAhead = 512;        // elements between a prefetch and the tile that is computed
inline constexpr std::size_t kBlocksAhead = 256;  // and where blocks are unpacked

/// Element `at` of one of a tensor's arrays.  Of those that Unpacked shows only this and some after it are there, and
/// no pointer to the first may be made: hence a calculation with addresses.
template <class T> inline T* element(void* array, std::size_t at) {
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(array) + at * sizeof(T));
}
template <class T> inline const T* element(const void* array, std::size_t at) {
  return reinterpret_cast<const T*>(reinterpret_cast<std::uintptr_t>(array) + at * sizeof(T));
}

/// Elements [at, at + count) of a tensor, as they are to be computed with: the gradient may be in another place.
template <class T, std::size_t S> struct Memory {
  T* param;
  const T* grad;
  std::array<T*, S> state;

  Memory(const Tensor& tensor, std::size_t at, const T* gradient)
      : param(element<T>(tensor.param, at)), grad(gradient) {
    for (std::size_t s = 0; s < S; ++s) state[s] = element<T>(tensor.state[s], at);
  }
};

/// What elements are multiplied by.
template <class T> struct Factors {
  T scale;  ///< g ← scale·g
  T l2;     ///< g ← g + l2·p
  T l1;     ///< g ← g + l1·sign(p)
  T decay;  ///< p ← decay·p
};

/// What is added to the gradient: nothing, l2·p, l1·sign(p) and perhaps l2·p, or what is found at run time.
enum class Added { nothing, l2, l1, any };

/// The rule's update of the elements V at i.
template <Added added, class V, class Rule, class T, std::size_t S>
[[gnu::always_inline]] inline void update_vector(const Rule& rule, const Memory<T, S>& memory, const Factors<T>& factor,
                                                 std::size_t i) {
  [&]<std::size_t... K>(std::index_sequence<K...>) {
    V p = load<V>(memory.param + i), g = load<V>(memory.grad + i);
    std::array<V, S> state{load<V>(memory.state[K] + i)...};
    g = g * factor.scale;
    if constexpr (added == Added::l2) g = g + factor.l2 * p;
    if constexpr (added == Added::l1 || added == Added::any)
      if (factor.l2 != 0) g = g + factor.l2 * p;
    if constexpr (added == Added::l1) g = g + factor.l1 * sign(p);
    if constexpr (added == Added::any)
      if (factor.l1 != 0) g = g + factor.l1 * sign(p);
    p = p * factor.decay;
    rule(p, g, state[K]...);
    store(memory.param + i, p);
    (store(memory.state[K] + i, state[K]), ...);
  }(std::make_index_sequence<S>{});
}

/// The rule's update of some elements from `at` on.  The rule and all numbers are copies, so that they stay in
/// registers: in memory, any store might have changed them.
template <Added added, class Rule, class T, std::size_t S, class Count>
inline void update_elements(Rule rule, Memory<T, S> memory, Factors<T> factor, std::size_t at, Count count) {
  each<T>(count,
          [=](std::size_t i, auto number) { update_vector<added, decltype(number)>(rule, memory, factor, at + i); });
}

template <class Rule, class T, std::size_t S>
[[gnu::noinline]] void update_few(const Rule& rule, const Memory<T, S>& memory, Factors<T> factor, std::size_t at,
                                  std::size_t count) {
  update_elements<Added::any>(rule, memory, factor, at, count);
}

template <class T> inline void prefetch_tile(const Tensor& tensor, std::size_t states, std::size_t at) {
  for (std::size_t i = at; i < at + kLanes; i += 64 / sizeof(T)) {
    prefetch(static_cast<const T*>(tensor.grad), i);
    prefetch<true>(static_cast<T*>(tensor.param), i);
    for (std::size_t s = 0; s < states; ++s) prefetch<true>(static_cast<T*>(tensor.state[s]), i);
  }
}

/// Elements [begin, begin + count), whose gradients are at `gradient`.
template <class Rule, class T>
[[gnu::noinline]] void update_run(const Tensor& tensor, std::size_t begin, std::size_t count, const T* gradient,
                                  Factors<T> factor, bool far) {
  constexpr std::size_t S = Rule::state.size();
  Rule rule = *std::launder(reinterpret_cast<const Rule*>(tensor.setting->rule));
  const Memory<T, S> memory(tensor, begin, gradient);
  // Whole vectors begin where the parameter's cache lines do; state that is allocated with it begins there too.
  const std::size_t past_line = reinterpret_cast<std::uintptr_t>(memory.param) % 64 / sizeof(T);
  std::size_t at = 0;
  if (past_line != 0) {
    at = std::min(64 / sizeof(T) - past_line, count);
    update_few(rule, memory, factor, 0, at);
  }
  const auto tiles = [&, rule, memory, factor]<Added added>(std::integral_constant<Added, added>) {
    for (; at + kLanes <= count; at += kLanes) {  // with a question inside it would take a quarter longer
      if (far) prefetch_tile<T>(tensor, S, begin + at + kAhead);
      update_elements<added>(rule, memory, factor, at, std::integral_constant<std::size_t, kLanes>{});
    }
  };
  if (factor.l1 != 0)
    tiles(std::integral_constant<Added, Added::l1>{});
  else if (factor.l2 != 0)
    tiles(std::integral_constant<Added, Added::l2>{});
  else
    tiles(std::integral_constant<Added, Added::nothing>{});
  if (at < count) update_few(rule, memory, factor, at, count - at);
}

template <class T> Factors<T> factors_of(const Tensor& tensor) {
  const Around& around = tensor.setting->around;
  return {static_cast<T>(tensor.scale), static_cast<T>(around.l2), static_cast<T>(around.l1),
          static_cast<T>(around.decay)};
}

/// The rule alone for whole blocks of one segment, whose moments are packed and rounded at random, and with Halves the
/// parameter and its gradient are bfloat16 too.
template <Packing packing, bool Halves, class Rule>
void update_blocks(const Tensor& tensor, Range range, const Thresholds& thresholds) {
  constexpr std::size_t S = Rule::state.size();
  const Rule rule = *std::launder(reinterpret_cast<const Rule*>(tensor.setting->rule));
  const Factors<float> factor = factors_of<float>(tensor);
  const Storage& storage = *tensor.storage;
  const Memory<float, S> memory(tensor, 0, static_cast<const float*>(tensor.grad));
  float* const master = storage.master;
  const Kept halves_of_grad{Format::bfloat16, const_cast<void*>(tensor.grad)};
  const Random random_param = thresholds.from(range.begin, 2);
  const bool rounded_at_random = storage.random_param && master == nullptr;
  const Rest rest = storage.param.rest;
  std::array<Random, S> random;
  for (std::size_t s = 0; s < S; ++s) random[s] = thresholds.from(range.begin, s / 2);
  const auto layout = [](auto s) {
    if constexpr (packing == Packing::bfloat16)
      return InHalves<Bfloat16>{};
    else if constexpr (Rule::state[s].kind == State::square)
      return InBlocks<Square8>{};
    else
      return InBlocks<Moment8>{};
  };
  // A block fills the processor, so that it does not see what comes after it.
  const auto prefetch_block = [&](std::size_t at) {
    const auto lines = [at](auto* from) {
      using T = std::remove_pointer_t<decltype(from)>;
      for (std::size_t i = 0; i < kShare; i += 64 / sizeof(T)) prefetch<!std::is_const_v<T>>(from, at + i);
    };
    if constexpr (Halves) {
      lines(static_cast<const std::uint16_t*>(tensor.grad));
      lines(static_cast<std::uint16_t*>(tensor.param));
      if (master != nullptr) lines(master);
    } else {
      lines(memory.grad);
      lines(memory.param);
    }
    unroll<S>([&](auto s) {
      if constexpr (Rule::state[s].kind == State::exact)
        lines(memory.state[s]);
      else if constexpr (packing == Packing::bfloat16)
        lines(static_cast<std::uint16_t*>(storage.state[s].numbers));
      else
        lines(static_cast<std::uint8_t*>(storage.state[s].numbers));
    });
  };
  const auto from_block = [&](const Random& of_range, std::size_t at) {
    return Random{of_range.table + (at - range.begin), of_range.offset};
  };
  const auto blocks = [&, rule, memory, factor]<Added added>(std::integral_constant<Added, added>) {
    alignas(64) float moments[S][kShare], gradient[kShare], weights[kShare];
    for (std::size_t at = range.begin; at < range.end; at += kShare) {
      prefetch_block(at + kBlocksAhead);
      Memory<float, S> block = memory;
      if constexpr (Halves) {
        InHalves<Bfloat16>::decode(halves_of_grad, at, kShare, gradient);
        block.grad = gradient;
        block.param = master != nullptr ? master + at : weights;
        if (rest == Rest::compensation)
          Compensated<Bfloat16>::decode(storage.param, at, kShare, weights);
        else if (rest == Rest::correction)
          Corrected::decode(storage.param, at, kShare, weights);
        else if (rest == Rest::none)
          InHalves<Bfloat16>::decode(storage.param, at, kShare, weights);
      } else {
        block.grad = element<float>(static_cast<const void*>(memory.grad), at);
        block.param = element<float>(memory.param, at);
      }
      unroll<S>([&](auto s) {
        if constexpr (Rule::state[s].kind == State::exact) {
          block.state[s] += at;
        } else {
          decltype(layout(s))::decode(storage.state[s], at, kShare, moments[s]);
          block.state[s] = moments[s];
        }
      });
      for (std::size_t i = 0; i < kShare; i += width<Vector<float>>)
        update_vector<added, Vector<float>>(rule, block, factor, i);
      unroll<S>([&](auto s) {
        using How = std::conditional_t<s % 2 == 0, High, Low>;
        if constexpr (Rule::state[s].kind != State::exact)
          decltype(layout(s))::encode(storage.state[s], at, kShare, moments[s], How(from_block(random[s], at)));
      });
      if constexpr (Halves) {
        if (rest == Rest::compensation)
          Compensated<Bfloat16>::encode(storage.param, at, kShare, weights, Nearest({}));
        else if (rest == Rest::correction)
          Corrected::encode(storage.param, at, kShare, weights, High(from_block(random_param, at)));
        else if (rounded_at_random)
          InHalves<Bfloat16>::encode(storage.param, at, kShare, block.param, High(from_block(random_param, at)));
        else
          InHalves<Bfloat16>::encode(storage.param, at, kShare, block.param, Nearest({}));
      }
    }
  };
  if (factor.l1 == 0 && factor.l2 == 0)
    blocks(std::integral_constant<Added, Added::nothing>{});
  else
    blocks(std::integral_constant<Added, Added::any>{});
}

/// Calls body(from, count, done) for the parts of rows that elements [at, at + n) are: `count` elements, rows.step
/// apart, of which the first one lies `from` elements behind the array's.
template <class Body> void for_runs(const Rows& rows, std::size_t at, std::size_t n, Body&& body) {
  for (std::size_t done = 0; done < n;) {
    const std::size_t row = (at + done) / rows.width, column = (at + done) % rows.width;
    const std::size_t count = std::min(n - done, rows.width - column);
    body(rows.offset(row) + static_cast<std::ptrdiff_t>(column) * rows.step, count, done);
    done += count;
  }
}

/// Copies elements [at, at + n) of rows to `to`, where they are contiguous.
template <class T> void gather(const T* x, const Rows& rows, std::size_t at, std::size_t n, T* to) {
  for_runs(rows, at, n, [&](std::ptrdiff_t from, std::size_t count, std::size_t done) {
    if (rows.step == 1)
      std::memcpy(to + done, x + from, count * sizeof(T));
    else
      for (std::size_t i = 0; i < count; ++i) to[done + i] = x[from + static_cast<std::ptrdiff_t>(i) * rows.step];
  });
}

/// Calls body(i, V) for i in [0, n), with copies of what it has captured.
template <class T, class Body> [[gnu::always_inline]] inline void map(std::size_t n, Body body) { each<T>(n, body); }

/// What the rule is to see as the gradient of at most kPiece elements from `at` on, into `to`.
template <class T> void shape_gradient(const Tensor& tensor, std::size_t at, std::size_t n, T* to) {
  const Around& around = tensor.setting->around;
  const T* grad = element<T>(tensor.grad, at);
  const T* p = element<T>(tensor.param, at);
  if (tensor.rows != nullptr) {
    gather(static_cast<const T*>(tensor.grad), *tensor.rows, at, n, to);
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

/// Sets a part of the gradient to zero.
template <class T> void zero(const Tensor& tensor, Range range) {
  T* grad = const_cast<T*>(static_cast<const T*>(tensor.grad));
  if (tensor.rows == nullptr)
    std::fill(grad + range.begin, grad + range.end, T{});
  else
    for_runs(*tensor.rows, range.begin, range.end - range.begin,
             [&](std::ptrdiff_t from, std::size_t count, std::size_t) {
               for (std::size_t i = 0; i < count; ++i)
                 grad[from + static_cast<std::ptrdiff_t>(i) * tensor.rows->step] = T{};
             });
}

/// What is left to do after the rule's update of elements [at, at + n).
template <class T> void finish(const Tensor& tensor, std::size_t at, std::size_t n) {
  const Around& around = tensor.setting->around;
  T* p = element<T>(tensor.param, at);
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
      const V here = load<V>(p + i), low = V{} - threshold, high = V{} + threshold;
      store(p + i, here > high ? here - threshold : (here < low ? here + threshold : here - here));
    });
  if (around.average != 0)
    map<T>(n, [p, a = static_cast<T*>(tensor.average) + at, weight = static_cast<T>(around.average)](std::size_t i,
                                                                                                     auto number) {
      using V = decltype(number);
      const V average = load<V>(a + i);
      store(a + i, average + weight * (load<V>(p + i) - average));
    });
  if (tensor.zero) zero<T>(tensor, {at, at + n});
}

template <class Rule, class T> void update(const Tensor& tensor, Range range, bool far) {
  const Factors<T> factor = factors_of<T>(tensor);
  const bool shaped = tensor.shaped();
  if (!shaped && !tensor.finished()) {
    update_run<Rule, T>(tensor, range.begin, range.end - range.begin, element<T>(tensor.grad, range.begin), factor,
                        far);
    return;
  }
  alignas(64) T shape[kPiece];
  for (std::size_t at = range.begin, n; at < range.end; at += n) {
    // All pieces but the first one begin with a cache line of the parameter.
    const auto past_line = reinterpret_cast<std::uintptr_t>(element<T>(tensor.param, at)) % 64 / sizeof(T);
    n = std::min(kPiece - past_line, range.end - at);
    if (shaped) {
      shape_gradient(tensor, at, n, shape);
      update_run<Rule, T>(tensor, at, n, shape, {T{1}, T{0}, T{0}, factor.decay}, far);
    } else {
      update_run<Rule, T>(tensor, at, n, element<T>(tensor.grad, at), factor, far);
    }
    finish<T>(tensor, at, n);
  }
}

/// Whether all of the gradient is finite.
inline bool is_finite(const Tensor& tensor, const double* grad) {
  if (tensor.rows == nullptr) return std::all_of(grad, grad + tensor.size, [](double g) { return std::isfinite(g); });
  bool all = true;
  for_runs(*tensor.rows, 0, tensor.size, [&](std::ptrdiff_t from, std::size_t count, std::size_t) {
    for (std::size_t i = 0; i < count; ++i)
      all = all && std::isfinite(grad[from + static_cast<std::ptrdiff_t>(i) * tensor.rows->step]);
  });
  return all;
}

/// Σ of squares of the gradient or the parameter over elements [range) of at most a chunk.
template <class T> void square(const Tensor& tensor, Range range, bool of_param, double* sum) {
  DoubleLanes lanes;
  const void* const array = of_param ? tensor.param : tensor.grad;
  const auto add = [&](const T* x, std::size_t n) {
    each<T>(n, [&](std::size_t i, auto number) {
      const auto value = load<decltype(number)>(x + i);
      lanes.add(i, value, value);
    });
  };
  if (of_param || tensor.rows == nullptr) {
    const T* const from = element<T>(array, range.begin);
    const std::size_t n = range.end - range.begin;
    std::size_t at = 0;
    if constexpr (kVectorBytes == 64) {  // the lanes fit into registers
      using D = Vector<double>;
      constexpr std::size_t kVectors = kLanes / width<D>;
      std::array<D, kVectors> sum{};
      for (; at + kLanes <= n; at += kLanes)
        unroll<kVectors>([&](auto k) {
          const D x = widened(from + at + k * width<D>);
          sum[k] += x * x;
        });
      for (std::size_t k = 0; k < kVectors; ++k) store(lanes.of + k * width<D>, sum[k]);
    } else {
      for (; at + kLanes <= n; at += kLanes) add(from + at, kLanes);
    }
    add(from + at, n - at);
  } else {
    T tile[kLanes];
    for (std::size_t at = range.begin; at < range.end; at += kLanes) {
      const std::size_t n = std::min(kLanes, range.end - at);
      gather(static_cast<const T*>(array), *tensor.rows, at, n, tile);
      add(tile, n);
    }
  }
  *sum = lanes.total();
}

template <class Rule, class T> void measure(const Tensor& tensor, Range range, double* sums) {
  constexpr std::size_t S = Rule::state.size();
  const Rule rule = *std::launder(reinterpret_cast<const Rule*>(tensor.setting->rule));
  const bool plain = tensor.plain();
  const T scale = plain ? static_cast<T>(tensor.scale) : T{1};
  DoubleLanes lanes[Rule::sums];
  alignas(64) T shaped[kPiece];
  for (std::size_t at = range.begin; at < range.end; at += kPiece) {
    const std::size_t n = std::min(kPiece, range.end - at);
    if (!plain) shape_gradient(tensor, at, n, shaped);
    const Memory<T, S> memory(tensor, at, plain ? element<T>(tensor.grad, at) : shaped);
    each<T>(n, [&, rule, memory, scale](std::size_t i, auto number) {
      using V = decltype(number);
      [&]<std::size_t... K>(std::index_sequence<K...>) {
        const auto products =
            rule.measure(load<V>(memory.param + i), load<V>(memory.grad + i) * scale, load<V>(memory.state[K] + i)...);
        for (std::size_t k = 0; k < Rule::sums; ++k) lanes[k].add(i % kLanes, products[k].first, products[k].second);
      }(std::make_index_sequence<S>{});
    });
  }
  for (std::size_t k = 0; k < Rule::sums; ++k) sums[k] = lanes[k].total();
}

template <class Rule> constexpr std::size_t numbers_of() {
  if constexpr (requires { Rule::numbers; })
    return Rule::numbers.size();
  else
    return 0;
}

template <class Rule> constexpr bool has_moments() {
  for (const State& state : Rule::state)
    if (state.kind != State::exact) return true;
  return false;
}

template <class Rule> constexpr std::size_t sums_of() {
  if constexpr (requires { Rule::sums; })
    return Rule::sums;
  else
    return 0;
}

}  // namespace detail

template <class Rule, class T> constexpr Kernel kernel_of() {
  static_assert(sizeof(Rule) <= Setting::kBytes && alignof(Rule) <= 16 && std::is_trivially_copyable_v<Rule>);
  static_assert(Rule::state.size() <= kMostStates && detail::numbers_of<Rule>() <= kMostNumbers &&
                detail::sums_of<Rule>() <= kMostSums);
  Kernel kernel{};
  kernel.states = Rule::state.size();
  kernel.numbers = detail::numbers_of<Rule>();
  kernel.sums = detail::sums_of<Rule>();
  kernel.itemsize = sizeof(T);
  kernel.bytes = static_cast<double>((3 + 2 * Rule::state.size()) * sizeof(T));
  kernel.construct = [](void* rule, const double* options, double step, double* numbers) {
    std::array<double, Rule::options.size()> o;
    std::copy_n(options, o.size(), o.begin());
    if constexpr (detail::numbers_of<Rule>() != 0) {
      std::array<double, Rule::numbers.size()> n;
      std::copy_n(numbers, n.size(), n.begin());
      new (rule) Rule(o, step, n);
      std::copy_n(n.begin(), n.size(), numbers);
    } else {
      new (rule) Rule(o, step);
    }
  };
  if constexpr (!requires { Rule::factored; }) {
    kernel.update = &detail::update<Rule, T>;
    if constexpr (std::is_same_v<T, float> && detail::has_moments<Rule>())
      kernel.update_blocks = {{{&detail::update_blocks<Packing::bfloat16, false, Rule>,
                                &detail::update_blocks<Packing::bfloat16, true, Rule>},
                               {&detail::update_blocks<Packing::blocks, false, Rule>,
                                &detail::update_blocks<Packing::blocks, true, Rule>}}};
  }
  kernel.square = &detail::square<T>;
  kernel.zero = &detail::zero<T>;
  if constexpr (detail::sums_of<Rule>() != 0) {
    if constexpr (!requires { Rule::factored; }) kernel.measure = &detail::measure<Rule, T>;
    kernel.conclude = [](void* rule, const double* sums, double size) {
      std::array<double, Rule::sums> s;
      std::copy_n(sums, s.size(), s.begin());
      std::launder(static_cast<Rule*>(rule))->conclude(s, size);
    };
  }
  return kernel;
}

}  // namespace fastopt
