/// Normalizations of rows for Python.  Everything is checked before anything is written.
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "bind/call.hpp"
#include "bind/module.hpp"
#include "norm/cosine_norm.hpp"
#include "norm/layer_norm.hpp"
#include "norm/rms_norm.hpp"

namespace fastopt {

namespace {

/// The axes of x that are normalized together, its last ones, and those that count rows.
struct Axes {
  Shape normalized, leading;

  Axes(const Call& call, const Array& x, const char* x_name, py::handle normalized_shape) {
    if (!PyIndex_Check(normalized_shape.ptr()) && py::isinstance<py::sequence>(normalized_shape) &&
        !py::isinstance<py::str>(normalized_shape) && !py::isinstance<py::bytes>(normalized_shape))
      for (const py::handle axis : normalized_shape) normalized.push_back(call.integer(axis, "normalized_shape"));
    else
      normalized.push_back(call.integer(normalized_shape, "normalized_shape"));
    const auto axes = static_cast<std::ptrdiff_t>(normalized.size());
    if (axes == 0) throw py::value_error(call.text("normalized_shape") + " must name at least one axis");
    const Shape all = x.shape();
    if (axes > x.ndim() || !std::equal(normalized.begin(), normalized.end(), all.end() - axes))
      throw py::value_error(call.text(x_name) + " has shape " + text_of(all) +
                            ", expected it to end with normalized_shape " + text_of(normalized));
    leading.assign(all.begin(), all.end() - axes);
  }
  /// The last axis.
  Axes(const Call& call, const Array& x) {
    const Shape all = x.shape();
    if (all.empty()) throw py::value_error(call.text("x") + " has shape (), expected at least 1 axis");
    normalized = {all.back()};
    leading.assign(all.begin(), all.end() - 1);
  }

  Shape shape() const {
    Shape all = leading;
    all.insert(all.end(), normalized.begin(), normalized.end());
    return all;
  }
};

/// An array of x's dtype and shape that is only read.  What its layout is, is found out as soon as it has been checked:
/// later arguments may run Python, which may change it.
struct Input {
  Dtype dtype;
  const void* data;
  Rows rows;

  Input(const Array& array, const Axes& axes) : dtype(array.dtype()), data(array.data<void>()) {
    const auto split = static_cast<std::ptrdiff_t>(axes.leading.size());
    rows = rows_of(array, axes_from(0, split), axes_from(split, array.ndim()));
  }
  template <class S> const S* at() const { return static_cast<const S*>(data); }
};

Input another(Call& call, py::handle object, const char* argument, const Input& x, const Axes& axes) {
  return {call.read(object, argument, x.dtype, axes.shape()), axes};
}

/// y [, sum] [, mean], rstd.
template <class Norm>
py::tuple forward(Call& call, const Input& x, const Axes& axes, const std::optional<Input>& residual,
                  const std::optional<Array>& weight, const std::optional<Array>& bias, double eps, py::handle out) {
  constexpr std::size_t kStatistics = Norm::centred ? 2 : 1;
  call.results(out, 1 + residual.has_value() + kStatistics);
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
    arrays.eps = eps;
    arrays.y = data_of<S>(results[0]);
    if constexpr (Norm::centred) arrays.mean = data_of<double>(*(results.end() - 2));
    arrays.rstd = data_of<double>(results.back());
    if (residual) {
      arrays.residual = residual->at<S>();
      arrays.residual_rows = residual->rows;
      arrays.sum = data_of<S>(results[1]);
    }
    const py::gil_scoped_release release;
    row_norm<Norm>(arrays);
  });
  return py::tuple(py::cast(results));
}

/// dx [, dweight [, dbias]].
template <class Norm>
py::tuple backward(Call& call, const Input& dy, const std::optional<Input>& dsum, const Input& x, const Axes& axes,
                   py::handle mean_object, py::handle rstd_object, const char* rstd_name, py::handle weight_object,
                   py::handle out) {
  std::optional<Array> mean;
  if constexpr (Norm::centred) mean = call.required(mean_object, "mean", Dtype::float64, axes.leading);
  const Array rstd = call.required(rstd_object, rstd_name, Dtype::float64, axes.leading);
  const Dtype computed = computed_with(x.dtype);
  const auto weight = call.optional(weight_object, "weight", computed, axes.normalized);
  constexpr std::size_t kResults = 1 + (Norm::weighted ? 1 : 0) + (Norm::centred ? 1 : 0);
  call.results(out, kResults);
  std::vector<py::object> results{call.contiguous_result(0, x.dtype, axes.shape())};
  while (results.size() < kResults)
    results.push_back(
        call.result_if(weight.has_value(), results.size(), computed, axes.normalized, "there is no weight"));
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
    if constexpr (Norm::weighted) arrays.dweight = data_of<T>(results[1]);
    if constexpr (Norm::centred) arrays.dbias = data_of<T>(results[2]);
    if (dsum) {
      arrays.dsum = dsum->at<S>();
      arrays.dsum_rows = dsum->rows;
    }
    const py::gil_scoped_release release;
    row_norm_backward<Norm>(arrays);
  });
  return py::tuple(py::cast(results));
}

