/// Activations, softmax and losses for Python.  Everything is checked before anything is written.
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/call.hpp"
#include "bind/gil.hpp"
#include "bind/module.hpp"
#include "nn/activation.hpp"
#include "nn/elementwise.hpp"
#include "nn/loss.hpp"
#include "nn/softmax.hpp"

namespace fastopt {

namespace {

constexpr double kMost = std::numeric_limits<double>::max();

/// An array that is only read, of float32 or float64.
Array computed(Call& call, const char* argument) {
  expect_no_integers(call[argument], call.name(argument), "float32 or float64");
  const Array array = call.read(argument);
  if (is_half(array.dtype()))
    throw py::type_error(call.text(argument) + " has dtype " + name_of(array.dtype()) +
                         ", expected float32 or float64: pass " + argument + ".astype(np.float32)");
  return array;
}

/// A named choice.
template <class Choice>
Choice choice(const Call& call, const char* argument, std::initializer_list<std::pair<const char*, Choice>> choices,
              bool or_none = false) {
  const py::handle object = call[argument];
  std::string names;
  for (const auto& [name, value] : choices) {
    if (py::isinstance<py::str>(object) && object.equal(py::str(name))) return value;
    const bool last = name == (choices.end() - 1)->first && !or_none;
    names += (names.empty() ? "'" : last ? " or '" : ", '") + std::string(name) + "'";
  }
  const std::string text = call.text(argument) + " must be " + names + (or_none ? " or None" : "") + ", got " +
                           std::string(py::repr(object));
  if (!py::isinstance<py::str>(object)) throw py::type_error(text);
  throw py::value_error(text);
}

/// All elements in as few rows as their memory allows.
Input elements(const Array& array) { return {array, elements_of(array)}; }
/// All elements as one row.
Input one_row(const Array& array) { return {array, rows_of(array, {}, axes_from(0, array.ndim()))}; }

/// An axis of arrays, along which their rows lie.
class Along {
 public:
  /// The axis `dim` of an array; it may count from the end.
  Along(const Call& call, const Array& x, const char* x_name, std::ptrdiff_t dim) : axis_(dim) {
    if (x.ndim() == 0) throw py::value_error(call.text(x_name) + " has shape (), expected at least 1 axis");
    if (dim < -x.ndim() || dim >= x.ndim())
      throw py::value_error(call.text("dim") + " must name an axis of " + x_name + ", which has " +
                            std::to_string(x.ndim()) + ", got " + std::to_string(dim));
    if (axis_ < 0) axis_ += x.ndim();
    for (std::ptrdiff_t a = 0; a < x.ndim(); ++a)
      if (a != axis_) others_.push_back(a);
  }

  Input rows(const Array& array) const { return {array, rows_of(array, others_, AxisList(&axis_, 1))}; }

  std::ptrdiff_t width(const Shape& shape) const { return shape[static_cast<std::size_t>(axis_)]; }
  Shape without(const Shape& shape) const {
    Shape rest;
    for (const std::ptrdiff_t a : others_) rest.push_back(shape[static_cast<std::size_t>(a)]);
    return rest;
  }

  /// A result whose rows lie one behind the other.
  py::object result(Call& call, std::size_t i, Dtype dtype, const Shape& shape) const {
    Shape order = others_;
    order.push_back(axis_);
    const Shape strides = strides_in(order, shape, dtype);
    py::object object = call.result(i, dtype, shape, [&] { return fresh(dtype, shape, strides); });
    const Array array(object, call.result_name(i), Accepted::floats);
    for (std::ptrdiff_t a = 0; a < array.ndim() && array.size() != 0; ++a)
      if (array.shape(a) > 1 && array.stride(a) != strides[static_cast<std::size_t>(a)])
        throw py::type_error(call.result_name(i).text() + " must be C-contiguous" +
                             (others_.empty() || axis_ > others_.back() ? "" : " with the axis dim moved to the end") +
                             "; None makes such an array");
    return object;
  }

