/// Normalizations of channels for Python.  Everything is checked before anything is written.
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/call.hpp"
#include "bind/module.hpp"
#include "norm/batch_norm.hpp"
#include "norm/group_norm.hpp"
#include "norm/weight_norm.hpp"

namespace fastopt {

namespace {

/// Whether the channels of an array lie as columns: where the channel axis is the last, or the innermost in memory.
bool has_columns(const Array& array, std::ptrdiff_t axis) {
  std::ptrdiff_t inner = 1;
  for (std::ptrdiff_t a = axis + 1; a < array.ndim(); ++a) inner *= array.shape(a);
  const std::ptrdiff_t count = array.shape(axis);
  const bool adjacent = count > 1 && array.stride(axis) == static_cast<std::ptrdiff_t>(array.itemsize());
  return array.ndim() > 1 && (adjacent || axis + 1 == array.ndim() || (count == 1 && inner == 1));
}

/// The channels of an array as columns or as planes, whose numbers may lie anywhere.
Channels channels_of(const Array& array, std::ptrdiff_t axis, bool columns) {
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

/// Whether the elements of an array fill its memory without gaps, whatever the order of the axes; no two share any.
bool is_dense(const Array& array) {
  if (array.contiguous()) return true;
  std::vector<std::pair<std::ptrdiff_t, std::ptrdiff_t>> axes;  // stride and number of elements
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
  /// x, called `x_name`, has at least so many axes; the axis is the argument `axis_name`.
  Layout(Call& call, py::handle x_object, const char* x_name, py::handle axis_object,
         const char* axis_name = "channel_axis", std::ptrdiff_t axes = 2)
      : call_(call) {
    std::ptrdiff_t axis = call.integer(axis_object, axis_name);
    const Array x = call.read(x_object, x_name);
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
    call.channels_along(axis, axis_name);
    in_ = channels_of(x, axis, has_columns(x, axis));
  }

  // As x was when it was checked: what is asked for later may run Python, which may change it.
  Dtype dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  template <class S> const S* data() const { return static_cast<const S*>(data_); }
  const Channels& in() const { return in_; }
  std::size_t axis() const { return axis_; }
  Dtype computed() const { return computed_with(dtype_); }
  Shape channels() const { return {static_cast<std::ptrdiff_t>(in_.count)}; }

  /// Another array of x's dtype and shape that is only read, in columns or planes as x.
  struct Other {
    const void* data;
    Channels in;
  };
  Other read(py::handle object, const char* argument) const {
    const Array array = call_.read(object, argument, dtype_, shape_);
    return {array.data<void>(), channels_of(array, static_cast<std::ptrdiff_t>(axis_), in_.columns)};
  }

  /// A result in columns or planes as x, contiguous ones.
  struct Result {
    py::object object;
    Channels in;
  };
  Result result(std::size_t i) const {
    const Shape& shape = shape_;
    py::object object = call_.result(i, dtype_, shape, [&]() -> py::object {
      if (!in_.columns || axis_ + 1 == shape.size()) return fresh(dtype_, shape);
      Shape strides(shape.size());
      strides[axis_] = static_cast<std::ptrdiff_t>(itemsize_of(dtype_));
      std::ptrdiff_t stride = strides[axis_] * shape[axis_];
      for (std::size_t a = shape.size(); a-- > 0;)
        if (a != axis_) {
          strides[a] = stride;
          stride *= std::max<std::ptrdiff_t>(shape[a], 1);
        }
      return fresh(dtype_, shape, strides);
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

template <class S> detail::Laid<const S> laid(const Layout::Other& other) {
  return {static_cast<const S*>(other.data), &other.in};
}
template <class S> detail::Laid<S> laid(const Layout::Result& result) {
  return {data_of<S>(result.object), &result.in};
}
template <class S> detail::Batch<S> batch_of(const Layout& layout, std::size_t samples = 1) {
  return {layout.in(), {layout.data<S>(), &layout.in()}, samples};
}

/// Running statistics: both or none.
class Running {
 public:
  Running(Call& call, const Layout& layout, py::handle mean_object, py::handle var_object, bool written)
      : mean_(data_of<void>(call.optional(mean_object, "running_mean", layout.computed(), layout.channels(), written))),
        var_(data_of<void>(call.optional(var_object, "running_var", layout.computed(), layout.channels(), written))) {
    if (mean_object.is_none() != var_object.is_none())
      throw py::type_error(call.text(var_object.is_none() ? "running_var" : "running_mean") +
                           " is None, but the other running statistic is not");
  }
  bool given() const { return mean_ != nullptr; }
  void expect(const Call& call, const char* who) const {
    if (!given()) throw py::type_error(call.text("running_mean") + " is None, but " + who + " the running statistics");
  }

  /// running ← (1 − momentum)·running + momentum·statistic, of the variance the unbiased one.
  template <class T> void update(const double* of_mean, const double* of_var, std::size_t channels, double momentum) {
    update_running(static_cast<T*>(mean_), of_mean, channels, momentum);
    update_running(static_cast<T*>(var_), of_var, channels, momentum);
  }
  template <class T> void update(const double* of_mean, std::vector<double> m2, double n, double momentum) {
    const FlushSubnormals environment;
    for (double& one : m2) one /= n - 1;
    update<T>(of_mean, m2.data(), m2.size(), momentum);
  }
  /// mean and rstd of evaluation.
  template <class T> void report(double eps, double* of_mean, double* of_rstd, std::size_t channels) const {
    const FlushSubnormals environment;
    for (std::size_t c = 0; c < channels; ++c) {
      of_mean[c] = mean<T>(c);
      of_rstd[c] = rstd<T>(c, eps);
    }
  }
  template <class T> double mean(std::size_t c) const { return static_cast<double>(static_cast<const T*>(mean_)[c]); }
  template <class T> double rstd(std::size_t c, double eps) const {
    return rstd_of(static_cast<double>(static_cast<const T*>(var_)[c]), 1, eps);
  }

 private:
  void *mean_, *var_;
};

void expect_values(const Call& call, const Layout& layout, std::size_t values, const char* set) {
  if (values == 1 && layout.in().count != 0)
    throw py::value_error(call.text("x") + " has shape " + text_of(layout.shape()) +
                          ", expected more than 1 value per " + set + " when training");
}

double momentum_of(const Call& call, py::handle object) { return call.number(object, "momentum", 0, 1, "in [0, 1]"); }

// ---- BatchNorm ------------------------------------------------------------------------------------------------------

/// Clipping of batch renormalization.
struct Renorm {
  double r_max, d_max;
};

py::tuple forward(const char* function, After after, bool renorm, py::handle x_object, py::handle residual_object,
                  py::handle running_mean_object, py::handle running_var_object, py::handle weight_object,
                  py::handle bias_object, py::handle training_object, py::handle momentum_object, py::handle eps_object,
                  py::handle r_max_object, py::handle d_max_object, py::handle channel_axis, py::handle out) {
  Call call(function);
  const bool training = call.flag(training_object, "training");
  const Layout layout(call, x_object, "x", channel_axis);
  std::optional<Layout::Other> residual;
  if (after == After::add_relu) residual = layout.read(residual_object, "residual");
  const std::size_t channels = layout.in().count;
  Running running(call, layout, running_mean_object, running_var_object, training);
  if (renorm) running.expect(call, "batch renormalization needs");
  if (!training) running.expect(call, "evaluation needs");
  const auto weight = call.optional(weight_object, "weight", layout.computed(), layout.channels()),
             bias = call.optional(bias_object, "bias", layout.computed(), layout.channels());
  const double momentum = momentum_of(call, momentum_object), eps = call.eps(eps_object);
  constexpr double kMost = std::numeric_limits<double>::max();
  const Renorm limits = renorm ? Renorm{call.number(r_max_object, "r_max", 1, kMost, "finite and >= 1"),
                                        call.number(d_max_object, "d_max", 0, kMost, "finite and >= 0")}
                               : Renorm{1, 0};
  if (training) expect_values(call, layout, layout.in().values(), "channel");
  call.results(out, renorm ? 5 : 3);
  const Layout::Result y = layout.result(0);
  std::vector<py::object> results{y.object};
  while (results.size() < (renorm ? 5 : 3))
    results.push_back(call.contiguous_result(results.size(), Dtype::float64, layout.channels()));
  call.expect_disjoint();

  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout);
    batch.to = laid<S>(y);
    if (residual) batch.more = laid<S>(*residual);
    double *mean = data_of<double>(results[1]), *rstd = data_of<double>(results[2]);
    double *r = renorm ? data_of<double>(results[3]) : nullptr, *d = renorm ? data_of<double>(results[4]) : nullptr;
    BatchNorm<T> norm{mean, rstd, data_of<T>(weight), data_of<T>(bias)};
    const py::gil_scoped_release release;
    if (!training) {
      running.report<T>(eps, mean, rstd, channels);
      if (renorm) {
        std::fill_n(r, channels, 1.0);
        std::fill_n(d, channels, 0.0);
      }
      return batch_norm_apply(batch, norm, after);
    }
    norm.r = r;
    norm.d = d;
    const auto n = static_cast<double>(layout.in().values());
    const ChannelMoments moments =
        batch_norm_training(batch, norm, after, [&](const ChannelMoments& found, Range range) {
          for (std::size_t c = range.begin; c < range.end; ++c) {
            mean[c] = found.mean[c];
            rstd[c] = rstd_of(found.m2[c], n, eps);
            if (!renorm) continue;
            const double of_running = running.rstd<T>(c, eps);
            r[c] = clamp(of_running / rstd[c], 1 / limits.r_max, limits.r_max);
            d[c] = clamp((mean[c] - running.mean<T>(c)) * of_running, -limits.d_max, limits.d_max);
          }
        });
    if (running.given() && layout.in().values() != 0) running.update<T>(mean, moments.m2, n, momentum);
  });
  return py::tuple(py::cast(results));
}

py::tuple backward(const char* function, After after, bool renorm, py::handle dy_object, py::handle y_object,
                   py::handle x_object, py::handle mean_object, py::handle rstd_object, py::handle r_object,
                   py::handle d_object, py::handle weight_object, py::handle bias_object, py::handle training_object,
                   py::handle channel_axis, py::handle out) {
  Call call(function);
  const bool training = call.flag(training_object, "training");
  const Layout layout(call, x_object, "x", channel_axis);
  const Layout::Other dy = layout.read(dy_object, "dy");
  std::optional<Layout::Other> y;
  if (after == After::add_relu) y = layout.read(y_object, "y");
  const auto statistic = [&](py::handle object, const char* argument) {
    return call.required(object, argument, Dtype::float64, layout.channels());
  };
  const Array mean = statistic(mean_object, "mean"), rstd = statistic(rstd_object, "rstd");
  std::optional<Array> r, d;
  if (renorm) {
    r = statistic(r_object, "r");
    d = statistic(d_object, "d");
  }
  const auto weight = call.optional(weight_object, "weight", layout.computed(), layout.channels()),
             bias = call.optional(bias_object, "bias", layout.computed(), layout.channels());
  const std::size_t gradients = after == After::add_relu ? 2 : 1;  // of what has x's shape
  call.results(out, gradients + 2);
  std::vector<Layout::Result> large{layout.result(0)};
  if (gradients == 2) large.push_back(layout.result(1));
  std::vector<py::object> results;
  for (const Layout::Result& one : large) results.push_back(one.object);
  while (results.size() < gradients + 2)
    results.push_back(
        call.result_if(weight.has_value(), results.size(), layout.computed(), layout.channels(), "there is no weight"));
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout);
    batch.dy = laid<S>(dy);
    if (y) batch.more = laid<S>(*y);
    batch.to = laid<S>(large[0]);
    if (gradients == 2) batch.also_to = laid<S>(large[1]);
    const BatchNorm<T> norm{mean.data<double>(), rstd.data<double>(), data_of<T>(weight),
                            data_of<T>(bias),    data_of<double>(r),  data_of<double>(d)};
    T *dweight = data_of<T>(results[gradients]), *dbias = data_of<T>(results[gradients + 1]);
    const py::gil_scoped_release release;
    batch_norm_backward(batch, norm, after, training, dweight, dbias);
  });
  return py::tuple(py::cast(results));
}

const py::handle kNone = Py_None;

py::tuple py_batch_norm(py::handle x, py::handle running_mean, py::handle running_var, py::handle weight,
                        py::handle bias, py::handle training, py::handle momentum, py::handle eps,
                        py::handle channel_axis, py::handle out) {
  return forward("batch_norm", After::nothing, false, x, kNone, running_mean, running_var, weight, bias, training,
                 momentum, eps, kNone, kNone, channel_axis, out);
}
py::tuple py_batch_norm_relu(py::handle x, py::handle running_mean, py::handle running_var, py::handle weight,
                             py::handle bias, py::handle training, py::handle momentum, py::handle eps,
                             py::handle channel_axis, py::handle out) {
  return forward("batch_norm_relu", After::relu, false, x, kNone, running_mean, running_var, weight, bias, training,
                 momentum, eps, kNone, kNone, channel_axis, out);
}
py::tuple py_batch_norm_add_relu(py::handle x, py::handle residual, py::handle running_mean, py::handle running_var,
                                 py::handle weight, py::handle bias, py::handle training, py::handle momentum,
                                 py::handle eps, py::handle channel_axis, py::handle out) {
  return forward("batch_norm_add_relu", After::add_relu, false, x, residual, running_mean, running_var, weight, bias,
                 training, momentum, eps, kNone, kNone, channel_axis, out);
}
py::tuple py_batch_renorm(py::handle x, py::handle running_mean, py::handle running_var, py::handle weight,
                          py::handle bias, py::handle training, py::handle momentum, py::handle eps, py::handle r_max,
                          py::handle d_max, py::handle channel_axis, py::handle out) {
  return forward("batch_renorm", After::nothing, true, x, kNone, running_mean, running_var, weight, bias, training,
                 momentum, eps, r_max, d_max, channel_axis, out);
}

py::tuple py_batch_norm_backward(py::handle dy, py::handle x, py::handle mean, py::handle rstd, py::handle weight,
                                 py::handle training, py::handle channel_axis, py::handle out) {
  return backward("batch_norm_backward", After::nothing, false, dy, kNone, x, mean, rstd, kNone, kNone, weight, kNone,
                  training, channel_axis, out);
}
py::tuple py_batch_norm_relu_backward(py::handle dy, py::handle x, py::handle mean, py::handle rstd, py::handle weight,
                                      py::handle bias, py::handle training, py::handle channel_axis, py::handle out) {
  return backward("batch_norm_relu_backward", After::relu, false, dy, kNone, x, mean, rstd, kNone, kNone, weight, bias,
                  training, channel_axis, out);
}
py::tuple py_batch_norm_add_relu_backward(py::handle dy, py::handle y, py::handle x, py::handle mean, py::handle rstd,
                                          py::handle weight, py::handle training, py::handle channel_axis,
                                          py::handle out) {
  return backward("batch_norm_add_relu_backward", After::add_relu, false, dy, y, x, mean, rstd, kNone, kNone, weight,
                  kNone, training, channel_axis, out);
}
py::tuple py_batch_renorm_backward(py::handle dy, py::handle x, py::handle mean, py::handle rstd, py::handle r,
                                   py::handle d, py::handle weight, py::handle training, py::handle channel_axis,
                                   py::handle out) {
  return backward("batch_renorm_backward", After::nothing, true, dy, kNone, x, mean, rstd, r, d, weight, kNone,
                  training, channel_axis, out);
}

// ---- BatchNorm in halves --------------------------------------------------------------------------------------------

/// The number of values a channel of a batch that may be spread over processes.
double count_of(const Call& call, const Layout& layout, py::handle object) {
  const std::ptrdiff_t count = call.integer(object, "count");
  const auto values = static_cast<std::ptrdiff_t>(layout.in().values());
  if (count < 0 || (count < values && layout.in().count != 0))
    throw py::value_error(call.text("count") + " must be at least the " + std::to_string(values) +
                          " values in a channel of x, got " + std::to_string(count));
  return static_cast<double>(count);
}

py::tuple py_batch_norm_stats(py::handle x_object, py::handle around_object, py::handle channel_axis) {
  Call call("batch_norm_stats");
  const Layout layout(call, x_object, "x", channel_axis);
  const auto around = call.optional(around_object, "around", Dtype::float64, layout.channels());
  const py::object mean = fresh(Dtype::float64, layout.channels()), m2 = fresh(Dtype::float64, layout.channels());
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    const auto batch = batch_of<S>(layout);
    double *mean_to = data_of<double>(mean), *m2_to = data_of<double>(m2);
    const double* middle = data_of<double>(around);
    const py::gil_scoped_release release;
    if (around) {
      std::copy_n(middle, layout.in().count, mean_to);
      std::ranges::copy(channel_squares(batch, middle), m2_to);
    } else {
      const ChannelMoments moments = channel_moments(batch);
      std::ranges::copy(moments.mean, mean_to);
      std::ranges::copy(moments.m2, m2_to);
    }
  });
  return py::make_tuple(layout.in().values(), mean, m2);
}

