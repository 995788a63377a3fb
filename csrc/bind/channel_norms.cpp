/// Normalizations of channels for Python.  Everything is checked before anything is written.
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/gil.hpp"
#include "bind/layout.hpp"
#include "bind/module.hpp"
#include "core/threads/environment.hpp"
#include "norm/channels/batch_norm.hpp"
#include "norm/channels/group_norm.hpp"
#include "norm/channels/weight_norm.hpp"

namespace fastopt {

namespace {

Array statistic(Call& call, const Layout& layout, const char* argument) {
  return call.required(argument, Dtype::float64, layout.channels());
}
py::object statistic_result(Call& call, const Layout& layout, std::size_t i) {
  return call.contiguous_result(i, Dtype::float64, layout.channels());
}

void expect_values(const Call& call, const Layout& layout, std::size_t values, const char* set) {
  if (values == 1 && layout.in().count != 0)
    throw py::value_error(call.text("x") + " has shape " + text_of(layout.shape()) +
                          ", expected more than 1 value per " + set + " when training");
}

double momentum_of(const Call& call) { return call.number("momentum", 0, 1, "in [0, 1]"); }

// ---- BatchNorm ------------------------------------------------------------------------------------------------------

/// x [, residual], running_mean, running_var, weight, bias, training, momentum, eps [, r_max, d_max], num_batches_tracked
/// -> y, mean, rstd [, r, d].  The running statistics and the count are written together, after everything else.
py::object batch_norm_forward(Call& call, After after) {
  const bool training = call.flag("training"), renorm = call.has("r_max");
  const Layout layout(call);
  std::optional<Layout::Other> residual;
  if (after == After::add_relu) residual = layout.read("residual");
  const std::size_t channels = layout.in().count;
  const Running given(call, layout, training);
  if (renorm) given.expect(call, "batch renormalization needs");
  if (!training) given.expect(call, "evaluation needs");
  const Learned learned(call, layout);
  const double momentum = momentum_of(call), eps = call.eps();
  constexpr double kMost = std::numeric_limits<double>::max();
  const Renorm limits = renorm ? Renorm{call.number("r_max", 1, kMost, "finite and >= 1"),
                                        call.number("d_max", 0, kMost, "finite and >= 0")}
                               : Renorm{1, 0};
  if (training) expect_values(call, layout, layout.in().values(), "channel");
  std::int64_t* const batches = call.counter("num_batches_tracked");
  call.results(renorm ? 5 : 3);
  const Layout::Result y = layout.result(0);
  std::vector<py::object> results{y.object};
  while (results.size() < (renorm ? 5 : 3)) results.push_back(statistic_result(call, layout, results.size()));
  call.expect_disjoint();

  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout);
    batch.to = channel_array<S>(y);
    if (residual) batch.more = channel_array<S>(*residual);
    double *mean = data_of<double>(results[1]), *rstd = data_of<double>(results[2]);
    double *r = renorm ? data_of<double>(results[3]) : nullptr, *d = renorm ? data_of<double>(results[4]) : nullptr;
    const auto running = given.as<T>();
    const BatchNorm<T> norm{mean,
                            rstd,
                            data_of<T>(learned.weight),
                            data_of<T>(learned.bias),
                            training ? r : nullptr,
                            training ? d : nullptr};
    const WithoutGil release;
    if (!training) {
      call.run<&RunningStatistics<T>::report>(running, eps, mean, rstd);
      if (renorm) {
        std::fill_n(r, channels, 1.0);
        std::fill_n(d, channels, 0.0);
      }
      return call.run<&BatchNormKernels<S>::apply>(batch, norm, after);
    }
    std::vector<double> m2(channels);
    call.run<&BatchNormKernels<S>::training>(batch, norm, after,
                                             BatchStatistics<T>{mean, rstd, m2.data(), eps, r, d, limits, running});
    if (layout.in().values() == 0 && channels != 0) return;  // a batch without values is not counted
    if (running.given())
      call.run<&RunningStatistics<T>::update>(running, mean, m2.data(), static_cast<double>(layout.in().values()),
                                              momentum);
    if (batches) ++*batches;
  });
  return py::tuple(py::cast(results));
}

