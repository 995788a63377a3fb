/// The arguments and results of normalizations of channels: arrays of x's shape, the layout of their channels in
/// memory, and arrays with one number for each channel.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/call.hpp"
#include "norm/channels/layout.hpp"
#include "norm/running.hpp"

namespace fastopt {

/// Whether the channels of an array are columns: the channel axis is the last one, or the innermost one in memory.
inline bool has_columns(const Array& array, std::ptrdiff_t axis) {
  std::ptrdiff_t inner = 1;
  for (std::ptrdiff_t a = axis + 1; a < array.ndim(); ++a) inner *= array.shape(a);
  const std::ptrdiff_t count = array.shape(axis);
  const bool adjacent = count > 1 && array.stride(axis) == static_cast<std::ptrdiff_t>(array.itemsize());
  return array.ndim() > 1 && (adjacent || axis + 1 == array.ndim() || (count == 1 && inner == 1));
}

/// The channels of an array of any layout, as columns or as planes.
inline Channels channels_of(const Array& array, std::ptrdiff_t axis, bool columns) {
  const AxisList before = axes_from(0, axis), after = axes_from(axis + 1, array.ndim());
  Channels channels{};
  channels.count = static_cast<std::size_t>(array.shape(axis));
  channels.columns = columns;
  if (columns) {
    Shape others;
    if (!after.empty()) {
      others.assign(before.begin(), before.end());
      others.insert(others.end(), after.begin(), after.end());
    }
    channels.rows = rows_of(array, after.empty() ? before : AxisList(others), axes_from(axis, axis + 1));
  } else {
    channels.rows = rows_of(array, before, after);
    if (channels.count > 1 && array.size() != 0) channels.stride = step_of(array, axis);
  }
  return channels;
}

/// Whether the elements of an array fill its memory without gaps and without overlap, whatever the order of the axes.
inline bool is_dense(const Array& array) {
  if (array.contiguous()) return true;
  std::vector<std::pair<std::ptrdiff_t, std::ptrdiff_t>> axes;  // the stride and the number of elements
  for (std::ptrdiff_t a = 0; a < array.ndim(); ++a)
    if (array.shape(a) > 1) axes.emplace_back(array.stride(a), array.shape(a));
  std::ranges::sort(axes);
  auto expected = static_cast<std::ptrdiff_t>(array.itemsize());
  for (const auto& [stride, count] : axes) {
    if (stride != expected) return false;
    expected *= count;
  }
  return true;
}

/// The arrays of a call that have x's shape, and its channels.
class Layout {
 public:
  /// Reads x, the argument `x_name`, which must have at least `axes` axes, and the channel axis, the argument
  /// `axis_name`.
  explicit Layout(Call& call, const char* x_name = "x", const char* axis_name = "channel_axis", std::ptrdiff_t axes = 2)
      : call_(call) {
    std::ptrdiff_t axis = call.integer(axis_name);
    const Array x = call.read(x_name);
    if (x.ndim() < axes)
      throw py::value_error(call.text(x_name) + " has shape " + text_of(x.shape()) + ", expected at least " +
                            std::to_string(axes) + (axes == 1 ? " axis" : " axes"));
    if (axis < -x.ndim() || axis >= x.ndim())
      throw py::value_error(call.text(axis_name) + " must name an axis of " + x_name + ", which has " +
                            std::to_string(x.ndim()) + ", got " + std::to_string(axis));
    if (axis < 0) axis += x.ndim();
    axis_ = static_cast<std::size_t>(axis);
    call.channels_along(axis, axis_name);
    dtype_ = x.dtype();
    shape_ = x.shape();
    data_ = x.data<void>();
    in_ = channels_of(x, axis, has_columns(x, axis));
  }

  // The values are those from the check of x: reading later arguments may run Python code, which may change x.
  Dtype dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  template <class S> const S* data() const { return static_cast<const S*>(data_); }
  const Channels& in() const { return in_; }
  std::size_t axis() const { return axis_; }
  Dtype computed() const { return computed_with(dtype_); }
  Shape channels() const { return {static_cast<std::ptrdiff_t>(in_.count)}; }