py::tuple py_batch_norm_apply(py::handle x_object, py::handle count_object, py::handle mean_object,
                              py::handle m2_object, py::handle running_mean_object, py::handle running_var_object,
                              py::handle weight_object, py::handle bias_object, py::handle momentum_object,
                              py::handle eps_object, py::handle channel_axis, py::handle out) {
  Call call("batch_norm_apply");
  const Layout layout(call, x_object, "x", channel_axis);
  const double count = count_of(call, layout, count_object);
  if (count == 1)
    throw py::value_error(call.text("count") + " is 1, expected more than 1 value per channel when training");
  const Array of_mean = call.required(mean_object, "mean", Dtype::float64, layout.channels()),
              of_m2 = call.required(m2_object, "m2", Dtype::float64, layout.channels());
  Running running(call, layout, running_mean_object, running_var_object, true);
  const auto weight = call.optional(weight_object, "weight", layout.computed(), layout.channels()),
             bias = call.optional(bias_object, "bias", layout.computed(), layout.channels());
  const double momentum = momentum_of(call, momentum_object), eps = call.eps(eps_object);
  call.results(out, 3);
  const Layout::Result y = layout.result(0);
  const py::object mean = call.contiguous_result(1, Dtype::float64, layout.channels()),
                   rstd = call.contiguous_result(2, Dtype::float64, layout.channels());
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout);
    batch.to = laid<S>(y);
    double *mean_to = data_of<double>(mean), *rstd_to = data_of<double>(rstd);
    const double *found = of_mean.data<double>(), *m2 = of_m2.data<double>();
    const BatchNorm<T> norm{mean_to, rstd_to, data_of<T>(weight), data_of<T>(bias)};
    const py::gil_scoped_release release;
    const FlushSubnormals environment;
    std::copy_n(found, layout.in().count, mean_to);
    for (std::size_t c = 0; c < layout.in().count; ++c) rstd_to[c] = rstd_of(m2[c], count, eps);
    batch_norm_apply(batch, norm, After::nothing);
    if (running.given() && count != 0)
      running.update<T>(mean_to, std::vector<double>(m2, m2 + layout.in().count), count, momentum);
  });
  return py::make_tuple(y.object, mean, rstd);
}