/// dy [, y], x, mean, rstd [, r, d], weight [, bias], training, bias_grad -> dx [, dresidual], dweight, dbias.
py::object batch_norm_differentiate(Call& call, After after) {
  const bool training = call.flag("training"), renorm = call.has("r");
  const Layout layout(call);
  const Layout::Other dy = layout.read("dy");
  std::optional<Layout::Other> y;
  if (after == After::add_relu) y = layout.read("y");
  const Array mean = statistic(call, layout, "mean"), rstd = statistic(call, layout, "rstd");
  std::optional<Array> r, d;
  if (renorm) {
    r = statistic(call, layout, "r");
    d = statistic(call, layout, "d");
  }
  const Learned learned(call, layout);
  const std::size_t large = after == After::add_relu ? 2 : 1;  // results of x's shape
  call.results(large + 2);
  const Layout::Result dx = layout.result(0);
  std::optional<Layout::Result> dresidual;
  if (after == After::add_relu) dresidual = layout.result(1);
  const LearnedGradients gradients(call, layout, large, learned.weight.has_value());
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout);
    batch.dy = channel_array<S>(dy);
    if (y) batch.more = channel_array<S>(*y);
    batch.to = channel_array<S>(dx);
    if (dresidual) batch.also_to = channel_array<S>(*dresidual);
    const BatchNorm<T> norm{mean.data<double>(),      rstd.data<double>(), data_of<T>(learned.weight),
                            data_of<T>(learned.bias), data_of<double>(r),  data_of<double>(d)};
    T *dweight = data_of<T>(gradients.weight), *dbias = data_of<T>(gradients.bias);
    const WithoutGil release;
    call.run<&BatchNormKernels<S>::backward>(batch, norm, after, training, dweight, dbias);
  });
  if (dresidual) return py::make_tuple(dx.object, dresidual->object, gradients.weight, gradients.bias);
  return py::make_tuple(dx.object, gradients.weight, gradients.bias);
}

// ---- BatchNorm in halves --------------------------------------------------------------------------------------------

/// The number of values in a channel of a batch that may be spread over processes.
double count_of(const Call& call, const Layout& layout) {
  const std::ptrdiff_t count = call.integer("count");
  const auto values = static_cast<std::ptrdiff_t>(layout.in().values());
  if (count < 0 || (count < values && layout.in().count != 0))
    throw py::value_error(call.text("count") + " must be at least the " + std::to_string(values) +
                          " values in a channel of x, got " + std::to_string(count));
  return static_cast<double>(count);
}

py::object batch_norm_stats(Call& call) {
  const Layout layout(call);
  const auto around = call.optional("around", Dtype::float64, layout.channels());
  const py::object mean = fresh(Dtype::float64, layout.channels()), m2 = fresh(Dtype::float64, layout.channels());
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    const auto batch = batch_of<S>(layout);
    double *mean_to = data_of<double>(mean), *m2_to = data_of<double>(m2);
    const double* middle = data_of<double>(around);
    const WithoutGil release;
    if (around) {
      std::copy_n(middle, layout.in().count, mean_to);
      call.run<&BatchNormKernels<S>::squares>(batch, middle, m2_to);
    } else {
      call.run<&BatchNormKernels<S>::moments>(batch, mean_to, m2_to);
    }
  });
  return py::make_tuple(layout.in().values(), mean, m2);
}

py::object batch_norm_apply_stats(Call& call) {
  const Layout layout(call);
  const double count = count_of(call, layout);
  if (count == 1)
    throw py::value_error(call.text("count") + " is 1, expected more than 1 value per channel when training");
  const Array of_mean = statistic(call, layout, "mean"), of_m2 = statistic(call, layout, "m2");
  const Running given(call, layout, true);
  const Learned learned(call, layout);
  const double momentum = momentum_of(call), eps = call.eps();
  call.results(3);
  const Layout::Result y = layout.result(0);
  const py::object mean = statistic_result(call, layout, 1), rstd = statistic_result(call, layout, 2);
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout);
    batch.to = channel_array<S>(y);
    double *mean_to = data_of<double>(mean), *rstd_to = data_of<double>(rstd);
    const double *found = of_mean.data<double>(), *m2 = of_m2.data<double>();
    const auto running = given.as<T>();
    const BatchNorm<T> norm{mean_to, rstd_to, data_of<T>(learned.weight), data_of<T>(learned.bias)};
    const WithoutGil release;
    const FlushSubnormals environment;
    std::copy_n(found, layout.in().count, mean_to);
    call.run<&rstds_of>(m2, layout.in().count, count, eps, rstd_to);
    call.run<&BatchNormKernels<S>::apply>(batch, norm, After::nothing);
    if (running.given() && count != 0) call.run<&RunningStatistics<T>::update>(running, mean_to, m2, count, momentum);
  });
  return py::make_tuple(y.object, mean, rstd);
}

