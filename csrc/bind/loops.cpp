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
#include "bind/module.hpp"
#include "nn/activation.hpp"
#include "nn/loss.hpp"
#include "nn/softmax.hpp"

namespace fastopt {

namespace {

constexpr double kMost = std::numeric_limits<double>::max();

/// Calls body(T{}) with the type of a dtype that is computed with.
template <class Body> auto with_computed(Dtype dtype, Body&& body) {
  return dtype == Dtype::float64 ? body(double{}) : body(float{});
}

/// An array that is only read, of float32 or float64.
Array computed(Call& call, const char* argument) {
  const Array array = call.read(argument);
  if (is_half(array.dtype()))
    throw py::type_error(call.text(argument) + " has dtype " + name_of(array.dtype()) +
                         ", expected float32 or float64: pass " + argument + ".astype(np.float32)");
  return array;
}

/// A named choice.
template <class Choice>
Choice choice(const Call& call, const char* argument, std::initializer_list<std::pair<const char*, Choice>> choices) {
  const py::handle object = call[argument];
  std::string names;
  for (const auto& [name, value] : choices) {
    if (py::isinstance<py::str>(object) && object.equal(py::str(name))) return value;
    names += (names.empty() ? "'" : name == (choices.end() - 1)->first ? " or '" : ", '") + std::string(name) + "'";
  }
  const std::string text = call.text(argument) + " must be " + names + ", got " + std::string(py::repr(object));
  if (!py::isinstance<py::str>(object)) throw py::type_error(text);
  throw py::value_error(text);
}

/// A result may be one of the inputs, and must overlap none of the others.
class Inputs {
 public:
  explicit Inputs(Call& call) : call_(call) {}

  void add(const Array& array, const char* argument) { all_.push_back({array, argument}); }
  void expect_apart(std::initializer_list<std::pair<py::handle, std::string>> results) const {
    Spans spans;
    std::vector<Array> arrays;
    arrays.reserve(results.size());
    for (const auto& [result, name] : results)
      if (!result.is_none()) spans.add(arrays.emplace_back(result, Name{"", name}, Accepted::floats), name, true);
    for (const auto& [array, name] : all_)
      if (std::none_of(arrays.begin(), arrays.end(), [&, in = array.object()](const Array& result) {
            return result.object().is(in) && result.contiguous();
          }))
        spans.add(array, name, false);
    const std::string function = call_.name("").text();
    spans.expect_disjoint(std::string_view(function).substr(0, function.find(':')));
  }

 private:
  Call& call_;
  std::vector<std::pair<Array, const char*>> all_;
};

/// Rows along one axis of an array, and results that have this axis innermost in memory.
class Along {
 public:
  Along(Call& call, const Array& x, const char* x_name, std::optional<std::ptrdiff_t> axis = {})
      : call_(call), shape_(x.shape()), dtype_(x.dtype()) {
    if (shape_.empty()) throw py::value_error(call.text(x_name) + " has shape (), expected at least 1 axis");
    axis_ = axis ? *axis : call.integer("dim");
    if (axis_ < -x.ndim() || axis_ >= x.ndim())
      throw py::value_error(call.text("dim") + " must name an axis of " + x_name + ", which has " +
                            std::to_string(x.ndim()) + ", got " + std::to_string(axis_));
    if (axis_ < 0) axis_ += x.ndim();
    for (std::ptrdiff_t a = 0; a < x.ndim(); ++a)
      if (a != axis_) others_.push_back(a);
  }

  const Shape& shape() const { return shape_; }
  std::size_t width() const { return static_cast<std::size_t>(shape_[static_cast<std::size_t>(axis_)]); }
  Shape other_shape() const {
    Shape shape;
    for (const std::ptrdiff_t a : others_) shape.push_back(shape_[static_cast<std::size_t>(a)]);
    return shape;
  }
  Rows rows(const Array& array) const { return rows_of(array, others_, AxisList(&axis_, 1)); }