py::tuple py_batch_norm_backward_stats(py::handle dy_object, py::handle x_object, py::handle mean_object,
                                       py::handle rstd_object, py::handle channel_axis) {
  Call call("batch_norm_backward_stats");
  const Layout layout(call, x_object, "x", channel_axis);
  const Layout::Other dy = layout.read(dy_object, "dy");
  const Array mean = call.required(mean_object, "mean", Dtype::float64, layout.channels()),
              rstd = call.required(rstd_object, "rstd", Dtype::float64, layout.channels());
  const py::object sum_dy = fresh(Dtype::float64, layout.channels()),
                   sum_dy_xhat = fresh(Dtype::float64, layout.channels());
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    auto batch = batch_of<S>(layout);
    batch.dy = laid<S>(dy);
    double *dy_to = data_of<double>(sum_dy), *dyx_to = data_of<double>(sum_dy_xhat);
    const BatchNorm<Computed<S>> norm{mean.data<double>(), rstd.data<double>()};
    const py::gil_scoped_release release;
    const ChannelSums sums = batch_norm_gradient_sums(batch, norm);
    std::ranges::copy(sums.first, dy_to);
    std::ranges::copy(sums.second, dyx_to);
  });
  return py::make_tuple(sum_dy, sum_dy_xhat);
}

