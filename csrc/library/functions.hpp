/// The functions of a library of kernels, in a table through which the bindings call them.
///
/// The kernels are compiled once for each instruction set, into a library of their own; the bindings are compiled once.
/// Neither is linked to the other: a library exports one function, which returns the table, so that several libraries, and
/// several copies of the package, can be in one process and none binds to another's symbols.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <type_traits>
#include <utility>

#include "core/codec/convert.hpp"
#include "core/floor.hpp"
#include "core/number.hpp"
#include "core/threads/work.hpp"
#include "nn/activation.hpp"
#include "nn/convolution.hpp"
#include "nn/elementwise.hpp"
#include "nn/embedding.hpp"
#include "nn/loss.hpp"
#include "nn/pool.hpp"
#include "nn/softmax.hpp"
#include "norm/channels/batch_norm.hpp"
#include "norm/channels/group_norm.hpp"
#include "norm/channels/weight_norm.hpp"
#include "norm/rows/kernels.hpp"
#include "norm/rows/layer_norm.hpp"
#include "norm/rows/rms_norm.hpp"
#include "norm/rows/scale_norm.hpp"
#include "norm/running.hpp"
#include "optim/clip.hpp"
#include "optim/plan.hpp"
#include "optim/rules.hpp"
#include "optim/sparse.hpp"
#include "regularize/dropout.hpp"

namespace fastopt {

template <auto... functions> struct FunctionList {};

// ---- The list: one line for each function that the bindings call ----------------------------------------------------
// clang-format off

/// Functions of numbers that are stored as S: float32, float64, float16 or bfloat16.
template <class S>
using StoredFunctions = FunctionList<
    &BatchNormKernels<S>::moments,
    &BatchNormKernels<S>::squares,
    &BatchNormKernels<S>::training,
    &BatchNormKernels<S>::apply,
    &BatchNormKernels<S>::gradient_sums,
    &BatchNormKernels<S>::gradient_apply,
    &BatchNormKernels<S>::backward,
    &GroupNormKernels<S>::normalize,
    &GroupNormKernels<S>::apply,
    &GroupNormKernels<S>::backward,
    &WeightNormKernels<S>::forward,
    &WeightNormKernels<S>::backward,
    &RowKernels<LayerNorm, S>::forward,
    &RowKernels<LayerNorm, S>::backward,
    &RowKernels<RmsNorm, S>::forward,
    &RowKernels<RmsNorm, S>::backward,
    &RowKernels<ScaleNorm, S>::forward,
    &RowKernels<ScaleNorm, S>::backward,
    &DropoutKernels<S>::copy,
    &DropoutKernels<S>::dropout,
    &DropoutKernels<S>::gaussian_dropout,
    &DropoutKernels<S>::channel_dropout,
    &EmbeddingKernels<S>::forward,
    &EmbeddingKernels<S>::backward,
    &PoolKernels<S>::max,
    &PoolKernels<S>::mean,
    &PoolKernels<S>::max_backward,
    &PoolKernels<S>::mean_backward>;

/// Functions of numbers that are computed as T: float32 or float64.
template <class T>
using ComputedFunctions = FunctionList<
    &ElementwiseKernels<T>::apply,
    &ActivationKernels<T>::forward,
    &ActivationKernels<T>::backward,
    &SoftmaxKernels<T>::forward,
    &SoftmaxKernels<T>::backward,
    &LossKernels<T>::cross_entropy,
    &LossKernels<T>::element_loss,
    &ConvolutionKernels<T>::unfold,
    &ConvolutionKernels<T>::fold,
    &ConvolutionKernels<T>::place,
    &ConvolutionKernels<T>::collect,
    &ConvolutionKernels<T>::add_bias,
    &RunningStatistics<T>::update,
    &RunningStatistics<T>::update_by_sample,
    &RunningStatistics<T>::report,
    &sum_rows<T>>;

using OtherFunctions = FunctionList<
    &rules,
    &find_rule,
    &squared_norm,
    &Plan::add,
    &Plan::add_rows,
    &Plan::take,
    &Plan::restart,
    &Plan::parallel,
    &SparseRows::group,
    &Gradients::add,
    &Gradients::norm,
    &Gradients::scale,
    &Gradients::clip,
    &Gradients::nanoseconds,
    &rstds_of,
    &first_outside,
    &first_misplaced,
    &pack,
    &unpack,
    &run_floor>;

// clang-format on
// ---- The table ------------------------------------------------------------------------------------------------------

template <class List> struct TableOf;

template <auto function> struct Pointer {
  decltype(function) to;
};

/// Pointers to the functions of a list.
template <auto... functions> struct TableOf<FunctionList<functions...>> : Pointer<functions>... {
  /// Calls run<&function>(arguments…), or run<&Class::function>(object, arguments…); other functions do not compile.
  template <auto function, class... Arguments> decltype(auto) run(Arguments&&... arguments) const {
    return std::invoke(static_cast<const Pointer<function>&>(*this).to, std::forward<Arguments>(arguments)...);
  }

  static consteval TableOf filled() { return {Pointer<functions>{functions}...}; }
  static consteval std::uint64_t version();
};

template <class... Lists> struct Joined;
template <class List> struct Joined<List> {
  using Type = List;
};
template <auto... first, auto... second, class... Rest>
struct Joined<FunctionList<first...>, FunctionList<second...>, Rest...>
    : Joined<FunctionList<first..., second...>, Rest...> {};

using Functions =
    Joined<StoredFunctions<float>, StoredFunctions<double>, StoredFunctions<float16>, StoredFunctions<bfloat16>,
           ComputedFunctions<float>, ComputedFunctions<double>, OtherFunctions>::Type;

/// The kernels of one instruction set.
struct Kernels : TableOf<Functions> {};

// ---- The version ----------------------------------------------------------------------------------------------------

/// The sizes of a function's arguments.
template <class Result, class... Arguments> consteval std::size_t sizes_of(Result (*)(Arguments...)) {
  return (std::size_t{1} + ... + sizeof(std::remove_cvref_t<Arguments>));
}
template <class Class, class Result, class... Arguments>
consteval std::size_t sizes_of(Result (Class::*)(Arguments...)) {
  return (sizeof(Class) + ... + sizeof(std::remove_cvref_t<Arguments>));
}
template <class Class, class Result, class... Arguments>
consteval std::size_t sizes_of(Result (Class::*)(Arguments...) const) {
  return (sizeof(Class) + ... + sizeof(std::remove_cvref_t<Arguments>));
}

template <auto function, class Type = decltype(function)> consteval std::uint64_t hash_of(std::uint64_t hash) {
  for (const char letter : std::string_view(__PRETTY_FUNCTION__))
    hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3;  // FNV-1a
  return (hash ^ sizes_of(function)) * 0x100000001b3;
}

/// A number that differs where the list, a function's type, or the size of a type that crosses differs.
template <auto... functions> consteval std::uint64_t TableOf<FunctionList<functions...>>::version() {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const std::size_t size : {sizeof(Entry), sizeof(Kernel), sizeof(Member), sizeof(Rows)})
    hash = (hash ^ size) * 31;
  ((hash = hash_of<functions>(hash)), ...);
  return hash;
}

/// The function that a library exports.  It returns the library's table, or null for the wrong version.
using ExportedFunction = const Kernels* (*)(std::uint64_t version, const Team& team);
inline constexpr const char* kExportedName = "fastopt_kernels";

}  // namespace fastopt
