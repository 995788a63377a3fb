/// Dropout and its variants for Python.  Everything is checked before anything is written.
#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "bind/call.hpp"
#include "bind/gil.hpp"
#include "bind/module.hpp"
#include "regularize/dropout.hpp"

namespace fastopt {

namespace {

/// The axes in the order of memory, outermost first: sorted by the size of their strides.  If elements share memory,
/// the axes stay in their own order.
Shape memory_order(const Array& array) {
  Shape axes(static_cast<std::size_t>(array.ndim()));
  std::iota(axes.begin(), axes.end(), 0);
  const auto apart = [&](auto a) { return std::abs(array.stride(a)); };
  if (std::none_of(axes.begin(), axes.end(), [&](auto a) { return array.shape(a) > 1 && array.stride(a) == 0; }))
    std::stable_sort(axes.begin(), axes.end(), [&](auto a, auto b) { return apart(a) > apart(b); });
  return axes;
}

/// The arguments that all of these functions have.
struct DropoutArguments {
  /// The array, the first argument, is read last, because reading the others may run Python code, which may change its
  /// layout.
  DropoutArguments(Call& its_call, double most, const char* constraint)
      : call(its_call),
        x_name(call.has("x") ? "x" : "dy"),
        p(call.number("p", 0, most, constraint)),
        active(call.flag("training") && p != 0),
        draw{unsigned_of("seed", 64), static_cast<std::uint32_t>(unsigned_of("step", 32))},
        channel(call.has("channel_axis") ? call.integer("channel_axis") : 0),
        axes(order()),
        x(call.read(x_name)),
        dtype(x.dtype()),
        shape(x.shape()) {
    if (!call.has("order") || call["order"].is_none())
      axes = memory_order(x);
    else if (Shape sorted = axes; std::ranges::sort(sorted), !std::ranges::equal(sorted, axes_from(0, x.ndim())))
      throw py::value_error(call.text("order") + " must name each of the " + std::to_string(shape.size()) +
                            " axes of " + x_name + " once, got " + text_of(axes));
    row = rows_of(x, {}, axes);
  }

  /// The result: an array without gaps in the order of the axes, or x itself if `out` is x.
  py::object result() {
    const Shape strides = strides_in(axes, shape, dtype);
    call.results(1);
    py::object y = call.result(0, dtype, shape, [&] { return fresh(dtype, shape, strides); });
    const Array array(y, call.result_name(0), Accepted::floats);
    for (std::size_t a = 0; a < shape.size() && row.width != 0; ++a)
      if (shape[a] > 1 && array.stride(static_cast<std::ptrdiff_t>(a)) != strides[a])
        throw py::type_error(call.result_name(0).text() + " must have its axes in the order that those of " + x_name +
                             " have in memory, without gaps or negative strides; None makes such an array");
    call.expect_disjoint(true);
    return y;
  }

  /// The axes in the order of the argument `order`; empty if there is none.
  Shape order() const {
    Shape order;
    if (!call.has("order") || call["order"].is_none()) return order;
    const py::handle order_object = call["order"];
    if (!py::isinstance<py::sequence>(order_object) || py::isinstance<py::str>(order_object))
      throw py::type_error(call.text("order") + " must be a sequence of axes or None, got " +
                           std::string(py::repr(order_object)));
    for (const py::handle axis : order_object) order.push_back(call.integer(axis, "order"));
    return order;
  }

  std::uint64_t unsigned_of(const char* argument, int bits) const {
    const py::handle object = call[argument];
    const auto number = py::reinterpret_steal<py::object>(is_bool(object) ? nullptr : PyNumber_Index(object.ptr()));
    if (!number) {
      PyErr_Clear();
      throw py::type_error(call.text(argument) + " must be an integer, got " + std::string(py::repr(object)));
    }
    const std::uint64_t value = PyLong_AsUnsignedLongLong(number.ptr());
    const bool failed = PyErr_Occurred() != nullptr;
    PyErr_Clear();
    if (failed || (bits < 64 && value >> bits != 0))
      throw py::value_error(call.text(argument) + " must be in [0, 2**" + std::to_string(bits) + "), got " +
                            std::string(py::str(number)));
    return value;
  }