py::object py_batch_norm_backward_apply(py::handle dy_object, py::handle x_object, py::handle mean_object,
                                        py::handle rstd_object, py::handle count_object, py::handle sum_dy_object,
                                        py::handle sum_dy_xhat_object, py::handle weight_object,
                                        py::handle channel_axis, py::handle out) {
  Call call("batch_norm_backward_apply");
  const Layout layout(call, x_object, "x", channel_axis);
  const Layout::Other dy = layout.read(dy_object, "dy");
  const auto statistic = [&](py::handle object, const char* argument) {
    return call.required(object, argument, Dtype::float64, layout.channels());
  };
  const Array mean = statistic(mean_object, "mean"), rstd = statistic(rstd_object, "rstd");
  const double count = count_of(call, layout, count_object);
  const Array sum_dy = statistic(sum_dy_object, "sum_dy"), sum_dy_xhat = statistic(sum_dy_xhat_object, "sum_dy_xhat");
  const auto weight = call.optional(weight_object, "weight", layout.computed(), layout.channels());
  call.results(out, 1);
  const Layout::Result dx = layout.result(0);
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout);
    batch.dy = laid<S>(dy);
    batch.to = laid<S>(dx);
    const BatchNorm<T> norm{mean.data<double>(), rstd.data<double>(), data_of<T>(weight)};
    const double *of_dy = sum_dy.data<double>(), *of_dyx = sum_dy_xhat.data<double>();
    const py::gil_scoped_release release;
    batch_norm_gradient_apply(batch, norm, count, of_dy, of_dyx);
  });
  return dx.object;
}