 private:
  std::ptrdiff_t axis_;
  Shape others_;
};

// ---- Elementary functions -------------------------------------------------------------------------------------------

/// x -> y.
template <Elementwise function> py::object elementwise(Call& call) {
  const Input x = elements(computed(call, "x"));
  call.results(1);
  py::object y = call.contiguous_result(0, x.dtype, x.shape);
  call.expect_disjoint(true);
  with_computed(x.dtype, [&](auto number) {
    using T = decltype(number);
    T* to = data_of<T>(y);
    const WithoutGil release;
    call.run<&ElementwiseKernels<T>::apply>(function, x.at<T>(), x.rows, to);
  });
  return y;
}

// ---- Activations ----------------------------------------------------------------------------------------------------

Activation activation_of(const Call& call) {
  using enum Activation;
  if (call["activation"].is_none()) return identity;
  return choice<Activation>(call, "activation",
                            {{"relu", relu},
                             {"gelu", gelu},
                             {"gelu_tanh", gelu_tanh},
                             {"silu", silu},
                             {"tanh", Activation::tanh},
                             {"sigmoid", sigmoid}},
                            true);
}

/// x, activation, bias -> y, saved.
py::object activate(Call& call) {
  const Activation activation = activation_of(call);
  const Array array = computed(call, "x");
  const bool biased = !call["bias"].is_none();
  const Input x = biased ? Along(call, array, "x", -1).rows(array) : elements(array);
  const auto bias =
      call.optional("bias", x.dtype, {biased ? static_cast<std::ptrdiff_t>(x.rows.width) : std::ptrdiff_t{0}});
  call.results(2);
  const bool saves = saves_input(activation);
  const py::object y = call.contiguous_result(0, x.dtype, x.shape),
                   saved = call.result_if(saves, 1, x.dtype, x.shape, "backward needs y only");
  call.expect_disjoint(true);
  with_computed(x.dtype, [&](auto number) {
    using T = decltype(number);
    const T* of_bias = data_of<T>(bias);
    T *to = data_of<T>(y), *z = data_of<T>(saved);
    const WithoutGil release;
    call.run<&ActivationKernels<T>::forward>(activation, x.at<T>(), x.rows, of_bias, to, z);
  });
  return py::make_tuple(y, saves ? saved : y);
}

/// dy, saved, activation, bias_grad -> dx, dbias.
py::object differentiate(Call& call) {
  const Activation activation = activation_of(call);
  const bool biased = call.flag("bias_grad");
  const Array dy_array = computed(call, "dy");
  Input dy = elements(dy_array);
  const Array saved_array = call.read("saved", dy.dtype, dy.shape);
  Input saved = elements(saved_array);
  if (biased || dy.rows.width != saved.rows.width || dy.rows.count() != saved.rows.count()) {
    const Along along(call, dy_array, "dy", -1);
    dy = along.rows(dy_array);
    saved = along.rows(saved_array);
  }
  call.results(2);
  const bool same = activation == Activation::identity && !call.has_result(0);
  const py::object dx = same ? py::none() : call.contiguous_result(0, dy.dtype, dy.shape),
                   dbias = call.result_if(biased, 1, dy.dtype, {static_cast<std::ptrdiff_t>(dy.rows.width)},
                                          "bias_grad is False");
  call.expect_disjoint(true);
  with_computed(dy.dtype, [&](auto number) {
    using T = decltype(number);
    T *to = data_of<T>(dx), *of_bias = data_of<T>(dbias);
    const WithoutGil release;
    if (to || of_bias)
      call.run<&ActivationKernels<T>::backward>(activation, dy.at<T>(), dy.rows, saved.at<T>(), saved.rows, to,
                                                of_bias);
  });
  return py::make_tuple(same ? py::reinterpret_borrow<py::object>(call["dy"]) : dx, dbias);
}

// ---- Softmax --------------------------------------------------------------------------------------------------------

/// The options but for the queries of a causal one, whose number depends on the shape.
SoftmaxOptions softmax_options(const Call& call, bool log, Dtype dtype) {
  const bool single = dtype == Dtype::float32;
  const double most = single ? std::numeric_limits<float>::max() : kMost;
  return {call.number("scale", -most, most, single ? "finite in float32" : "finite"), 0, log};
}

/// How many queries there are, for a causal softmax.
std::size_t queries_of(const Call& call, const Along& along, const Shape& shape, const char* x_name) {
  if (!call.flag("causal")) return 0;
  const Shape others = along.without(shape);
  if (others.empty() || others.back() > along.width(shape))
    throw py::value_error(call.text(x_name) + " has shape " + text_of(shape) +
                          ", expected (…, queries, keys) with no more queries than keys when causal");
  return static_cast<std::size_t>(others.back());
}

/// x, dim, scale, causal -> y.
template <bool log> py::object softmax_forward(Call& call) {
  const std::ptrdiff_t dim = call.integer("dim");
  const Array array = computed(call, "x");
  SoftmaxOptions options = softmax_options(call, log, array.dtype());
  const Along along(call, array, "x", dim);
  const Input x = along.rows(array);
  options.queries = queries_of(call, along, x.shape, "x");
  call.results(1);
  py::object y = along.result(call, 0, x.dtype, x.shape);
  call.expect_disjoint(true);
  if (x.size == 0) return y;
  with_computed(x.dtype, [&](auto number) {
    using T = decltype(number);
    T* to = data_of<T>(y);
    const WithoutGil release;
    call.run<&SoftmaxKernels<T>::forward>(options, x.at<T>(), x.rows, to);
  });
  return y;
}

/// dy, y, dim, scale, causal -> dx.
template <bool log> py::object softmax_backward(Call& call) {
  const std::ptrdiff_t dim = call.integer("dim");
  const Array array = computed(call, "dy");
  SoftmaxOptions options = softmax_options(call, log, array.dtype());
  const Along along(call, array, "dy", dim);
  const Input dy = along.rows(array), y = along.rows(call.read("y", dy.dtype, dy.shape));
  options.queries = queries_of(call, along, dy.shape, "dy");
  call.results(1);
  py::object dx = along.result(call, 0, dy.dtype, dy.shape);
  call.expect_disjoint(true);
  if (dy.size == 0) return dx;
  with_computed(dy.dtype, [&](auto number) {
    using T = decltype(number);
    T* to = data_of<T>(dx);
    const WithoutGil release;
    call.run<&SoftmaxKernels<T>::backward>(options, dy.at<T>(), dy.rows, y.at<T>(), y.rows, to);
  });
  return dx;
}

// ---- Losses ---------------------------------------------------------------------------------------------------------

enum class Reduction { mean, sum, none };

Reduction reduction_of(const Call& call) {
  return choice<Reduction>(call, "reduction",
                           {{"mean", Reduction::mean}, {"sum", Reduction::sum}, {"none", Reduction::none}});
}

/// Labels, checked: a copy, as another thread may change the array while the kernel runs.
struct Labels {
  std::vector<std::int64_t> labels;

