/// Dropout and its kin for Python.  Everything is checked before anything is written.
#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "bind/call.hpp"
#include "bind/module.hpp"
#include "regularize/dropout.hpp"

namespace fastopt {

namespace {

/// The axes in the order of memory, outermost first: by their strides; as they are numbered if elements share memory.
Shape memory_order(const Array& array) {
  Shape axes(static_cast<std::size_t>(array.ndim()));
  std::iota(axes.begin(), axes.end(), 0);
  if (std::none_of(axes.begin(), axes.end(), [&](auto a) { return array.shape(a) > 1 && array.stride(a) == 0; }))
    std::stable_sort(axes.begin(), axes.end(), [&](auto a, auto b) { return array.stride(a) > array.stride(b); });
  return axes;
}

/// The longest rows that memory allows; at least the innermost axis must be contiguous.
Rows rows_in_order(const Array& array, const Shape& axes, const Name& name) {
  auto split = axes.end();
  auto contiguous = static_cast<std::ptrdiff_t>(array.itemsize());
  for (; split != axes.begin() && (array.shape(split[-1]) == 1 || array.stride(split[-1]) == contiguous); --split)
    contiguous *= array.shape(split[-1]);
  if (split == axes.end() && split != axes.begin()) --split;
  return rows_of(array, {axes.begin(), split}, {split, axes.end()}, name, "its innermost axis");
}

/// One call of a function of one array, and what all of them are given.
struct Arguments {
  Arguments(const char* function, const char* argument, py::handle x_object, py::handle p_object, double most,
            const char* constraint, py::handle training_object, py::handle seed_object, py::handle step_object)
      : call(function),
        object(x_object),
        x_name(argument),
        x(call.read(x_object, argument)),
        axes(memory_order(x)),
        p(call.number(p_object, "p", 0, most, constraint)),
        active(call.flag(training_object, "training") && p != 0),
        draw{unsigned_of("seed", seed_object, 64), static_cast<std::uint32_t>(unsigned_of("step", step_object, 32))} {}

  /// The result: without gaps in the memory order of x, and x itself if that is given.
  py::object result(py::handle out) {
    Shape shape = x.shape(), strides(shape.size());
    auto stride = static_cast<std::ptrdiff_t>(x.itemsize());
    for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
      strides[static_cast<std::size_t>(*axis)] = stride;
      stride *= std::max<std::ptrdiff_t>(x.shape(*axis), 1);
    }
    call.results(out, 1);
    py::object y = call.result(0, x.dtype(), shape, [&] { return fresh(x.dtype(), shape, strides); });
    const Array array(y, call.result_name(0), Accepted::floats);
    for (std::ptrdiff_t axis = 0; axis < x.ndim() && x.size() != 0; ++axis)
      if (x.shape(axis) > 1 && array.stride(axis) != strides[static_cast<std::size_t>(axis)])
        throw py::type_error(call.result_name(0).text() + " must lie in memory as " + x_name + " does, without gaps");
    if (!y.is(object)) call.expect_disjoint();
    return y;
  }