// ---- GroupNorm and InstanceNorm -------------------------------------------------------------------------------------

/// The number of samples, which axis 0 counts.
std::size_t samples_of(const Call& call, const Layout& layout, py::handle channel_axis) {
  if (layout.axis() == 0)
    throw py::value_error(call.text("channel_axis") + " must not be 0, the axis of the samples, got " +
                          std::string(py::str(channel_axis)));
  return static_cast<std::size_t>(layout.shape()[0]);
}

std::size_t groups_of(const Call& call, const Layout& layout, py::handle object) {
  const std::ptrdiff_t groups = call.integer(object, "num_groups");
  const auto channels = static_cast<std::ptrdiff_t>(layout.in().count);
  if (groups < 1 || channels % groups != 0)
    throw py::value_error(call.text("num_groups") + " must divide the " + std::to_string(channels) +
                          " channels of x on axis " + std::to_string(layout.axis()) + ", the channel_axis, got " +
                          std::to_string(groups));
  return static_cast<std::size_t>(groups);
}

Shape statistics_shape(std::size_t samples, std::size_t groups) {
  return {static_cast<std::ptrdiff_t>(samples), static_cast<std::ptrdiff_t>(groups)};
}

py::tuple py_group_norm(py::handle x_object, py::handle num_groups, py::handle weight_object, py::handle bias_object,
                        py::handle eps_object, py::handle channel_axis, py::handle out) {
  Call call("group_norm");
  const Layout layout(call, x_object, "x", channel_axis);
  const std::size_t samples = samples_of(call, layout, channel_axis), groups = groups_of(call, layout, num_groups);
  const auto weight = call.optional(weight_object, "weight", layout.computed(), layout.channels()),
             bias = call.optional(bias_object, "bias", layout.computed(), layout.channels());
  const double eps = call.eps(eps_object);
  call.results(out, 3);
  const Layout::Result y = layout.result(0);
  const py::object mean = call.contiguous_result(1, Dtype::float64, statistics_shape(samples, groups)),
                   rstd = call.contiguous_result(2, Dtype::float64, statistics_shape(samples, groups));
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout, samples);
    batch.to = laid<S>(y);
    const GroupNorm<T> norm{groups, data_of<double>(mean), data_of<double>(rstd), data_of<T>(weight), data_of<T>(bias)};
    const py::gil_scoped_release release;
    group_norm(batch, norm, eps, [](std::size_t, double) {});
  });
  return py::make_tuple(y.object, mean, rstd);
}