  Labels(const Call& call, const Shape& shape, std::ptrdiff_t classes, std::int64_t ignored) {
    const py::array_t<std::int64_t> array(py::reinterpret_borrow<py::object>(call["target"]));
    const Shape given(array.shape(), array.shape() + array.ndim());
    if (given != shape)
      throw py::value_error(call.text("target") + " has shape " + text_of(given) + ", expected " + text_of(shape) +
                            ", or that of x for distributions");
    labels.assign(array.data(), array.data() + array.size());
    for (std::size_t i = 0; i < labels.size(); ++i)
      if (labels[i] != ignored && (labels[i] < 0 || labels[i] >= classes))
        throw py::value_error(call.text("target") + " must be in [0, " + std::to_string(classes) +
                              ") or ignore_index = " + std::to_string(ignored) + ", got " + std::to_string(labels[i]) +
                              " at " + std::to_string(i) + " in C order");
  }
};

/// A number as kernels read it: subnormal ones count as 0.
template <class T> double normal(T x) { return std::abs(x) < std::numeric_limits<T>::min() ? 0 : x; }

/// dx, if the gradient is wanted.
template <class Make> py::object gradient_of(Call& call, const Make& make) {
  call.results(1);
  if (call.flag("grad")) return make();
  if (!call["out"].is_none()) throw py::value_error(call.text("out") + " is given, but grad is False");
  return py::none();
}

/// Raises ValueError if dx shares memory with an argument but x itself.
void expect_only_x(Call& call, const py::object& dx) {
  for (const char* const other : {"target", "weight", "pos_weight"})
    if (!dx.is_none() && call.has(other) && dx.is(call[other]))
      throw py::value_error(call.text("out") + " would be written, but overlaps " + other);
  call.expect_disjoint(true);
}

/// x, target, weight, ignore_index, reduction, label_smoothing, dim, grad -> loss, dx.
py::object cross_entropy(Call& call) {
  const bool given = !call["dim"].is_none();
  const std::ptrdiff_t dim = given ? call.integer("dim") : 0;
  const std::int64_t ignored = call.integer("ignore_index");
  const double smoothing = call.number("label_smoothing", 0, 1, "in [0, 1]");
  const Reduction reduction = reduction_of(call);
  const Array array = computed(call, "x");
  const Along along(call, array, "x", given ? dim : array.ndim() > 1 ? 1 : 0);
  const Input x = along.rows(array);
  const std::ptrdiff_t classes = along.width(x.shape);
  const py::handle target = call["target"];
  std::optional<Input> distributions;
  std::optional<Labels> labels;
  if (py::isinstance<py::array>(target) && py::str("f").equal(target.attr("dtype").attr("kind")))
    distributions = along.rows(call.read("target", x.dtype, x.shape));
  else
    labels.emplace(call, along.without(x.shape), classes, ignored);
  const auto weight = call.optional("weight", x.dtype, {classes});
  const std::size_t count = x.rows.count();
  const py::object dx = gradient_of(call, [&] { return along.result(call, 0, x.dtype, x.shape); });
  expect_only_x(call, dx);
  const py::object losses = fresh(Dtype::float64, along.without(x.shape));
  return with_computed(x.dtype, [&](auto number) -> py::object {
    using T = decltype(number);
    CrossEntropy<T> arrays{x.at<T>(), x.rows};
    double divisor = static_cast<double>(count);
    if (labels) {
      arrays.labels = labels->labels.data();
      divisor = 0;
      for (std::size_t i = 0; i < count; ++i)
        if (arrays.labels[i] != ignored) divisor += weight ? normal(weight->data<T>()[arrays.labels[i]]) : 1;
    } else {
      arrays.targets = distributions->at<T>();
      arrays.target_rows = distributions->rows;
    }
    if (reduction != Reduction::mean) divisor = 1;
    arrays.ignored = ignored;
    arrays.weight = data_of<T>(weight);
    arrays.smoothing = smoothing;
    arrays.factor = 1 / divisor;
    arrays.losses = data_of<double>(losses);
    arrays.dx = data_of<T>(dx);
    double total = 0;
    if (classes != 0) {
      const WithoutGil release;
      total = call.run<&LossKernels<T>::cross_entropy>(arrays);
    } else {
      std::fill_n(arrays.losses, count, 0.0);
      if (reduction == Reduction::mean) divisor = 0;
    }
    if (reduction == Reduction::none) return py::make_tuple(losses, dx);
    return py::make_tuple(total / divisor, dx);
  });
}

/// x, target, weight [, pos_weight] [, delta], reduction, grad -> loss, dx.
template <Loss loss> py::object element_loss(Call& call) {
  const Reduction reduction = reduction_of(call);
  const Input x = one_row(computed(call, "x"));
  const bool single = x.dtype == Dtype::float32;
  const double least = single ? std::numeric_limits<float>::min() : std::numeric_limits<double>::min();
  const double delta = call.has("delta")
                           ? call.number("delta", least, kMost, single ? "finite and > 0 in float32" : "finite and > 0")
                           : 1;
  const Input target = one_row(call.read("target", x.dtype, x.shape));
  const auto optional = [&](const char* argument) -> std::optional<Input> {
    if (!call.has(argument) || call[argument].is_none()) return std::nullopt;
    return one_row(call.read(argument, x.dtype, x.shape));
  };
  const auto weight = optional("weight"), positive = optional("pos_weight");
  const py::object dx = gradient_of(call, [&] { return call.contiguous_result(0, x.dtype, x.shape); });
  expect_only_x(call, dx);
  const py::object values = reduction == Reduction::none ? fresh(x.dtype, x.shape) : py::none();
  return with_computed(x.dtype, [&](auto number) -> py::object {
    using T = decltype(number);
    ElementLoss<T> arrays{loss, x.size, x.template at<T>(), x.rows, target.template at<T>(), target.rows};
    if (weight) {
      arrays.weight = weight->template at<T>();
      arrays.weight_rows = weight->rows;
    }
    if (positive) {
      arrays.positive = positive->template at<T>();
      arrays.positive_rows = positive->rows;
    }
    const double divisor = reduction == Reduction::mean ? static_cast<double>(x.size) : 1;
    arrays.delta = delta;
    arrays.factor = 1 / divisor;
    arrays.values = data_of<T>(values);
    arrays.dx = data_of<T>(dx);
    double total = 0;
    if (x.size != 0) {
      const WithoutGil release;
      total = call.run<&LossKernels<T>::element_loss>(arrays);
    }
    if (reduction == Reduction::none) return py::make_tuple(values, dx);
    return py::make_tuple(total / divisor, dx);
  });
}

// clang-format off
const std::vector<Function> kLoops{
    {"exp", {"x", "out"}, elementwise<Elementwise::exp>},
    {"erf", {"x", "out"}, elementwise<Elementwise::erf>},
    {"tanh", {"x", "out"}, elementwise<Elementwise::tanh>},
    {"sigmoid", {"x", "out"}, elementwise<Elementwise::sigmoid>},
    {"activate", {"x", "activation", "bias", "out"}, activate},
    {"activate_backward", {"dy", "saved", "activation", "bias_grad", "out"}, differentiate},
    {"softmax", {"x", "dim", "scale", "causal", "out"}, softmax_forward<false>},
    {"softmax_backward", {"dy", "y", "dim", "scale", "causal", "out"}, softmax_backward<false>},
    {"log_softmax", {"x", "dim", "scale", "causal", "out"}, softmax_forward<true>},
    {"log_softmax_backward", {"dy", "y", "dim", "scale", "causal", "out"}, softmax_backward<true>},
    {"cross_entropy",
     {"x", "target", "weight", "ignore_index", "reduction", "label_smoothing", "dim", "grad", "out"},
     cross_entropy},
    {"mse_loss", {"x", "target", "reduction", "weight", "grad", "out"}, element_loss<Loss::mse>},
    {"huber_loss", {"x", "target", "reduction", "delta", "weight", "grad", "out"}, element_loss<Loss::huber>},
    {"binary_cross_entropy_with_logits",
     {"x", "target", "weight", "reduction", "pos_weight", "grad", "out"},
     element_loss<Loss::bce>},
};
// clang-format on

}  // namespace

void bind_loops(py::module_& m, const Kernels& kernels) { bind_functions(m, kernels, kLoops); }

}  // namespace fastopt
