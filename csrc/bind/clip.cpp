/// Clipping of gradients for Python: of arrays, and of torch's tensors.
#include "optim/clip.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/arrays.hpp"
#include "bind/call.hpp"
#include "bind/dlpack.hpp"
#include "bind/gil.hpp"
#include "bind/layout.hpp"
#include "bind/module.hpp"
#include "bind/plan.hpp"
#include "core/cost.hpp"
#include "core/threads/fork.hpp"
#include "core/threads/team.hpp"

namespace fastopt {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Calls body() without Python's lock, unless it is brief.
template <class Body> auto without_lock(const Kernels& kernels, const Gradients& gradients, const Body& body) {
  std::optional<WithoutGil> release;
  if (kernels.run<&Gradients::nanoseconds>(gradients) >= kBriefStep || first_region_pending()) release.emplace();
  const NoFork guard;
  return body();
}

/// The gradients of a call: the list `grads`, which nobody else has.
class ArrayGradients {
 public:
  explicit ArrayGradients(Call& call, const char* function) {
    const auto list = py::cast<py::list>(call["grads"]);
    Spans spans;
    all.reserve(list.size());
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (item(list, i) == Py_None) continue;
      const std::string label = "[" + std::to_string(i) + "]";
      const Name name{function, "grads", label};
      const Array grad(item(list, i), name, Accepted::floats);
      if (!is_dense(grad))
        throw py::type_error(name.text() +
                             " has gaps in its memory, or elements that share it, and would be written; give a copy, "
                             "or the array of which it is a part");
      expect_writeable(grad, name);
      if (grad.size() == 0) continue;
      const Rows* const rows = grad.contiguous() ? nullptr : &rows_.emplace_back(elements_of(grad));
      call.run<&Gradients::add>(all, grad.data<void>(), grad.size(), grad.dtype() == Dtype::float64,
                                format_of(grad.dtype()), rows);
      spans.add(grad, "grads" + label, true);
    }
    spans.expect_disjoint(function);
  }

  Gradients all;

 private:
  std::deque<Rows> rows_;
};

py::object clip_grad_norm(Call& call) {
  const double most = call.number("max_norm", 0, kInfinity, ">= 0");
  const bool strict = call.flag("error_if_nonfinite");
  ArrayGradients grads(call, "clip_grad_norm");
  const double norm = without_lock(call.kernels(), grads.all, [&] { return call.run<&Gradients::norm>(grads.all); });
  if (strict && !std::isfinite(norm))
    throw py::value_error("clip_grad_norm: the norm of grads is " + std::string(py::str(py::float_(norm))) +
                          ", so they cannot be clipped; leave out this step, or give error_if_nonfinite=False");
  const double factor = clip_factor(most, norm);
  if (factor != 1) without_lock(call.kernels(), grads.all, [&] { call.run<&Gradients::scale>(grads.all, factor); });
  return py::float_(norm);
}

py::object clip_grad_value(Call& call) {
  const double limit = call.number("clip_value", 0, kInfinity, ">= 0");
  ArrayGradients grads(call, "clip_grad_value");
  without_lock(call.kernels(), grads.all, [&] { call.run<&Gradients::clip>(grads.all, limit); });
  return py::none();
}

const std::vector<Function> kClips{
    {"clip_grad_norm", {"grads", "max_norm", "error_if_nonfinite"}, clip_grad_norm},
    {"clip_grad_value", {"grads", "clip_value"}, clip_grad_value},
};

/// A dtype of torch's tensors, as far as they are clipped here.
struct TensorDtype {
  dlpack::Type type;
  bool wide;
  Format format;
  double infinite;  ///< numbers from here on become infinite
};

constexpr std::array kTensorDtypes{
    TensorDtype{{dlpack::kFloat, 32, 1}, false, Format::exact, 0x1.ffffffp127},
    TensorDtype{{dlpack::kFloat, 64, 1}, true, Format::exact, kInfinity},
    TensorDtype{{dlpack::kFloat, 16, 1}, false, Format::float16, 65520},
    TensorDtype{{dlpack::kBfloat, 16, 1}, false, Format::bfloat16, 0x1.ffp127},
};

/// Whether the elements fill their memory without gaps, whatever the order of the axes.
bool is_dense(const dlpack::Tensor& tensor, std::int64_t size) {
  std::int64_t expected = 1;
  std::int32_t axis = tensor.ndim;
  for (; axis > 0; --axis) {
    const std::int64_t count = tensor.shape[axis - 1];
    if (count == 1) continue;
    if (tensor.strides[axis - 1] != expected) break;
    expected *= count;
  }
  for (expected = axis == 0 ? size : 1; expected != size;) {  // finds the axes from the innermost one on
    std::int64_t next = 0;
    for (std::int32_t a = 0; a < tensor.ndim; ++a)
      if (tensor.shape[a] > 1 && tensor.strides[a] == expected) next = tensor.shape[a];
    if (next == 0) return false;
    expected *= next;
  }
  return true;
}