/// Backward of both; not training: the statistics were not the input's own.
py::tuple group_backward(Call& call, const Layout& layout, std::size_t groups, py::handle dy_object,
                         py::handle mean_object, py::handle rstd_object, py::handle weight_object, bool training,
                         py::handle out) {
  const std::size_t samples = static_cast<std::size_t>(layout.shape()[0]);
  const Layout::Other dy = layout.read(dy_object, "dy");
  const Array mean = call.required(mean_object, "mean", Dtype::float64, statistics_shape(samples, groups)),
              rstd = call.required(rstd_object, "rstd", Dtype::float64, statistics_shape(samples, groups));
  const auto weight = call.optional(weight_object, "weight", layout.computed(), layout.channels());
  call.results(out, 3);
  const Layout::Result dx = layout.result(0);
  const auto gradient = [&](std::size_t i) {
    return call.result_if(weight.has_value(), i, layout.computed(), layout.channels(), "there is no weight");
  };
  const py::object dweight = gradient(1), dbias = gradient(2);
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout, samples);
    batch.dy = laid<S>(dy);
    batch.to = laid<S>(dx);
    const GroupNorm<T> norm{groups, mean.data<double>(), rstd.data<double>(), data_of<T>(weight)};
    T *dweight_to = data_of<T>(dweight), *dbias_to = data_of<T>(dbias);
    const py::gil_scoped_release release;
    group_norm_backward(batch, norm, training, dweight_to, dbias_to);
  });
  return py::make_tuple(dx.object, dweight, dbias);
}

