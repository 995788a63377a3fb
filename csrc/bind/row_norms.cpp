/// Normalizations of rows for Python.  Everything is checked before anything is written.
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "bind/call.hpp"
#include "bind/gil.hpp"
#include "bind/module.hpp"
#include "norm/rows/kernels.hpp"
#include "norm/rows/layer_norm.hpp"
#include "norm/rows/rms_norm.hpp"
#include "norm/rows/scale_norm.hpp"

namespace fastopt {

namespace {

/// The argument normalized_shape, if the function has one.  It is read before any array, because its own code may change
/// arrays.
std::optional<Shape> normalized_shape(const Call& call) {
  if (!call.has("normalized_shape")) return std::nullopt;
  const py::handle object = call["normalized_shape"];
  Shape normalized;
  if (!PyIndex_Check(object.ptr()) && py::isinstance<py::sequence>(object) && !py::isinstance<py::str>(object) &&
      !py::isinstance<py::bytes>(object))
    for (const py::handle axis : object) normalized.push_back(call.integer(axis, "normalized_shape"));
  else
    normalized.push_back(call.integer("normalized_shape"));
  if (normalized.empty()) throw py::value_error(call.text("normalized_shape") + " must name at least one axis");
  return normalized;
}

/// The axes of an array: the last ones are normalized together, and the others count rows.
struct Axes {
  Shape normalized, leading;

  /// `given`: what normalized_shape() returned; the last axis if the function has no such argument.
  Axes(const Call& call, const Array& x, const char* x_name, const std::optional<Shape>& given) {
    const Shape all = x.shape();
    if (!given && all.empty()) throw py::value_error(call.text(x_name) + " has shape (), expected at least 1 axis");
    normalized = given ? *given : Shape{all.back()};
    const auto axes = static_cast<std::ptrdiff_t>(normalized.size());
    if (axes > x.ndim() || !std::equal(normalized.begin(), normalized.end(), all.end() - axes))
      throw py::value_error(call.text(x_name) + " has shape " + text_of(all) +
                            ", expected it to end with normalized_shape " + text_of(normalized));
    leading.assign(all.begin(), all.end() - axes);
  }

