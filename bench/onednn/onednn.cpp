/// oneDNN's normalization on NumPy's arrays, as a candidate of `fastopt bench` (bench/README.md).
///
/// Every function makes a primitive for the arrays that it is given, and returns a call without arguments that runs it;
/// the arrays are the caller's.  What oneDNN has no kernel for is an error.  It keeps the variance, divided by n, where
/// others keep 1/σ, and running statistics are not its business.
#include <omp.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace {

namespace py = pybind11;
using dnnl::memory;
using Flags = dnnl::normalization_flags;
using Arrays = std::vector<std::pair<int, py::array>>;

constexpr auto kTraining = dnnl::prop_kind::forward_training;
constexpr auto kBackward = dnnl::prop_kind::backward;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

memory::data_type type_of(const py::array& array) {
  const auto name = array.dtype().attr("name").cast<std::string>();
  if (name == "float32") return memory::data_type::f32;
  if (name == "float16") return memory::data_type::f16;
  if (name == "bfloat16") return memory::data_type::bf16;
  throw py::type_error("oneDNN has no " + name);
}

memory::desc described(const py::array& array) {
  memory::dims shape, strides;
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
    shape.push_back(array.shape(axis));
    strides.push_back(array.strides(axis) / array.itemsize());
  }
  return {shape, type_of(array), strides};
}

/// A primitive with the arrays that it works on.
class Call {
 public:
  Call(const dnnl::primitive& primitive, std::string kernel, Arrays arrays, const memory& workspace = {})
      : primitive_(primitive), stream_(engine()), kernel_(std::move(kernel)), arrays_(std::move(arrays)) {
    for (const auto& [argument, array] : arrays_) {
      arguments_.emplace(argument, memory(described(array), engine(), const_cast<void*>(array.data())));
    }
    if (workspace) arguments_.emplace(DNNL_ARG_WORKSPACE, workspace);
  }

  void operator()() {
    const py::gil_scoped_release released;
    primitive_.execute(stream_, arguments_);
    stream_.wait();
  }
  const std::string& kernel() const { return kernel_; }

 private:
  dnnl::primitive primitive_;
  dnnl::stream stream_;
  std::string kernel_;
  Arrays arrays_;
  std::unordered_map<int, memory> arguments_;
};

dnnl::layer_normalization_forward::primitive_desc layer_norm_of(const py::array& x, const py::array& y,
                                                                const py::array& mean, float eps) {
  return {engine(), kTraining, described(x), described(y), described(mean), eps, Flags::use_scale | Flags::use_shift};
}

Call layer_norm(const py::array& x, const py::array& weight, const py::array& bias, float eps, const py::array& y,
                const py::array& mean, const py::array& var) {
  const auto forward = layer_norm_of(x, y, mean, eps);
  return {dnnl::layer_normalization_forward(forward),
          forward.impl_info_str(),
          {{DNNL_ARG_SRC, x},
           {DNNL_ARG_SCALE, weight},
           {DNNL_ARG_SHIFT, bias},
           {DNNL_ARG_DST, y},
           {DNNL_ARG_MEAN, mean},
           {DNNL_ARG_VARIANCE, var}}};
}

Call layer_norm_backward(const py::array& dy, const py::array& x, const py::array& mean, const py::array& var,
                         const py::array& weight, const py::array& bias, float eps, const py::array& dx,
                         const py::array& dweight, const py::array& dbias) {
  const dnnl::layer_normalization_backward::primitive_desc backward(
      engine(), kBackward, described(dx), described(dy), described(x), described(mean), eps,
      Flags::use_scale | Flags::use_shift, layer_norm_of(x, x, mean, eps));
  return {dnnl::layer_normalization_backward(backward),
          backward.impl_info_str(),
          {{DNNL_ARG_DIFF_DST, dy},
           {DNNL_ARG_SRC, x},
           {DNNL_ARG_MEAN, mean},
           {DNNL_ARG_VARIANCE, var},
           {DNNL_ARG_SCALE, weight},
           {DNNL_ARG_SHIFT, bias},  // not read, and yet an error without it
           {DNNL_ARG_DIFF_SRC, dx},
           {DNNL_ARG_DIFF_SCALE, dweight},
           {DNNL_ARG_DIFF_SHIFT, dbias}}};
}