py::tuple py_group_norm_backward(py::handle dy, py::handle x, py::handle num_groups, py::handle mean, py::handle rstd,
                                 py::handle weight, py::handle channel_axis, py::handle out) {
  Call call("group_norm_backward");
  const Layout layout(call, x, "x", channel_axis);
  samples_of(call, layout, channel_axis);
  return group_backward(call, layout, groups_of(call, layout, num_groups), dy, mean, rstd, weight, true, out);
}

py::tuple py_instance_norm(py::handle x_object, py::handle running_mean_object, py::handle running_var_object,
                           py::handle weight_object, py::handle bias_object, py::handle use_input_stats_object,
                           py::handle momentum_object, py::handle eps_object, py::handle channel_axis, py::handle out) {
  Call call("instance_norm");
  const bool use_input_stats = call.flag(use_input_stats_object, "use_input_stats");
  const Layout layout(call, x_object, "x", channel_axis);
  const std::size_t samples = samples_of(call, layout, channel_axis), channels = layout.in().count;
  Running running(call, layout, running_mean_object, running_var_object, use_input_stats);
  if (!use_input_stats) running.expect(call, "without use_input_stats it takes");
  const auto weight = call.optional(weight_object, "weight", layout.computed(), layout.channels()),
             bias = call.optional(bias_object, "bias", layout.computed(), layout.channels());
  const double momentum = momentum_of(call, momentum_object), eps = call.eps(eps_object);
  const std::size_t values = samples == 0 ? 0 : layout.in().values() / samples;
  if (use_input_stats) expect_values(call, layout, values, "sample and channel");
  call.results(out, 3);
  const Layout::Result y = layout.result(0);
  const py::object mean = call.contiguous_result(1, Dtype::float64, statistics_shape(samples, channels)),
                   rstd = call.contiguous_result(2, Dtype::float64, statistics_shape(samples, channels));
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout, samples);
    batch.to = laid<S>(y);
    const GroupNorm<T> norm{channels, data_of<double>(mean), data_of<double>(rstd), data_of<T>(weight),
                            data_of<T>(bias)};
    const py::gil_scoped_release release;
    if (!use_input_stats) {
      for (std::size_t sample = 0; sample < samples; ++sample)
        running.report<T>(eps, norm.mean + sample * channels, norm.rstd + sample * channels, channels);
      return group_norm_apply(batch, norm);
    }
    std::vector<double> m2(samples * channels);
    group_norm(batch, norm, eps, [&](std::size_t set, double of_set) { m2[set] = of_set; });
    if (!running.given() || samples * values == 0) return;
    const FlushSubnormals environment;
    std::vector<double> mean_of(channels), var_of(channels);
    const auto n = static_cast<double>(samples);
    for (std::size_t set = 0; set < m2.size(); ++set) {
      mean_of[set % channels] += norm.mean[set];
      var_of[set % channels] += m2[set] / static_cast<double>(values - 1);
    }
    for (std::size_t c = 0; c < channels; ++c) {
      mean_of[c] /= n;
      var_of[c] /= n;
    }
    running.update<T>(mean_of.data(), var_of.data(), channels, momentum);
  });
  return py::make_tuple(y.object, mean, rstd);
}