/// Forward of LayerNorm or RMSNorm (whose bias is None), with a residual or without.
template <class Norm>
py::tuple normalize(const char* function, py::handle x_object, py::handle residual_object, bool added,
                    py::handle normalized_shape, py::handle weight_object, py::handle bias_object,
                    py::handle eps_object, py::handle out) {
  Call call(function);
  const Array array = call.read(x_object, "x");
  const Axes axes(call, array, "x", normalized_shape);
  const Input x(array, axes);
  std::optional<Input> residual;
  if (added) residual = another(call, residual_object, "residual", x, axes);
  const Dtype computed = computed_with(x.dtype);
  const auto weight = call.optional(weight_object, "weight", computed, axes.normalized),
             bias = call.optional(bias_object, "bias", computed, axes.normalized);
  return forward<Norm>(call, x, axes, residual, weight, bias, call.eps(eps_object), out);
}

/// Backward of the same; x is called `x_name`.
template <class Norm>
py::tuple differentiate(const char* function, py::handle dy_object, py::handle dsum_object, py::handle x_object,
                        const char* x_name, py::handle normalized_shape, py::handle mean, py::handle rstd,
                        py::handle weight, py::handle out) {
  Call call(function);
  const Array array = call.read(x_object, x_name);
  const Axes axes(call, array, x_name, normalized_shape);
  const Input x(array, axes), dy = another(call, dy_object, "dy", x, axes);
  std::optional<Input> dsum;
  if (!dsum_object.is_none()) dsum = another(call, dsum_object, "dsum", x, axes);
  return backward<Norm>(call, dy, dsum, x, axes, mean, rstd, "rstd", weight, out);
}

py::tuple py_layer_norm(py::handle x, py::handle normalized_shape, py::handle weight, py::handle bias, py::handle eps,
                        py::handle out) {
  return normalize<LayerNorm>("layer_norm", x, py::none(), false, normalized_shape, weight, bias, eps, out);
}
py::tuple py_layer_norm_backward(py::handle dy, py::handle x, py::handle normalized_shape, py::handle mean,
                                 py::handle rstd, py::handle weight, py::handle out) {
  return differentiate<LayerNorm>("layer_norm_backward", dy, py::none(), x, "x", normalized_shape, mean, rstd, weight,
                                  out);
}
py::tuple py_add_layer_norm(py::handle x, py::handle residual, py::handle normalized_shape, py::handle weight,
                            py::handle bias, py::handle eps, py::handle out) {
  return normalize<LayerNorm>("add_layer_norm", x, residual, true, normalized_shape, weight, bias, eps, out);
}
py::tuple py_add_layer_norm_backward(py::handle dy, py::handle dsum, py::handle sum, py::handle normalized_shape,
                                     py::handle mean, py::handle rstd, py::handle weight, py::handle out) {
  return differentiate<LayerNorm>("add_layer_norm_backward", dy, dsum, sum, "sum", normalized_shape, mean, rstd, weight,
                                  out);
}

py::tuple py_rms_norm(py::handle x, py::handle normalized_shape, py::handle weight, py::handle eps, py::handle out) {
  return normalize<RmsNorm>("rms_norm", x, py::none(), false, normalized_shape, weight, py::none(), eps, out);
}
py::tuple py_rms_norm_backward(py::handle dy, py::handle x, py::handle normalized_shape, py::handle rstd,
                               py::handle weight, py::handle out) {
  return differentiate<RmsNorm>("rms_norm_backward", dy, py::none(), x, "x", normalized_shape, py::none(), rstd, weight,
                                out);
}
py::tuple py_add_rms_norm(py::handle x, py::handle residual, py::handle normalized_shape, py::handle weight,
                          py::handle eps, py::handle out) {
  return normalize<RmsNorm>("add_rms_norm", x, residual, true, normalized_shape, weight, py::none(), eps, out);
}
py::tuple py_add_rms_norm_backward(py::handle dy, py::handle dsum, py::handle sum, py::handle normalized_shape,
                                   py::handle rstd, py::handle weight, py::handle out) {
  return differentiate<RmsNorm>("add_rms_norm_backward", dy, dsum, sum, "sum", normalized_shape, py::none(), rstd,
                                weight, out);
}

py::tuple py_cosine_norm(py::handle x_object, py::handle eps, py::handle out) {
  Call call("cosine_norm");
  const Array array = call.read(x_object, "x");
  const Axes axes(call, array);
  const Input x(array, axes);
  return forward<CosineNorm>(call, x, axes, {}, {}, {}, call.eps(eps), out);
}
py::object py_cosine_norm_backward(py::handle dy_object, py::handle x_object, py::handle rnorm, py::handle out) {
  Call call("cosine_norm_backward");
  const Array array = call.read(x_object, "x");
  const Axes axes(call, array);
  const Input x(array, axes), dy = another(call, dy_object, "dy", x, axes);
  return backward<CosineNorm>(call, dy, {}, x, axes, py::none(), rnorm, "rnorm", py::none(), out)[0];
}

}  // namespace

void bind_row_norms(py::module_& m) {
  m.def("layer_norm", &py_layer_norm);
  m.def("layer_norm_backward", &py_layer_norm_backward);
  m.def("add_layer_norm", &py_add_layer_norm);
  m.def("add_layer_norm_backward", &py_add_layer_norm_backward);
  m.def("rms_norm", &py_rms_norm);
  m.def("rms_norm_backward", &py_rms_norm_backward);
  m.def("add_rms_norm", &py_add_rms_norm);
  m.def("add_rms_norm_backward", &py_add_rms_norm_backward);
  m.def("cosine_norm", &py_cosine_norm);
  m.def("cosine_norm_backward", &py_cosine_norm_backward);
}

}  // namespace fastopt