  Call& call;
  const char* x_name;
  double p;
  bool active;  ///< whether the call does more than copy
  Draw draw;
  std::ptrdiff_t channel;
  Shape axes;  ///< the order in which elements are counted, outermost axis first
  Array x;
  Dtype dtype;
  Shape shape;
  Rows row;  ///< one row of all elements in this order
};

/// y = x, or the result of kernel(kernels of x's type, x, y).
template <class Kernel> py::object run(DropoutArguments& arguments, const Kernel& kernel) {
  py::object y = arguments.result();
  with_storage(arguments.dtype, [&](auto number) {
    using S = decltype(number);
    const S* x = arguments.x.data<S>();
    S* to = data_of<S>(y);
    const WithoutGil release;
    if (arguments.active)
      kernel(DropoutKernels<S>{}, x, to);
    else
      arguments.call.run<&DropoutKernels<S>::copy>(x, arguments.row, to);
  });
  return y;
}

py::object any_dropout(Call& call) {
  DropoutArguments arguments(call, 1, "in [0, 1]");
  return run(arguments, [&](auto of, const auto* from, auto* to) {
    call.run<&decltype(of)::dropout>(from, arguments.row, Drops(arguments.p), arguments.draw, to);
  });
}

py::object any_gaussian_dropout(Call& call) {
  DropoutArguments arguments(call, std::nextafter(1.0, 0.0), "in [0, 1)");
  return run(arguments, [&](auto of, const auto* from, auto* to) {
    call.run<&decltype(of)::gaussian_dropout>(from, arguments.row, arguments.p, arguments.draw, to);
  });
}

/// The sample and channel of each element of x, and rows for the kernel.  Along a row the place in the table stays the
/// same or grows by 1 (sets.step).
std::pair<Rows, Sets> sets_of(const DropoutArguments& arguments) {
  const Array& x = arguments.x;
  const Call& call = arguments.call;
  const std::string x_name = arguments.x_name;
  std::ptrdiff_t channel = arguments.channel;
  if (x.ndim() < 2)
    throw py::value_error(call.text(x_name) + " has shape " + text_of(x.shape()) + ", expected at least 2 axes");
  if (channel < -x.ndim() || channel >= x.ndim() || channel % x.ndim() == 0)
    throw py::value_error(call.text("channel_axis") + " must name one of the axes of " + x_name +
                          " but the first, got " + std::to_string(channel));
  if (channel < 0) channel += x.ndim();

  Sets sets{static_cast<std::size_t>(x.shape(0)), static_cast<std::size_t>(x.shape(channel)), false, {}, 0};
  struct Axis {
    std::size_t count;
    std::ptrdiff_t stride;  // in elements
    std::size_t set;        // the stride in the table
  };
  std::vector<Axis> merged;  // innermost first
  for (auto at = arguments.axes.rbegin(); at != arguments.axes.rend() && x.size() != 0; ++at) {
    const auto count = static_cast<std::size_t>(x.shape(*at));
    if (count == 1) continue;
    const std::ptrdiff_t stride = step_of(x, *at);
    if (merged.empty()) sets.channels_first = *at == 0;
    std::size_t set = 0;
    if (*at == 0) set = sets.channels_first ? 1 : sets.channels;
    if (*at == channel) set = sets.channels_first ? sets.samples : 1;
    const auto continues = [&](const Axis& inner) {
      return stride == static_cast<std::ptrdiff_t>(inner.count) * inner.stride && set == inner.count * inner.set;
    };
    if (!merged.empty() && continues(merged.back()))
      merged.back().count *= count;
    else
      merged.push_back({count, stride, set});
  }
  if (merged.empty()) merged.push_back({x.size(), 1, 0});
  Rows rows;
  rows.width = merged.front().count;
  rows.step = merged.front().stride;
  sets.step = merged.front().set;
  for (std::size_t i = merged.size(); i-- > 1;) {
    rows.axes.push_back({merged[i].count, merged[i].stride});
    sets.rows.axes.push_back({merged[i].count, static_cast<std::ptrdiff_t>(merged[i].set)});
  }
  return {rows, sets};
}

py::object any_channel_dropout(Call& call) {
  DropoutArguments arguments(call, 1, "in [0, 1]");
  const auto both = sets_of(arguments);
  return run(arguments, [&](auto of, const auto* from, auto* to) {
    call.run<&decltype(of)::channel_dropout>(from, both.first, both.second, Drops(arguments.p), arguments.draw, to);
  });
}

const std::vector<Function> kRegularizers{
    {"dropout", {"x", "p", "training", "seed", "step", "order", "out"}, any_dropout},
    {"dropout_backward", {"dy", "p", "training", "seed", "step", "order", "out"}, any_dropout},
    {"gaussian_dropout", {"x", "p", "training", "seed", "step", "order", "out"}, any_gaussian_dropout},
    {"gaussian_dropout_backward", {"dy", "p", "training", "seed", "step", "order", "out"}, any_gaussian_dropout},
    {"channel_dropout", {"x", "p", "training", "seed", "step", "channel_axis", "out"}, any_channel_dropout},
    {"channel_dropout_backward", {"dy", "p", "training", "seed", "step", "channel_axis", "out"}, any_channel_dropout},
};

}  // namespace

void bind_regularize(py::module_& m, const Kernels& kernels) { bind_functions(m, kernels, kRegularizers); }

}  // namespace fastopt