py::tuple py_instance_norm_backward(py::handle dy, py::handle x, py::handle mean, py::handle rstd, py::handle weight,
                                    py::handle use_input_stats, py::handle channel_axis, py::handle out) {
  Call call("instance_norm_backward");
  const bool own = call.flag(use_input_stats, "use_input_stats");
  const Layout layout(call, x, "x", channel_axis);
  samples_of(call, layout, channel_axis);
  return group_backward(call, layout, layout.in().count, dy, mean, rstd, weight, own, out);
}

// ---- Weight normalization -------------------------------------------------------------------------------------------

/// The shape of one number for each of dim, which broadcasts with v.
Shape lengths_shape(const Layout& layout) {
  Shape shape(layout.shape().size(), 1);
  shape[layout.axis()] = static_cast<std::ptrdiff_t>(layout.in().count);
  return shape;
}

py::tuple py_weight_norm(py::handle v_object, py::handle g_object, py::handle dim, py::handle out) {
  Call call("weight_norm");
  const Layout layout(call, v_object, "v", dim, "dim", 1);
  const Array g = call.required(g_object, "g", layout.computed(), lengths_shape(layout));
  call.results(out, 2);
  const Layout::Result w = layout.result(0);
  const py::object rnorm = call.contiguous_result(1, Dtype::float64, layout.channels());
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    auto batch = batch_of<S>(layout);
    batch.to = laid<S>(w);
    const auto* lengths = g.data<Computed<S>>();
    double* rnorm_to = data_of<double>(rnorm);
    const py::gil_scoped_release release;
    weight_norm(batch, lengths, rnorm_to);
  });
  return py::make_tuple(w.object, rnorm);
}

py::tuple py_weight_norm_backward(py::handle dw_object, py::handle v_object, py::handle g_object,
                                  py::handle rnorm_object, py::handle dim, py::handle out) {
  Call call("weight_norm_backward");
  const Layout layout(call, v_object, "v", dim, "dim", 1);
  const Layout::Other dw = layout.read(dw_object, "dw");
  const Array g = call.required(g_object, "g", layout.computed(), lengths_shape(layout)),
              rnorm = call.required(rnorm_object, "rnorm", Dtype::float64, layout.channels());
  call.results(out, 2);
  const Layout::Result dv = layout.result(0);
  const py::object dg = call.contiguous_result(1, layout.computed(), lengths_shape(layout));
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout);
    batch.dy = laid<S>(dw);
    batch.to = laid<S>(dv);
    const T* lengths = g.data<T>();
    const double* of_v = rnorm.data<double>();
    T* dg_to = data_of<T>(dg);
    const py::gil_scoped_release release;
    weight_norm_backward(batch, lengths, of_v, dg_to);
  });
  return py::make_tuple(dv.object, dg);
}

}  // namespace

void bind_channel_norms(py::module_& m) {
  m.def("batch_norm", &py_batch_norm);
  m.def("batch_norm_backward", &py_batch_norm_backward);
  m.def("batch_norm_relu", &py_batch_norm_relu);
  m.def("batch_norm_relu_backward", &py_batch_norm_relu_backward);
  m.def("batch_norm_add_relu", &py_batch_norm_add_relu);
  m.def("batch_norm_add_relu_backward", &py_batch_norm_add_relu_backward);
  m.def("batch_renorm", &py_batch_renorm);
  m.def("batch_renorm_backward", &py_batch_renorm_backward);
  m.def("batch_norm_stats", &py_batch_norm_stats);
  m.def("batch_norm_apply", &py_batch_norm_apply);
  m.def("batch_norm_backward_stats", &py_batch_norm_backward_stats);
  m.def("batch_norm_backward_apply", &py_batch_norm_backward_apply);
  m.def("group_norm", &py_group_norm);
  m.def("group_norm_backward", &py_group_norm_backward);
  m.def("instance_norm", &py_instance_norm);
  m.def("instance_norm_backward", &py_instance_norm_backward);
  m.def("weight_norm", &py_weight_norm);
  m.def("weight_norm_backward", &py_weight_norm_backward);
}

}  // namespace fastopt
