/// Normalizations for Python.  Everything is checked before anything is written.
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/arrays.hpp"
#include "bind/module.hpp"
#include "norm/batch_norm.hpp"
#include "norm/layer_norm.hpp"

namespace fastopt {

namespace {

using Shape = std::vector<std::ptrdiff_t>;

/// Calls body(T{}) with the compute type.
template <class Body> auto with_type(Dtype dtype, Body&& body) {
  return dtype == Dtype::float32 ? body(float{}) : body(double{});
}

/// The arguments of one call: finds what is wrong with them and, at the end, whether what is written overlaps anything.
class Call {
 public:
  explicit Call(const char* function) : function_(function) {}

  Name name(std::string_view argument) const { return {function_, argument}; }
  std::string text(std::string_view argument) const { return name(argument).text(); }

  /// An array that is only read, of any layout.
  Array read(py::handle object, const char* argument) {
    const Array array(object, name(argument));
    spans_.add(array, argument, false);
    return array;
  }

  /// A contiguous array of one dtype and shape, or nothing.
  std::optional<Array> optional(py::handle object, const char* argument, Dtype dtype, const Shape& shape,
                                bool written = false) {
    if (object.is_none()) return std::nullopt;
    const Array array(object, name(argument));
    expect_dtype(array, dtype, name(argument));
    expect_shape(array, shape, name(argument));
    expect_contiguous(array, name(argument));
    if (written) expect_writeable(array, name(argument));
    spans_.add(array, argument, written);
    return array;
  }

  Array required(py::handle object, const char* argument, Dtype dtype, const Shape& shape) {
    const auto array = optional(object, argument, dtype, shape);
    if (!array) throw py::type_error(text(argument) + " must be a numpy array, got None");
    return *array;
  }

  /// The results, of which `out` may bring some.
  void results(py::handle out, std::size_t count) {
    given_.assign(count, py::none());
    if (out.is_none()) return;
    if (!py::isinstance<py::tuple>(out) || py::len(out) != count)
      throw py::type_error(text("out") + " must be a tuple of " + std::to_string(count) +
                           ", with None for results that are wanted new");
    const auto tuple = py::reinterpret_borrow<py::tuple>(out);
    for (std::size_t i = 0; i < count; ++i) given_[i] = tuple[i];
  }

  /// Result number i: the one that is given, or what `make` makes.
  template <class Make>
  py::object result(std::size_t i, const char* argument, Dtype dtype, const Shape& shape, const Make& make) {
    if (given_[i].is_none()) return make();
    const Array array(given_[i], name(argument));
    expect_dtype(array, dtype, name(argument));
    expect_shape(array, shape, name(argument));
    expect_writeable(array, name(argument));
    spans_.add(array, argument, true);
    return given_[i];
  }

  py::object contiguous_result(std::size_t i, const char* argument, Dtype dtype, const Shape& shape) {
    py::object object = result(i, argument, dtype, shape, [&] { return fresh(dtype, shape); });
    expect_contiguous(Array(object, name(argument)), name(argument));
    return object;
  }

  /// Result number i that is not wanted must not be given.
  py::object no_result(std::size_t i, const char* argument, const char* why) const {
    if (!given_[i].is_none()) throw py::value_error(text(argument) + " is given, but " + why);
    return py::none();
  }

  /// The last check.
  void expect_disjoint() { spans_.expect_disjoint(function_); }

  static py::object fresh(Dtype dtype, const Shape& shape) {
    if (dtype == Dtype::float32) return py::array_t<float>(shape);
    return py::array_t<double>(shape);
  }