py::object batch_norm_backward_stats(Call& call) {
  const Layout layout(call);
  const Layout::Other dy = layout.read("dy");
  const Array mean = statistic(call, layout, "mean"), rstd = statistic(call, layout, "rstd");
  const py::object sum_dy = fresh(Dtype::float64, layout.channels()),
                   sum_dy_xhat = fresh(Dtype::float64, layout.channels());
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    auto batch = batch_of<S>(layout);
    batch.dy = channel_array<S>(dy);
    double *dy_to = data_of<double>(sum_dy), *dyx_to = data_of<double>(sum_dy_xhat);
    const BatchNorm<Computed<S>> norm{mean.data<double>(), rstd.data<double>()};
    const WithoutGil release;
    call.run<&BatchNormKernels<S>::gradient_sums>(batch, norm, dy_to, dyx_to);
  });
  return py::make_tuple(sum_dy, sum_dy_xhat);
}

py::object batch_norm_backward_apply(Call& call) {
  const Layout layout(call);
  const Layout::Other dy = layout.read("dy");
  const Array mean = statistic(call, layout, "mean"), rstd = statistic(call, layout, "rstd");
  const double count = count_of(call, layout);
  const Array sum_dy = statistic(call, layout, "sum_dy"), sum_dy_xhat = statistic(call, layout, "sum_dy_xhat");
  const Learned learned(call, layout);
  call.results(1);
  const Layout::Result dx = layout.result(0);
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout);
    batch.dy = channel_array<S>(dy);
    batch.to = channel_array<S>(dx);
    const BatchNorm<T> norm{mean.data<double>(), rstd.data<double>(), data_of<T>(learned.weight)};
    const double *of_dy = sum_dy.data<double>(), *of_dyx = sum_dy_xhat.data<double>();
    const WithoutGil release;
    call.run<&BatchNormKernels<S>::gradient_apply>(batch, norm, count, of_dy, of_dyx);
  });
  return dx.object;
}

// ---- GroupNorm and InstanceNorm -------------------------------------------------------------------------------------

/// The number of samples (axis 0), and of groups in each sample's channels.
struct Groups {
  std::size_t samples, count;

  Groups(const Call& call, const Layout& layout)
      : samples(static_cast<std::size_t>(layout.shape()[0])), count(layout.in().count) {
    if (layout.axis() == 0)
      throw py::value_error(call.text("channel_axis") + " must not be 0, the axis of the samples, got " +
                            std::string(py::str(call["channel_axis"])));
    if (!call.has("num_groups")) return;
    const std::ptrdiff_t groups = call.integer("num_groups");
    const auto channels = static_cast<std::ptrdiff_t>(count);
    if (groups < 1 || channels % groups != 0)
      throw py::value_error(call.text("num_groups") + " must divide the " + std::to_string(channels) +
                            " channels of x on axis " + std::to_string(layout.axis()) + ", the channel_axis, got " +
                            std::to_string(groups));
    count = static_cast<std::size_t>(groups);
  }
  Shape shape() const { return {static_cast<std::ptrdiff_t>(samples), static_cast<std::ptrdiff_t>(count)}; }
};

py::object group_norm_forward(Call& call) {
  const Layout layout(call);
  const Groups groups(call, layout);
  const Learned learned(call, layout);
  const double eps = call.eps();
  call.results(3);
  const Layout::Result y = layout.result(0);
  const py::object mean = call.contiguous_result(1, Dtype::float64, groups.shape()),
                   rstd = call.contiguous_result(2, Dtype::float64, groups.shape());
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout, groups.samples);
    batch.to = channel_array<S>(y);
    const GroupNorm<T> norm{groups.count, data_of<double>(mean), data_of<double>(rstd), data_of<T>(learned.weight),
                            data_of<T>(learned.bias)};
    const WithoutGil release;
    call.run<&GroupNormKernels<S>::normalize>(batch, norm, eps, nullptr);
  });
  return py::make_tuple(y.object, mean, rstd);
}