  /// The rows one behind the other.
  py::object result(std::size_t i) const {
    Shape strides(shape_.size());
    auto stride = static_cast<std::ptrdiff_t>(itemsize_of(dtype_));
    const auto next = [&](std::ptrdiff_t axis) {
      strides[static_cast<std::size_t>(axis)] = stride;
      stride *= std::max<std::ptrdiff_t>(shape_[static_cast<std::size_t>(axis)], 1);
    };
    next(axis_);
    std::for_each(others_.rbegin(), others_.rend(), next);
    py::object object = call_.result(i, dtype_, shape_, [&] { return fresh(dtype_, shape_, strides); });
    const Array array(object, call_.result_name(i), Accepted::floats);
    for (std::ptrdiff_t a = 0; a < array.ndim() && array.size() != 0; ++a)
      if (array.shape(a) > 1 && array.stride(a) != strides[static_cast<std::size_t>(a)])
        throw py::type_error(call_.result_name(i).text() + " must be C-contiguous" +
                             (others_.empty() || axis_ > others_.back() ? "" : " with the axis dim moved to the end") +
                             "; None makes such an array");
    return object;
  }

 private:
  Call& call_;
  Shape shape_, others_;
  std::ptrdiff_t axis_ = 0;
  Dtype dtype_;
};

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
                             {"sigmoid", sigmoid}});
}

/// x, activation, bias -> y, saved.
py::object activate(Call& call) {
  const Array x = computed(call, "x");
  const Activation activation = activation_of(call);
  const Shape shape = x.shape();
  Rows rows = elements_of(x);
  std::optional<Array> bias;
  if (call.has("bias") && !call["bias"].is_none()) {
    const Along along(call, x, "x", -1);
    bias = call.optional("bias", x.dtype(), {static_cast<std::ptrdiff_t>(along.width())});
    rows = along.rows(x);
  }
  call.results(2);
  const bool saves = saves_input(activation);
  const py::object y = call.contiguous_result(0, x.dtype(), shape),
                   saved = call.result_if(saves, 1, x.dtype(), shape, "backward needs y only");
  Inputs inputs(call);
  inputs.add(x, "x");
  if (bias) inputs.add(*bias, "bias");
  inputs.expect_apart({{y, "out[0]"}, {saved, "out[1]"}});
  with_computed(x.dtype(), [&](auto number) {
    using T = decltype(number);
    const T *from = x.data<T>(), *of_bias = data_of<T>(bias);
    T *to = data_of<T>(y), *z = data_of<T>(saved);
    const py::gil_scoped_release release;
    ActivationKernels<T>::forward(activation, from, rows, of_bias, to, z);
  });
  return py::make_tuple(y, saves ? saved : y);
}

/// dy, saved, activation, bias_grad -> dx, dbias.
py::object differentiate(Call& call) {
  const Array dy = computed(call, "dy");
  const Shape shape = dy.shape();
  const Array saved = call.read("saved", dy.dtype(), shape);
  const Activation activation = activation_of(call);
  const bool biased = call.flag("bias_grad");
  Rows dy_rows = elements_of(dy), saved_rows = elements_of(saved);
  Shape width;
  const bool alike = dy_rows.width == saved_rows.width && dy_rows.count() == saved_rows.count();
  if (biased || !alike) {
    if (shape.empty()) throw py::value_error(call.text("dy") + " has shape (), expected at least 1 axis");
    const Along along(call, dy, "dy", -1);
    dy_rows = along.rows(dy);
    saved_rows = along.rows(saved);
    width = {shape.back()};
  }
  call.results(2);
  const py::object dx = call.contiguous_result(0, dy.dtype(), shape),
                   dbias = call.result_if(biased, 1, dy.dtype(), width, "bias_grad is False");
  Inputs inputs(call);
  inputs.add(dy, "dy");
  inputs.add(saved, "saved");
  inputs.expect_apart({{dx, "out[0]"}, {dbias, "out[1]"}});
  with_computed(dy.dtype(), [&](auto number) {
    using T = decltype(number);
    const T *g = dy.data<T>(), *s = saved.data<T>();
    T *to = data_of<T>(dx), *of_bias = data_of<T>(dbias);
    const py::gil_scoped_release release;
    ActivationKernels<T>::backward(activation, g, dy_rows, s, saved_rows, to, of_bias);
  });
  return py::make_tuple(dx, dbias);
}

// ---- Softmax --------------------------------------------------------------------------------------------------------

SoftmaxOptions softmax_options(Call& call, const Along& along, const char* x_name, bool log) {
  SoftmaxOptions options{call.number("scale", -kMost, kMost, "finite"), 0, log};
  if (!call.flag("causal")) return options;
  const Shape others = along.other_shape();
  const auto keys = static_cast<std::ptrdiff_t>(along.width());
  if (others.empty() || others.back() > keys)
    throw py::value_error(call.text(x_name) + " has shape " + text_of(along.shape()) +
                          ", expected (…, queries, keys) with no more queries than keys when causal");
  options.queries = static_cast<std::size_t>(others.back());
  return options;
}