 private:
  const char* function_;
  std::vector<py::object> given_;
  Spans spans_;
};

template <class T> T* data_of(const std::optional<Array>& array) { return array ? array->data<T>() : nullptr; }
template <class T> T* data_of(const py::object& array) {
  return array.is_none() ? nullptr : reinterpret_cast<T*>(py::detail::array_proxy(array.ptr())->data);
}

/// A number in [low, high].
double number_of(const Call& call, const char* argument, py::handle object, double low, double high,
                 const char* constraint) {
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1 && PyErr_Occurred()) {
    const bool too_large = PyErr_ExceptionMatches(PyExc_OverflowError) != 0;
    PyErr_Clear();
    if (!too_large)
      throw py::type_error(call.text(argument) + " must be a number, got " + std::string(py::repr(object)));
    throw py::value_error(call.text(argument) + " must be " + constraint + ", got " + std::string(py::str(object)));
  }
  if (!(value >= low && value <= high))
    throw py::value_error(call.text(argument) + " must be " + constraint + ", got " + std::string(py::str(object)));
  return value;
}

double eps_of(const Call& call, py::handle object) {
  return number_of(call, "eps", object, 0, std::numeric_limits<double>::max(), "finite and >= 0");
}

std::ptrdiff_t integer_of(const Call& call, const char* argument, py::handle object) {
  const Py_ssize_t value = PyNumber_AsSsize_t(object.ptr(), nullptr);
  if (value == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(call.text(argument) + " must be an integer, got " + std::string(py::repr(object)));
  }
  return value;
}

bool flag_of(const Call& call, const char* argument, py::handle object) {
  if (!py::isinstance<py::bool_>(object) && !PyIndex_Check(object.ptr()) &&
      std::string(py::str(py::type::handle_of(object).attr("__name__"))) != "bool")
    throw py::type_error(call.text(argument) + " must be a bool, got " + std::string(py::repr(object)));
  return PyObject_IsTrue(object.ptr()) == 1;
}

// ---- LayerNorm ------------------------------------------------------------------------------------------------------

/// The normalized axes, the last ones of x; returns how many axes come before them.
std::ptrdiff_t expect_normalized(const Call& call, const Array& x, py::handle normalized_shape, Shape& shape) {
  if (py::isinstance<py::sequence>(normalized_shape) && !py::isinstance<py::str>(normalized_shape))
    for (const py::handle axis : normalized_shape) shape.push_back(integer_of(call, "normalized_shape", axis));
  else
    shape.push_back(integer_of(call, "normalized_shape", normalized_shape));
  const auto axes = static_cast<std::ptrdiff_t>(shape.size());
  if (axes == 0) throw py::value_error(call.text("normalized_shape") + " must name at least one axis");
  const Shape all = x.shape();
  if (axes > x.ndim() || !std::equal(shape.begin(), shape.end(), all.end() - axes))
    throw py::value_error(call.text("x") + " has shape " + text_of(all) +
                          ", expected it to end with normalized_shape " + text_of(shape));
  return x.ndim() - axes;
}

py::tuple py_layer_norm(py::handle x_object, py::handle normalized_shape, py::handle weight_object,
                        py::handle bias_object, py::handle eps_object, py::handle out) {
  Call call("layer_norm");
  const Array x = call.read(x_object, "x");
  Shape normalized;
  const std::ptrdiff_t split = expect_normalized(call, x, normalized_shape, normalized);
  const Shape shape = x.shape(), leading(shape.begin(), shape.begin() + split);
  const Rows rows = rows_of(x, split, call.name("x"));
  const auto weight = call.optional(weight_object, "weight", x.dtype(), normalized),
             bias = call.optional(bias_object, "bias", x.dtype(), normalized);
  const double eps = eps_of(call, eps_object);
  call.results(out, 3);
  py::object y = call.contiguous_result(0, "out[0]", x.dtype(), shape),
             mean = call.contiguous_result(1, "out[1]", Dtype::float64, leading),
             rstd = call.contiguous_result(2, "out[2]", Dtype::float64, leading);
  call.expect_disjoint();
  with_type(x.dtype(), [&](auto number) {
    using T = decltype(number);
    T* to = data_of<T>(y);
    double *mean_to = data_of<double>(mean), *rstd_to = data_of<double>(rstd);
    const py::gil_scoped_release release;
    fastopt::layer_norm<T>(x.data<T>(), rows, data_of<T>(weight), data_of<T>(bias), eps, to, mean_to, rstd_to);
  });
  return py::make_tuple(y, mean, rstd);
}

py::tuple py_layer_norm_backward(py::handle dy_object, py::handle x_object, py::handle normalized_shape,
                                 py::handle mean_object, py::handle rstd_object, py::handle weight_object,
                                 py::handle out) {
  Call call("layer_norm_backward");
  const Array dy = call.read(dy_object, "dy"), x = call.read(x_object, "x");
  Shape normalized;
  const std::ptrdiff_t split = expect_normalized(call, x, normalized_shape, normalized);
  const Shape shape = x.shape(), leading(shape.begin(), shape.begin() + split);
  expect_dtype(dy, x.dtype(), call.name("dy"));
  expect_shape(dy, shape, call.name("dy"));
  const Rows rows = rows_of(x, split, call.name("x")), dy_rows = rows_of(dy, split, call.name("dy"));
  const Array mean = call.required(mean_object, "mean", Dtype::float64, leading),
              rstd = call.required(rstd_object, "rstd", Dtype::float64, leading);
  const auto weight = call.optional(weight_object, "weight", x.dtype(), normalized);
  call.results(out, 3);
  py::object dx = call.contiguous_result(0, "out[0]", x.dtype(), shape), dweight, dbias;
  if (weight) {
    dweight = call.contiguous_result(1, "out[1]", x.dtype(), normalized);
    dbias = call.contiguous_result(2, "out[2]", x.dtype(), normalized);
  } else {
    dweight = call.no_result(1, "out[1]", "there is no weight");
    dbias = call.no_result(2, "out[2]", "there is no weight");
  }
  call.expect_disjoint();
  with_type(x.dtype(), [&](auto number) {
    using T = decltype(number);
    T *dx_to = data_of<T>(dx), *dweight_to = data_of<T>(dweight), *dbias_to = data_of<T>(dbias);
    const py::gil_scoped_release release;
    fastopt::layer_norm_backward<T>(dy.data<T>(), dy_rows, x.data<T>(), rows, mean.data<double>(), rstd.data<double>(),
                                    data_of<T>(weight), dx_to, dweight_to, dbias_to);
  });
  return py::make_tuple(dx, dweight, dbias);
}

// ---- BatchNorm ------------------------------------------------------------------------------------------------------

std::size_t channel_axis_of(const Call& call, const Array& x, py::handle object) {
  const std::ptrdiff_t channel_axis = integer_of(call, "channel_axis", object);
  if (x.ndim() < 2)
    throw py::value_error(call.text("x") + " has shape " + text_of(x.shape()) + ", expected at least 2 axes");
  if (channel_axis < -x.ndim() || channel_axis >= x.ndim())
    throw py::value_error(call.text("channel_axis") + " must name an axis of x, which has " + std::to_string(x.ndim()) +
                          ", got " + std::to_string(channel_axis));
  return static_cast<std::size_t>(channel_axis < 0 ? channel_axis + x.ndim() : channel_axis);
}

/// How the channels lie in memory: columns where the channel axis is the innermost in memory, whatever its number.
Channels channels_of(const Array& array, std::size_t channel_axis, const Name& name) {
  const auto axis = static_cast<std::ptrdiff_t>(channel_axis);
  std::vector<std::ptrdiff_t> before(channel_axis), after(static_cast<std::size_t>(array.ndim() - axis - 1));
  std::iota(before.begin(), before.end(), 0);
  std::iota(after.begin(), after.end(), axis + 1);
  std::ptrdiff_t inner = 1;
  for (const auto a : after) inner *= array.shape(a);

  Channels channels{};
  channels.count = static_cast<std::size_t>(array.shape(axis));
  const bool adjacent = channels.count > 1 && array.stride(axis) == static_cast<std::ptrdiff_t>(array.itemsize());
  channels.columns = adjacent || after.empty() || (channels.count == 1 && inner == 1);
  if (channels.columns) {
    before.insert(before.end(), after.begin(), after.end());
    channels.rows = rows_of(array, before, {axis}, name, "its channel axis, or along the axes behind it");
  } else {
    channels.rows = rows_of(array, before, after, name, "its channel axis, or along the axes behind it");
    if (array.stride(axis) < 0) throw py::type_error(name.text() + " has a negative stride");
    channels.stride = static_cast<std::size_t>(array.stride(axis)) / array.itemsize();
  }
  return channels;
}

/// Another array of x's shape, whose channels must lie as x's do.
Channels channels_like(const Channels& x, const Array& array, std::size_t channel_axis, const Name& name) {
  Channels channels = channels_of(array, channel_axis, name);
  if (channels.columns != x.columns && array.size() != 0)
    throw py::type_error(name.text() + " must lie in memory as x does: " +
                         (x.columns ? "channels last" : "channels before the axes behind them"));
  return channels;
}

/// The result that is laid out as x: planes or columns.
py::object result_like(Call& call, std::size_t i, const char* argument, const Array& x, const Channels& channels,
                       std::size_t axis) {
  const Shape shape = x.shape();
  py::object object = call.result(i, argument, x.dtype(), shape, [&]() -> py::object {
    if (!channels.columns || axis + 1 == shape.size()) return Call::fresh(x.dtype(), shape);
    Shape strides(shape.size());
    strides[axis] = static_cast<std::ptrdiff_t>(x.itemsize());
    std::ptrdiff_t stride = strides[axis] * shape[axis];
    for (std::size_t a = shape.size(); a-- > 0;)
      if (a != axis) {
        strides[a] = stride;
        stride *= std::max<std::ptrdiff_t>(shape[a], 1);
      }
    if (x.dtype() == Dtype::float32) return py::array_t<float>(shape, strides);
    return py::array_t<double>(shape, strides);
  });
  const Array array(object, call.name(argument));
  const Spans::Extent extent = Spans::extent(array);
  if (array.size() != 0 && extent.end - extent.begin != array.size() * array.itemsize())
    throw py::type_error(call.text(argument) + " must fill its memory without gaps");
  return object;
}

py::tuple py_batch_norm(py::handle x_object, py::handle running_mean_object, py::handle running_var_object,
                        py::handle weight_object, py::handle bias_object, py::handle training_object,
                        py::handle momentum_object, py::handle eps_object, py::handle channel_axis, py::handle out) {
  Call call("batch_norm");
  const bool training = flag_of(call, "training", training_object);
  const Array x = call.read(x_object, "x");
  const std::size_t axis = channel_axis_of(call, x, channel_axis);
  const Channels in = channels_of(x, axis, call.name("x"));
  const Shape channels{static_cast<std::ptrdiff_t>(in.count)};
  const auto running_mean = call.optional(running_mean_object, "running_mean", x.dtype(), channels, training),
             running_var = call.optional(running_var_object, "running_var", x.dtype(), channels, training);
  if (running_mean.has_value() != running_var.has_value())
    throw py::type_error(call.text(running_mean ? "running_var" : "running_mean") +
                         " is None, but the other running statistic is not");
  if (!training && !running_mean)
    throw py::type_error(call.text("running_mean") + " is None, but evaluation needs the running statistics");
  const auto weight = call.optional(weight_object, "weight", x.dtype(), channels),
             bias = call.optional(bias_object, "bias", x.dtype(), channels);
  const double momentum = number_of(call, "momentum", momentum_object, 0, 1, "in [0, 1]"),
               eps = eps_of(call, eps_object);
  if (training && in.values() == 1)
    throw py::value_error(call.text("x") + " has shape " + text_of(x.shape()) +
                          ", expected more than 1 value per channel when training");
  call.results(out, 3);
  py::object y = result_like(call, 0, "out[0]", x, in, axis),
             mean = call.contiguous_result(1, "out[1]", Dtype::float64, channels),
             rstd = call.contiguous_result(2, "out[2]", Dtype::float64, channels);
  const Channels y_out = channels_like(in, Array(y, call.name("out[0]")), axis, call.name("out[0]"));
  call.expect_disjoint();

  with_type(x.dtype(), [&](auto number) {
    using T = decltype(number);
    T* to = data_of<T>(y);
    double *mean_to = data_of<double>(mean), *rstd_to = data_of<double>(rstd);
    T *running_mean_to = data_of<T>(running_mean), *running_var_to = data_of<T>(running_var);
    const py::gil_scoped_release release;
    if (!training) {
      batch_norm_evaluation<T>(x.data<T>(), in, running_mean_to, running_var_to, data_of<T>(weight), data_of<T>(bias),
                               eps, to, y_out, mean_to, rstd_to);
    } else {
      const auto moments = batch_norm_training<T>(x.data<T>(), in, data_of<T>(weight), data_of<T>(bias), eps, to, y_out,
                                                  mean_to, rstd_to);
      if (running_mean_to && in.values() != 0)
        update_running<T>(moments, in.values(), momentum, running_mean_to, running_var_to);
    }
  });
  return py::make_tuple(y, mean, rstd);
}

py::tuple py_batch_norm_backward(py::handle dy_object, py::handle x_object, py::handle mean_object,
                                 py::handle rstd_object, py::handle weight_object, py::handle training_object,
                                 py::handle channel_axis, py::handle out) {
  Call call("batch_norm_backward");
  const bool training = flag_of(call, "training", training_object);
  const Array dy = call.read(dy_object, "dy"), x = call.read(x_object, "x");
  const std::size_t axis = channel_axis_of(call, x, channel_axis);
  expect_dtype(dy, x.dtype(), call.name("dy"));
  expect_shape(dy, x.shape(), call.name("dy"));
  const Channels in = channels_of(x, axis, call.name("x")), dy_in = channels_like(in, dy, axis, call.name("dy"));
  const Shape channels{static_cast<std::ptrdiff_t>(in.count)};
  const Array mean = call.required(mean_object, "mean", Dtype::float64, channels),
              rstd = call.required(rstd_object, "rstd", Dtype::float64, channels);
  const auto weight = call.optional(weight_object, "weight", x.dtype(), channels);
  call.results(out, 3);
  py::object dx = result_like(call, 0, "out[0]", x, in, axis), dweight, dbias;
  if (weight) {
    dweight = call.contiguous_result(1, "out[1]", x.dtype(), channels);
    dbias = call.contiguous_result(2, "out[2]", x.dtype(), channels);
  } else {
    dweight = call.no_result(1, "out[1]", "there is no weight");
    dbias = call.no_result(2, "out[2]", "there is no weight");
  }
  const Channels dx_out = channels_like(in, Array(dx, call.name("out[0]")), axis, call.name("out[0]"));
  call.expect_disjoint();
  with_type(x.dtype(), [&](auto number) {
    using T = decltype(number);
    T *dx_to = data_of<T>(dx), *dweight_to = data_of<T>(dweight), *dbias_to = data_of<T>(dbias);
    const py::gil_scoped_release release;
    fastopt::batch_norm_backward<T>(dy.data<T>(), dy_in, x.data<T>(), in, mean.data<double>(), rstd.data<double>(),
                                    data_of<T>(weight), training, dx_to, dx_out, dweight_to, dbias_to);
  });
  return py::make_tuple(dx, dweight, dbias);
}

}  // namespace

void bind_norm(py::module_& m) {
  using py::arg;
  m.def("layer_norm", &py_layer_norm, arg("x"), arg("normalized_shape"), arg("weight"), arg("bias"), arg("eps"),
        arg("out"));
  m.def("layer_norm_backward", &py_layer_norm_backward, arg("dy"), arg("x"), arg("normalized_shape"), arg("mean"),
        arg("rstd"), arg("weight"), arg("out"));
  m.def("batch_norm", &py_batch_norm, arg("x"), arg("running_mean"), arg("running_var"), arg("weight"), arg("bias"),
        arg("training"), arg("momentum"), arg("eps"), arg("channel_axis"), arg("out"));
  m.def("batch_norm_backward", &py_batch_norm_backward, arg("dy"), arg("x"), arg("mean"), arg("rstd"), arg("weight"),
        arg("training"), arg("channel_axis"), arg("out"));
}

}  // namespace fastopt