  Shape shape() const {
    Shape all = leading;
    all.insert(all.end(), normalized.begin(), normalized.end());
    return all;
  }
};

/// An array whose last axes are normalized.
Input input(const Array& array, const Axes& axes) {
  const auto split = static_cast<std::ptrdiff_t>(axes.leading.size());
  return {array, rows_of(array, axes_from(0, split), axes_from(split, array.ndim()))};
}

Input another(Call& call, const char* argument, const Input& x, const Axes& axes) {
  return input(call.read(argument, x.dtype, axes.shape()), axes);
}

/// The scalar weight g, for functions that have one.
std::optional<Array> gain(Call& call, Dtype computed) {
  return call.has("g") ? std::optional(call.required("g", computed, {})) : std::nullopt;
}

/// The scalar weight, or 1.
template <class T> const T* gain_of(const std::optional<Array>& g) {
  static constexpr T kOne = 1;
  return g ? g->data<T>() : &kOne;
}

/// x [, residual], weight or g, bias, eps -> y [, sum] [, mean], rstd.
template <class Norm> py::object forward(Call& call) {
  const auto normalized = normalized_shape(call);
  const Array array = call.read("x");
  const Axes axes(call, array, "x", normalized);
  const Input x = input(array, axes);
  std::optional<Input> residual;
  if (call.has("residual")) residual = another(call, "residual", x, axes);
  const Dtype computed = computed_with(x.dtype);
  const auto weight = call.optional("weight", computed, axes.normalized),
             bias = call.optional("bias", computed, axes.normalized);
  const auto g = gain(call, computed);
  const double eps = call.eps();
  constexpr std::size_t kStatistics = Norm::centred ? 2 : 1;
  call.results(1 + residual.has_value() + kStatistics);
  std::vector<py::object> results{call.contiguous_result(0, x.dtype, axes.shape())};
  if (residual) results.push_back(call.contiguous_result(1, x.dtype, axes.shape()));
  for (std::size_t k = 0; k < kStatistics; ++k)
    results.push_back(call.contiguous_result(results.size(), Dtype::float64, axes.leading));
  call.expect_disjoint();
  with_storage(x.dtype, [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    RowNorm<S> arrays{};
    arrays.x = x.at<S>();
    arrays.rows = x.rows;
    arrays.weight = data_of<T>(weight);
    arrays.bias = data_of<T>(bias);
    arrays.gain = gain_of<T>(g);
    arrays.eps = eps;
    arrays.y = data_of<S>(results[0]);
    if constexpr (Norm::centred) arrays.mean = data_of<double>(*(results.end() - 2));
    arrays.rstd = data_of<double>(results.back());
    if (residual) {
      arrays.residual = residual->at<S>();
      arrays.residual_rows = residual->rows;
      arrays.sum = data_of<S>(results[1]);
    }
    const WithoutGil release;
    call.run<&RowKernels<Norm, S>::forward>(arrays);
  });
  return py::tuple(py::cast(results));
}

/// dy [, dsum], x or sum [, mean], rstd, weight or g [, bias_grad] -> dx [, dweight [, dbias]] or dx, dg.
template <class Norm> py::object backward(Call& call) {
  const char* const x_name = call.has("sum") ? "sum" : "x";
  const auto normalized = normalized_shape(call);
  const Array array = call.read(x_name);
  const Axes axes(call, array, x_name, normalized);
  const Input x = input(array, axes), dy = another(call, "dy", x, axes);
  std::optional<Input> dsum;
  if (call.has("dsum") && !call["dsum"].is_none()) dsum = another(call, "dsum", x, axes);
  std::optional<Array> mean;
  if constexpr (Norm::centred) mean = call.required("mean", Dtype::float64, axes.leading);
  const Array rstd = call.required(call.has("rnorm") ? "rnorm" : "rstd", Dtype::float64, axes.leading);
  const Dtype computed = computed_with(x.dtype);
  const auto weight = call.optional("weight", computed, axes.normalized);
  const auto g = gain(call, computed);
  const bool biased = Norm::centred && call.flag("bias_grad");
  const bool weighted = Norm::weights == Weights::columns || g;
  call.results(1 + weighted + (Norm::centred ? 1 : 0));
  std::vector<py::object> results{call.contiguous_result(0, x.dtype, axes.shape())};
  if constexpr (Norm::weights == Weights::columns)
    results.push_back(call.result_if(weight.has_value(), 1, computed, axes.normalized, "there is no weight"));
  if (g) results.push_back(call.contiguous_result(1, computed, {}));
  if constexpr (Norm::centred)
    results.push_back(call.result_if(biased, 2, computed, axes.normalized, "bias_grad is False"));
  call.expect_disjoint();
  with_storage(x.dtype, [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    RowNormBackward<S> arrays{};
    arrays.dy = dy.at<S>();
    arrays.dy_rows = dy.rows;
    arrays.x = x.at<S>();
    arrays.rows = x.rows;
    arrays.mean = data_of<double>(mean);
    arrays.rstd = rstd.data<double>();
    arrays.weight = data_of<T>(weight);
    arrays.dx = data_of<S>(results[0]);
    if constexpr (Norm::weights == Weights::columns) arrays.dweight = data_of<T>(results[1]);
    arrays.gain = gain_of<T>(g);
    if (g) arrays.dgain = data_of<T>(results[1]);
    if constexpr (Norm::centred) arrays.dbias = data_of<T>(results[2]);
    if (dsum) {
      arrays.dsum = dsum->at<S>();
      arrays.dsum_rows = dsum->rows;
    }
    const WithoutGil release;
    call.run<&RowKernels<Norm, S>::backward>(arrays);
  });
  if (!weighted) return results[0];
  return py::tuple(py::cast(results));
}

const std::vector<Function> kRowNorms{
    {"layer_norm", {"x", "normalized_shape", "weight", "bias", "eps", "out"}, forward<LayerNorm>},
    {"layer_norm_backward",
     {"dy", "x", "normalized_shape", "mean", "rstd", "weight", "bias_grad", "out"},
     backward<LayerNorm>},
    {"add_layer_norm", {"x", "residual", "normalized_shape", "weight", "bias", "eps", "out"}, forward<LayerNorm>},
    {"add_layer_norm_backward",
     {"dy", "dsum", "sum", "normalized_shape", "mean", "rstd", "weight", "bias_grad", "out"},
     backward<LayerNorm>},
    {"rms_norm", {"x", "normalized_shape", "weight", "eps", "out"}, forward<RmsNorm>},
    {"rms_norm_backward", {"dy", "x", "normalized_shape", "rstd", "weight", "out"}, backward<RmsNorm>},
    {"add_rms_norm", {"x", "residual", "normalized_shape", "weight", "eps", "out"}, forward<RmsNorm>},
    {"add_rms_norm_backward", {"dy", "dsum", "sum", "normalized_shape", "rstd", "weight", "out"}, backward<RmsNorm>},
    {"cosine_norm", {"x", "eps", "out"}, forward<ScaleNorm>},
    {"cosine_norm_backward", {"dy", "x", "rnorm", "out"}, backward<ScaleNorm>},
    {"scale_norm", {"x", "g", "eps", "out"}, forward<ScaleNorm>},
    {"scale_norm_backward", {"dy", "x", "g", "rnorm", "out"}, backward<ScaleNorm>},
};

}  // namespace

void bind_row_norms(py::module_& m, const Kernels& kernels) { bind_functions(m, kernels, kRowNorms); }

}  // namespace fastopt