py::object instance_norm_forward(Call& call) {
  const bool own = call.flag("use_input_stats");
  const Layout layout(call);
  const Groups groups(call, layout);
  const std::size_t samples = groups.samples, channels = groups.count;
  const Running given(call, layout, own);
  if (!own) given.expect(call, "without use_input_stats it takes");
  const Learned learned(call, layout);
  const double momentum = momentum_of(call), eps = call.eps();
  const std::size_t values = samples == 0 ? 0 : layout.in().values() / samples;
  if (own) expect_values(call, layout, values, "sample and channel");
  call.results(3);
  const Layout::Result y = layout.result(0);
  const py::object mean = call.contiguous_result(1, Dtype::float64, groups.shape()),
                   rstd = call.contiguous_result(2, Dtype::float64, groups.shape());
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout, samples);
    batch.to = channel_array<S>(y);
    const auto running = given.as<T>();
    const GroupNorm<T> norm{channels, data_of<double>(mean), data_of<double>(rstd), data_of<T>(learned.weight),
                            data_of<T>(learned.bias)};
    const WithoutGil release;
    if (!own) {
      for (std::size_t sample = 0; sample < samples; ++sample)
        call.run<&RunningStatistics<T>::report>(running, eps, norm.mean + sample * channels,
                                                norm.rstd + sample * channels);
      return call.run<&GroupNormKernels<S>::apply>(batch, norm);
    }
    std::vector<double> m2(samples * channels);
    call.run<&GroupNormKernels<S>::normalize>(batch, norm, eps, m2.data());
    if (running.given() && samples * values != 0)
      call.run<&RunningStatistics<T>::update_by_sample>(running, norm.mean, m2.data(), samples,
                                                        static_cast<double>(values), momentum);
  });
  return py::make_tuple(y.object, mean, rstd);
}

/// Backward of both norms; without use_input_stats the statistics are not the input's own.
py::object group_norm_differentiate(Call& call) {
  const bool own = !call.has("use_input_stats") || call.flag("use_input_stats");
  const Layout layout(call);
  const Groups groups(call, layout);
  const Layout::Other dy = layout.read("dy");
  const Array mean = call.required("mean", Dtype::float64, groups.shape()),
              rstd = call.required("rstd", Dtype::float64, groups.shape());
  const Learned learned(call, layout);
  call.results(3);
  const Layout::Result dx = layout.result(0);
  const LearnedGradients gradients(call, layout, 1, learned.weight.has_value());
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout, groups.samples);
    batch.dy = channel_array<S>(dy);
    batch.to = channel_array<S>(dx);
    const GroupNorm<T> norm{groups.count, mean.data<double>(), rstd.data<double>(), data_of<T>(learned.weight)};
    T *dweight = data_of<T>(gradients.weight), *dbias = data_of<T>(gradients.bias);
    const WithoutGil release;
    call.run<&GroupNormKernels<S>::backward>(batch, norm, own, dweight, dbias);
  });
  return py::make_tuple(dx.object, gradients.weight, gradients.bias);
}

// ---- Weight normalization -------------------------------------------------------------------------------------------

/// The shape of an array with one number for each index of axis dim; it broadcasts with v.
Shape lengths_shape(const Layout& layout) {
  Shape shape(layout.shape().size(), 1);
  shape[layout.axis()] = static_cast<std::ptrdiff_t>(layout.in().count);
  return shape;
}

py::object weight_norm_forward(Call& call) {
  const Layout layout(call, "v", "dim", 1);
  const Array g = call.required("g", layout.computed(), lengths_shape(layout));
  call.results(2);
  const Layout::Result w = layout.result(0);
  const py::object rnorm = statistic_result(call, layout, 1);
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    auto batch = batch_of<S>(layout);
    batch.to = channel_array<S>(w);
    const auto* lengths = g.data<Computed<S>>();
    double* rnorm_to = data_of<double>(rnorm);
    const WithoutGil release;
    call.run<&WeightNormKernels<S>::forward>(batch, lengths, rnorm_to);
  });
  return py::make_tuple(w.object, rnorm);
}