  /// Another array of x's dtype and shape that is only read, in columns or planes like x.
  struct Other {
    const void* data;
    Channels in;
  };
  Other read(const char* argument) const {
    const Array array = call_.read(argument, dtype_, shape_);
    return {array.data<void>(), channels_of(array, static_cast<std::ptrdiff_t>(axis_), in_.columns)};
  }

  /// A result in contiguous columns or planes, like x.
  struct Result {
    py::object object;
    Channels in;
  };
  Result result(std::size_t i) const {
    const Shape& shape = shape_;
    py::object object = call_.result(i, dtype_, shape, [&]() -> py::object {
      if (!in_.columns || axis_ + 1 == shape.size()) return fresh(dtype_, shape);
      Shape order;
      for (std::size_t a = 0; a < shape.size(); ++a)
        if (a != axis_) order.push_back(static_cast<std::ptrdiff_t>(a));
      order.push_back(static_cast<std::ptrdiff_t>(axis_));
      return fresh(dtype_, shape, strides_in(order, shape, dtype_));
    });
    const Name name = call_.result_name(i);
    const Array array(object, name, Accepted::floats);
    const bool dense = array.size() == 0 || is_dense(array);
    const auto axis = static_cast<std::ptrdiff_t>(axis_);
    const Channels channels = dense ? channels_of(array, axis, in_.columns) : Channels{};
    if (!dense || !channels.rows.contiguous())
      throw py::type_error(
          name.text() + " must have " +
          (in_.columns ? "its channels innermost in memory" : "the axes behind its channels innermost in memory") +
          ", without gaps or negative strides; None makes such an array");
    return {object, channels};
  }

 private:
  Call& call_;
  std::size_t axis_;
  Dtype dtype_;
  Shape shape_;
  const void* data_;
  Channels in_;
};

template <class S> ChannelArray<const S> channel_array(const Layout::Other& other) {
  return {static_cast<const S*>(other.data), &other.in};
}
template <class S> ChannelArray<S> channel_array(const Layout::Result& result) {
  return {data_of<S>(result.object), &result.in};
}
template <class S> ChannelBatch<S> batch_of(const Layout& layout, std::size_t samples = 1) {
  return {layout.in(), {layout.data<S>(), &layout.in()}, samples};
}

/// The arguments running_mean and running_var; both or neither are given.
class Running {
 public:
  Running(Call& call, const Layout& layout, bool written)
      : mean_(data_of<void>(call.optional("running_mean", layout.computed(), layout.channels(), written))),
        var_(data_of<void>(call.optional("running_var", layout.computed(), layout.channels(), written))),
        channels_(layout.in().count) {
    if ((mean_ == nullptr) != (var_ == nullptr))
      throw py::type_error(call.text(var_ == nullptr ? "running_var" : "running_mean") +
                           " is None, but the other running statistic is not");
  }
  void expect(const Call& call, const char* who) const {
    if (mean_ == nullptr)
      throw py::type_error(call.text("running_mean") + " is None, but " + who + " the running statistics");
  }
  template <class T> RunningStatistics<T> as() const {
    return {static_cast<T*>(mean_), static_cast<T*>(var_), channels_};
  }

 private:
  void *mean_, *var_;
  std::size_t channels_;
};

/// The arguments weight and bias, (channels) each, or None.
struct Learned {
  std::optional<Array> weight, bias;

  Learned(Call& call, const Layout& layout)
      : weight(call.optional("weight", layout.computed(), layout.channels())),
        bias(call.optional("bias", layout.computed(), layout.channels())) {}
};

/// The results dweight and dbias, numbers i and i + 1; None where they are not wanted.
struct LearnedGradients {
  py::object weight, bias;

  LearnedGradients(Call& call, const Layout& layout, std::size_t i, bool weighted)
      : weight(call.result_if(weighted, i, layout.computed(), layout.channels(), "there is no weight")),
        bias(call.result_if(call.flag("bias_grad"), i + 1, layout.computed(), layout.channels(),
                            "bias_grad is False")) {}
};

}  // namespace fastopt