/// Clips the gradients of torch's parameters.  Its functions change nothing where a gradient is not a plain, dense tensor of
/// the CPU in one of these dtypes, or where two share memory.
class TensorClip {
 public:
  /// plain: torch.Tensor; increment_version: torch's function, called with a list of tensors before they are written.
  TensorClip(const Kernels& kernels, const py::capsule& table, py::type plain, py::function increment_version)
      : kernels_(kernels),
        table_(dlpack::table_of(table)),
        plain_(std::move(plain)),
        increment_version_(std::move(increment_version)) {}

  /// (norm, dtype), or None if nothing can be done; dtype is the number of the one to which torch promotes those of all
  /// gradients: float32, float64, float16, bfloat16.
  py::object norm(const py::list& params, double most, bool strict) const {
    Found found;
    if (!find(params, found) || found.held.empty()) return py::none();
    const double norm = without_lock(kernels_, found.all, [&] { return kernels_.run<&Gradients::norm>(found.all); });
    const std::size_t dtype = promoted(found.dtypes);
    if (strict && !(norm < kTensorDtypes[dtype].infinite))
      throw std::runtime_error(
          "The total norm of order 2.0 for gradients from `parameters` is non-finite, so it cannot be clipped. To "
          "disable this error and scale the gradients by the non-finite norm anyway, set `error_if_nonfinite=False`");
    const double factor = clip_factor(most, norm);
    if (factor != 1) {
      increment_version_(found.held);
      without_lock(kernels_, found.all, [&] { kernels_.run<&Gradients::scale>(found.all, factor); });
    }
    return py::make_tuple(norm, dtype);
  }

  bool value(const py::list& params, double limit) const {
    Found found;
    if (!find(params, found) || found.held.empty()) return false;
    increment_version_(found.held);
    without_lock(kernels_, found.all, [&] { kernels_.run<&Gradients::clip>(found.all, limit); });
    return true;
  }

 private:
  struct Found {
    Gradients all;
    py::list held;
    unsigned dtypes = 0;  ///< a bit for each
    std::vector<Spans::Extent> extents;
  };

  bool find(const py::list& params, Found& found) const {
    static PyObject* const grad = PyUnicode_InternFromString("grad");
    found.all.reserve(params.size());
    found.extents.reserve(params.size());
    for (std::size_t i = 0; i < params.size(); ++i) {
      const auto object = py::reinterpret_steal<py::object>(PyObject_GetAttr(item(params, i), grad));
      if (!object) throw py::error_already_set();
      if (object.is_none()) continue;
      if (reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) != plain_.ptr() || !add(object, found)) return false;
    }
    return are_apart(found.extents);
  }

  bool add(const py::object& object, Found& found) const {
    dlpack::Tensor tensor;
    if (!dlpack::read(*table_, object.ptr(), tensor)) return false;
    std::size_t dtype = 0;
    while (!(kTensorDtypes[dtype].type == tensor.dtype))
      if (++dtype == kTensorDtypes.size()) return false;
    found.held.append(object);
    found.dtypes |= 1U << dtype;
    std::int64_t size = 1;
    for (std::int32_t axis = 0; axis < tensor.ndim; ++axis) size *= tensor.shape[axis];
    if (size == 0) return true;
    char* const data = static_cast<char*>(tensor.data) + tensor.byte_offset;
    const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(data), itemsize = tensor.dtype.bits / 8U;
    if (tensor.data == nullptr || begin % itemsize != 0 || !is_dense(tensor, size)) return false;
    const auto count = static_cast<std::size_t>(size);
    kernels_.run<&Gradients::add>(found.all, data, count, kTensorDtypes[dtype].wide, kTensorDtypes[dtype].format,
                                  nullptr);
    found.extents.push_back({begin, begin + count * itemsize});
    return true;
  }

  static bool are_apart(std::vector<Spans::Extent>& extents) {
    std::sort(extents.begin(), extents.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < extents.size(); ++i)
      if (extents[i].begin < extents[i - 1].end) return false;
    return true;
  }

  static std::size_t promoted(unsigned dtypes) {
    if ((dtypes & 2U) != 0) return 1;
    return dtypes == 4 ? 2 : dtypes == 8 ? 3 : 0;
  }

  const Kernels& kernels_;
  const dlpack::Table* table_;
  py::type plain_;
  py::function increment_version_;
};

}  // namespace

void bind_clips(py::module_& m) {
  py::class_<TensorClip>(m, "TensorClip", py::module_local(), "Clips the gradients of torch's parameters.")
      .def("norm", &TensorClip::norm, py::arg("params"), py::arg("max_norm"), py::arg("error_if_nonfinite"),
           "Clips by the norm and returns it with the number of its dtype, or does nothing and returns None.")
      .def("value", &TensorClip::value, py::arg("params"), py::arg("clip_value"),
           "Clips by value, or does nothing and returns False.");
}

void bind_clip(py::module_& m, const Kernels& kernels) {
  bind_functions(m, kernels, kClips);
  bind_subclass<TensorClip, py::capsule, py::type, py::function>(m, kernels, "TensorClip", py::arg("table"),
                                                                 py::arg("plain"), py::arg("increment_version"));
}

}  // namespace fastopt