py::object weight_norm_differentiate(Call& call) {
  const Layout layout(call, "v", "dim", 1);
  const Layout::Other dw = layout.read("dw");
  const Array g = call.required("g", layout.computed(), lengths_shape(layout)),
              rnorm = statistic(call, layout, "rnorm");
  call.results(2);
  const Layout::Result dv = layout.result(0);
  const py::object dg = call.contiguous_result(1, layout.computed(), lengths_shape(layout));
  call.expect_disjoint();
  with_storage(layout.dtype(), [&](auto number) {
    using S = decltype(number);
    using T = Computed<S>;
    auto batch = batch_of<S>(layout);
    batch.dy = channel_array<S>(dw);
    batch.to = channel_array<S>(dv);
    const T* lengths = g.data<T>();
    const double* of_v = rnorm.data<double>();
    T* dg_to = data_of<T>(dg);
    const WithoutGil release;
    call.run<&WeightNormKernels<S>::backward>(batch, lengths, of_v, dg_to);
  });
  return py::make_tuple(dv.object, dg);
}

// clang-format off
const std::vector<Function> kChannelNorms{
    {"batch_norm",
     {"x", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps", "channel_axis", "out",
      "num_batches_tracked"},
     [](Call& call) { return batch_norm_forward(call, After::nothing); }},
    {"batch_norm_backward",
     {"dy", "x", "mean", "rstd", "weight", "training", "bias_grad", "channel_axis", "out"},
     [](Call& call) { return batch_norm_differentiate(call, After::nothing); }},
    {"batch_norm_relu",
     {"x", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps", "channel_axis", "out",
      "num_batches_tracked"},
     [](Call& call) { return batch_norm_forward(call, After::relu); }},
    {"batch_norm_relu_backward",
     {"dy", "x", "mean", "rstd", "weight", "bias", "training", "bias_grad", "channel_axis", "out"},
     [](Call& call) { return batch_norm_differentiate(call, After::relu); }},
    {"batch_norm_add_relu",
     {"x", "residual", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps", "channel_axis", "out",
      "num_batches_tracked"},
     [](Call& call) { return batch_norm_forward(call, After::add_relu); }},
    {"batch_norm_add_relu_backward",
     {"dy", "y", "x", "mean", "rstd", "weight", "training", "bias_grad", "channel_axis", "out"},
     [](Call& call) { return batch_norm_differentiate(call, After::add_relu); }},
    {"batch_renorm",
     {"x", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps", "r_max", "d_max", "channel_axis", "out",
      "num_batches_tracked"},
     [](Call& call) { return batch_norm_forward(call, After::nothing); }},
    {"batch_renorm_backward",
     {"dy", "x", "mean", "rstd", "r", "d", "weight", "training", "bias_grad", "channel_axis", "out"},
     [](Call& call) { return batch_norm_differentiate(call, After::nothing); }},
    {"batch_norm_stats", {"x", "around", "channel_axis"}, batch_norm_stats},
    {"batch_norm_apply",
     {"x", "count", "mean", "m2", "running_mean", "running_var", "weight", "bias", "momentum", "eps", "channel_axis", "out"},
     batch_norm_apply_stats},
    {"batch_norm_backward_stats", {"dy", "x", "mean", "rstd", "channel_axis"}, batch_norm_backward_stats},
    {"batch_norm_backward_apply",
     {"dy", "x", "mean", "rstd", "count", "sum_dy", "sum_dy_xhat", "weight", "channel_axis", "out"},
     batch_norm_backward_apply},
    {"group_norm", {"x", "num_groups", "weight", "bias", "eps", "channel_axis", "out"}, group_norm_forward},
    {"group_norm_backward",
     {"dy", "x", "num_groups", "mean", "rstd", "weight", "bias_grad", "channel_axis", "out"},
     group_norm_differentiate},
    {"instance_norm",
     {"x", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps", "channel_axis", "out"},
     instance_norm_forward},
    {"instance_norm_backward",
     {"dy", "x", "mean", "rstd", "weight", "use_input_stats", "bias_grad", "channel_axis", "out"},
     group_norm_differentiate},
    {"weight_norm", {"v", "g", "dim", "out"}, weight_norm_forward},
    {"weight_norm_backward", {"dw", "v", "g", "rnorm", "dim", "out"}, weight_norm_differentiate},
};
// clang-format on

}  // namespace

void bind_channel_norms(py::module_& m, const Kernels& kernels) { bind_functions(m, kernels, kChannelNorms); }

}  // namespace fastopt