/// BatchNorm, and what is fused with it; the forward pass leaves the signs for the backward pass in `workspace`.
class BatchNorm {
 public:
  BatchNorm(const py::array& x, float eps, bool relu, bool add)
      : eps_(eps),
        flags_(Flags::use_scale | Flags::use_shift |
               (add    ? Flags::fuse_norm_add_relu
                : relu ? Flags::fuse_norm_relu
                       : Flags::none)),
        forward_(engine(), kTraining, described(x), described(x), eps, flags_) {
    if (relu || add) workspace_ = memory(forward_.workspace_desc(), engine());
  }

  Call forward(const py::array& x, const py::object& residual, const py::array& weight, const py::array& bias,
               const py::array& y, const py::array& mean, const py::array& var) const {
    Arrays arrays = {{DNNL_ARG_SRC, x}, {DNNL_ARG_SCALE, weight}, {DNNL_ARG_SHIFT, bias},
                     {DNNL_ARG_DST, y}, {DNNL_ARG_MEAN, mean},    {DNNL_ARG_VARIANCE, var}};
    if (!residual.is_none()) arrays.emplace_back(DNNL_ARG_SRC_1, residual.cast<py::array>());
    return {dnnl::batch_normalization_forward(forward_), forward_.impl_info_str(), arrays, workspace_};
  }

  Call backward(const py::array& dy, const py::array& x, const py::array& mean, const py::array& var,
                const py::array& weight, const py::array& dx, const py::object& dresidual, const py::array& dweight,
                const py::array& dbias) const {
    const dnnl::batch_normalization_backward::primitive_desc backward(engine(), kBackward, described(dx), described(dy),
                                                                      described(x), eps_, flags_, forward_);
    Arrays arrays = {{DNNL_ARG_DIFF_DST, dy},        {DNNL_ARG_SRC, x},           {DNNL_ARG_MEAN, mean},
                     {DNNL_ARG_VARIANCE, var},       {DNNL_ARG_SCALE, weight},    {DNNL_ARG_DIFF_SRC, dx},
                     {DNNL_ARG_DIFF_SCALE, dweight}, {DNNL_ARG_DIFF_SHIFT, dbias}};
    if (!dresidual.is_none()) arrays.emplace_back(DNNL_ARG_DIFF_SRC_1, dresidual.cast<py::array>());
    return {dnnl::batch_normalization_backward(backward), backward.impl_info_str(), arrays, workspace_};
  }

 private:
  float eps_;
  Flags flags_;
  dnnl::batch_normalization_forward::primitive_desc forward_;
  memory workspace_;
};

std::string version() {
  const auto* v = dnnl_version();
  return std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
}

}  // namespace

PYBIND11_MODULE(fastopt_onednn, m) {
  m.doc() = "oneDNN's normalization on NumPy's arrays.";
  m.attr("__version__") = version();
  m.def("set_num_threads", &omp_set_num_threads, "Of this thread's calls that are made afterwards.", py::arg("n"));
  py::class_<Call>(m, "Call").def("__call__", &Call::operator()).def_property_readonly("kernel", &Call::kernel);
  m.def("layer_norm", &layer_norm);
  m.def("layer_norm_backward", &layer_norm_backward);
  py::class_<BatchNorm>(m, "BatchNorm")
      .def(py::init<const py::array&, float, bool, bool>(), py::arg("x"), py::arg("eps"), py::kw_only(),
           py::arg("relu") = false, py::arg("add") = false)
      .def("forward", &BatchNorm::forward)
      .def("backward", &BatchNorm::backward);
}