  std::uint64_t unsigned_of(const char* argument, py::handle object, int bits) const {
    const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
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

  Call call;
  py::handle object;
  const char* x_name;
  Array x;
  Shape axes;
  double p;
  bool active;  ///< whether anything happens
  Draw draw;
};

/// y = x, or what kernel(x, rows, y) makes of it.
template <class Kernel> py::object run(Arguments& arguments, py::handle out, const Rows& rows, const Kernel& kernel) {
  py::object y = arguments.result(out);
  with_storage(arguments.x.dtype(), [&](auto number) {
    using S = decltype(number);
    const S* x = arguments.x.data<S>();
    S* to = data_of<S>(y);
    const py::gil_scoped_release release;
    if (arguments.active)
      kernel(x, rows, to);
    else
      copy_rows(x, rows, to);
  });
  return y;
}

template <class Kernel> py::object run(Arguments& arguments, py::handle out, const Kernel& kernel) {
  const Name name = arguments.call.name(arguments.x_name);
  return run(arguments, out, rows_in_order(arguments.x, arguments.axes, name), kernel);
}

py::object py_dropout(const char* function, const char* argument, py::handle x, py::handle p, py::handle training,
                      py::handle seed, py::handle step, py::handle out) {
  Arguments arguments(function, argument, x, p, 1, "in [0, 1]", training, seed, step);
  return run(arguments, out, [&](const auto* from, const Rows& rows, auto* to) {
    dropout(from, rows, Drops(arguments.p), arguments.draw, to);
  });
}

py::object py_gaussian_dropout(const char* function, const char* argument, py::handle x, py::handle p,
                               py::handle training, py::handle seed, py::handle step, py::handle out) {
  Arguments arguments(function, argument, x, p, std::nextafter(1.0, 0.0), "in [0, 1)", training, seed, step);
  return run(arguments, out, [&](const auto* from, const Rows& rows, auto* to) {
    gaussian_dropout(from, rows, arguments.p, arguments.draw, to);
  });
}

/// Which sample and channel the elements of x belong to, and rows along which there is one channel of one sample, or
/// one channel or one sample after the other.
std::pair<Rows, Sets> sets_of(const Arguments& arguments, py::handle channel_axis) {
  const Array& x = arguments.x;
  const Call& call = arguments.call;
  const std::string x_name = arguments.x_name;
  std::ptrdiff_t channel = call.integer(channel_axis, "channel_axis");
  if (x.ndim() < 2)
    throw py::value_error(call.text(x_name) + " has shape " + text_of(x.shape()) + ", expected at least 2 axes");
  if (channel < -x.ndim() || channel >= x.ndim() || channel % x.ndim() == 0)
    throw py::value_error(call.text("channel_axis") + " must name one of the axes of " + x_name +
                          " but the first, got " + std::to_string(channel));
  if (channel < 0) channel += x.ndim();
  rows_in_order(x, arguments.axes, call.name(x_name));  // for its checks

  Sets sets{static_cast<std::size_t>(x.shape(0)), static_cast<std::size_t>(x.shape(channel)), false, {}, 0};
  struct Axis {
    std::size_t count, stride, set;  // strides in elements and in the table
  };
  std::vector<Axis> merged;  // innermost first
  for (auto at = arguments.axes.rbegin(); at != arguments.axes.rend() && x.size() != 0; ++at) {
    const auto count = static_cast<std::size_t>(x.shape(*at)),
               stride = static_cast<std::size_t>(x.stride(*at)) / x.itemsize();
    if (count == 1) continue;
    if (merged.empty()) {
      sets.channels_first = *at == 0;
      if (stride != 1) merged.push_back({1, 1, 0});
    }
    std::size_t set = 0;
    if (*at == 0) set = sets.channels_first ? 1 : sets.channels;
    if (*at == channel) set = sets.channels_first ? sets.samples : 1;
    const auto continues = [&](const Axis& inner) {
      return stride == inner.count * inner.stride && set == inner.count * inner.set;
    };
    if (!merged.empty() && continues(merged.back()))
      merged.back().count *= count;
    else
      merged.push_back({count, stride, set});
  }
  if (merged.empty()) merged.push_back({x.size(), 1, 0});
  Rows rows;
  rows.width = merged.front().count;
  sets.step = merged.front().set;
  for (std::size_t i = merged.size(); i-- > 1;) {
    rows.axes.push_back({merged[i].count, static_cast<std::ptrdiff_t>(merged[i].stride)});
    sets.rows.axes.push_back({merged[i].count, static_cast<std::ptrdiff_t>(merged[i].set)});
  }
  return {rows, sets};
}

py::object py_channel_dropout(const char* function, const char* argument, py::handle x, py::handle p,
                              py::handle training, py::handle seed, py::handle step, py::handle channel_axis,
                              py::handle out) {
  Arguments arguments(function, argument, x, p, 1, "in [0, 1]", training, seed, step);
  const auto both = sets_of(arguments, channel_axis);
  return run(arguments, out, both.first, [&](const auto* from, const Rows& rows, auto* to) {
    channel_dropout(from, rows, both.second, Drops(arguments.p), arguments.draw, to);
  });
}

}  // namespace

void bind_regularize(py::module_& m) {
  using py::arg;
  using py::handle;
  const auto bind = [&](auto function, const char* name, const char* x) {
    m.def(
        name,
        [=](handle array, handle p, handle training, handle seed, handle step, handle out) {
          return function(name, x, array, p, training, seed, step, out);
        },
        arg(x), arg("p"), arg("training"), arg("seed"), arg("step"), arg("out"));
  };
  const auto bind_channels = [&](const char* name, const char* x) {
    m.def(
        name,
        [=](handle array, handle p, handle training, handle seed, handle step, handle channel_axis, handle out) {
          return py_channel_dropout(name, x, array, p, training, seed, step, channel_axis, out);
        },
        arg(x), arg("p"), arg("training"), arg("seed"), arg("step"), arg("channel_axis"), arg("out"));
  };
  bind(&py_dropout, "dropout", "x");
  bind(&py_dropout, "dropout_backward", "dy");
  bind(&py_gaussian_dropout, "gaussian_dropout", "x");
  bind(&py_gaussian_dropout, "gaussian_dropout_backward", "dy");
  bind_channels("channel_dropout", "x");
  bind_channels("channel_dropout_backward", "dy");
}

}  // namespace fastopt