/// x, dim, scale, causal -> y.
template <bool log> py::object softmax_forward(Call& call) {
  const Array x = computed(call, "x");
  const Along along(call, x, "x");
  const SoftmaxOptions options = softmax_options(call, along, "x", log);
  const Rows rows = along.rows(x);
  call.results(1);
  py::object y = along.result(0);
  Inputs inputs(call);
  inputs.add(x, "x");
  inputs.expect_apart({{y, "out"}});
  if (along.width() == 0) return y;
  with_computed(x.dtype(), [&](auto number) {
    using T = decltype(number);
    const T* from = x.data<T>();
    T* to = data_of<T>(y);
    const py::gil_scoped_release release;
    SoftmaxKernels<T>::forward(options, from, rows, to);
  });
  return y;
}

/// dy, y, dim, scale, causal -> dx.
template <bool log> py::object softmax_backward(Call& call) {
  const Array dy = computed(call, "dy");
  const Along along(call, dy, "dy");
  const Array y = call.read("y", dy.dtype(), along.shape());
  const SoftmaxOptions options = softmax_options(call, along, "y", log);
  const Rows dy_rows = along.rows(dy), y_rows = along.rows(y);
  call.results(1);
  py::object dx = along.result(0);
  Inputs inputs(call);
  inputs.add(dy, "dy");
  inputs.add(y, "y");
  inputs.expect_apart({{dx, "out"}});
  if (along.width() == 0) return dx;
  with_computed(dy.dtype(), [&](auto number) {
    using T = decltype(number);
    const T *g = dy.data<T>(), *p = y.data<T>();
    T* to = data_of<T>(dx);
    const py::gil_scoped_release release;
    SoftmaxKernels<T>::backward(options, g, dy_rows, p, y_rows, to);
  });
  return dx;
}

// ---- Losses ---------------------------------------------------------------------------------------------------------

enum class Reduction { mean, sum, none };

Reduction reduction_of(const Call& call) {
  return choice<Reduction>(call, "reduction",
                           {{"mean", Reduction::mean}, {"sum", Reduction::sum}, {"none", Reduction::none}});
}

/// Labels as 64-bit integers, checked.
struct Labels {
  py::array_t<std::int64_t> array;

  Labels(const Call& call, const Shape& shape, std::ptrdiff_t classes, std::int64_t ignored)
      : array(py::reinterpret_borrow<py::object>(call["target"])) {
    if (Shape(array.shape(), array.shape() + array.ndim()) != shape)
      throw py::value_error(call.text("target") + " has shape " +
                            text_of({array.shape(), array.shape() + array.ndim()}) + ", expected " + text_of(shape) +
                            ", or that of x for distributions");
    for (py::ssize_t i = 0; i < array.size(); ++i) {
      const std::int64_t label = array.data()[i];
      if (label != ignored && (label < 0 || label >= classes))
        throw py::value_error(call.text("target") + " must be in [0, " + std::to_string(classes) +
                              ") or ignore_index = " + std::to_string(ignored) + ", got " + std::to_string(label) +
                              " at " + std::to_string(i) + " in C order");
    }
  }
};

/// x, target, weight, ignore_index, reduction, label_smoothing, dim, grad -> loss, dx.
py::object cross_entropy(Call& call) {
  const Array x = computed(call, "x");
  const bool default_dim = call["dim"].is_none();
  const Along along(call, x, "x", default_dim ? std::optional<std::ptrdiff_t>(x.ndim() > 1 ? 1 : 0) : std::nullopt);
  const auto classes = static_cast<std::ptrdiff_t>(along.width());
  const py::handle target = call["target"];
  const std::int64_t ignored = call.integer("ignore_index");
  std::optional<Array> distributions;
  std::optional<Labels> labels;
  if (py::isinstance<py::array>(target) && py::str("f").equal(target.attr("dtype").attr("kind")))
    distributions = call.read("target", x.dtype(), along.shape());
  else
    labels.emplace(call, along.other_shape(), classes, ignored);
  const auto weight = call.optional("weight", x.dtype(), {classes});
  const double smoothing = call.number("label_smoothing", 0, 1, "in [0, 1]");
  const Reduction reduction = reduction_of(call);
  const bool differentiates = call.flag("grad");
  const Rows rows = along.rows(x);
  const std::size_t count = rows.count();
  call.results(1);
  py::object dx = py::none();
  if (differentiates)
    dx = along.result(0);
  else if (!call["out"].is_none())
    throw py::value_error(call.text("out") + " is given, but grad is False");
  Inputs inputs(call);
  inputs.add(x, "x");
  if (distributions) inputs.add(*distributions, "target");
  if (weight) inputs.add(*weight, "weight");
  inputs.expect_apart({{dx, "out"}});
  const py::object losses = fresh(Dtype::float64, along.other_shape());
  return with_computed(x.dtype(), [&](auto number) -> py::object {
    using T = decltype(number);
    CrossEntropy<T> arrays{x.data<T>(), rows};
    double divisor = static_cast<double>(count);
    if (labels) {
      arrays.labels = labels->array.data();
      divisor = 0;
      for (std::size_t i = 0; i < count; ++i)
        if (arrays.labels[i] != ignored)
          divisor += weight ? static_cast<double>(weight->data<T>()[arrays.labels[i]]) : 1;
    } else {
      arrays.targets = distributions->data<T>();
      arrays.target_rows = along.rows(*distributions);
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
      const py::gil_scoped_release release;
      total = LossKernels<T>::cross_entropy(arrays);
    }
    if (reduction == Reduction::none) return py::make_tuple(losses, dx);
    return py::make_tuple(total / divisor, dx);
  });
}

/// x, target, weight [, pos_weight] [, delta], reduction, grad -> loss, dx.
template <Loss loss> py::object element_loss(Call& call) {
  const Array x = computed(call, "x");
  const Shape shape = x.shape();
  const Array target = call.read("target", x.dtype(), shape);
  std::optional<Array> weight, positive;
  if (!call["weight"].is_none()) weight = call.read("weight", x.dtype(), shape);
  if (call.has("pos_weight") && !call["pos_weight"].is_none()) positive = call.read("pos_weight", x.dtype(), shape);
  const double delta =
      call.has("delta") ? call.number("delta", std::numeric_limits<double>::min(), kMost, "finite and > 0") : 1;
  const Reduction reduction = reduction_of(call);
  const bool differentiates = call.flag("grad");
  call.results(1);
  py::object dx = py::none();
  if (differentiates)
    dx = call.contiguous_result(0, x.dtype(), shape);
  else if (!call["out"].is_none())
    throw py::value_error(call.text("out") + " is given, but grad is False");
  Inputs inputs(call);
  inputs.add(x, "x");
  inputs.add(target, "target");
  if (weight) inputs.add(*weight, "weight");
  if (positive) inputs.add(*positive, "pos_weight");
  inputs.expect_apart({{dx, "out"}});
  Shape all(shape.size());
  for (std::size_t a = 0; a < all.size(); ++a) all[a] = static_cast<std::ptrdiff_t>(a);
  const auto one_row = [&](const Array& array) { return rows_of(array, {}, all); };
  const py::object values = reduction == Reduction::none ? fresh(x.dtype(), shape) : py::none();
  return with_computed(x.dtype(), [&](auto number) -> py::object {
    using T = decltype(number);
    ElementLoss<T> arrays{loss, x.size(), x.data<T>(), one_row(x), target.data<T>(), one_row(target)};
    arrays.weight = data_of<T>(weight);
    if (weight) arrays.weight_rows = one_row(*weight);
    arrays.positive = data_of<T>(positive);
    if (positive) arrays.positive_rows = one_row(*positive);
    const double divisor = reduction == Reduction::mean ? static_cast<double>(x.size()) : 1;
    arrays.delta = delta;
    arrays.factor = 1 / divisor;
    arrays.values = data_of<T>(values);
    arrays.dx = data_of<T>(dx);
    double total = 0;
    if (x.size() != 0) {
      const py::gil_scoped_release release;
      total = LossKernels<T>::element_loss(arrays);
    }
    if (reduction == Reduction::none) return py::make_tuple(values, dx);
    return py::make_tuple(total / divisor, dx);
  });
}

// clang-format off
const std::vector<Function> kLoops{
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

void bind_loops(py::module_& m) { bind_functions(m, kLoops); }

}  // namespace fastopt
