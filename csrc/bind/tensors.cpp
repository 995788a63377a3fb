/// The gradients of torch's parameters as NumPy arrays, through DLPack's table of C functions.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bind/arrays.hpp"
#include "bind/dlpack.hpp"
#include "bind/module.hpp"

namespace fastopt {

namespace {

/// One tensor's place and form.
struct Form {
  const char* data = nullptr;
  dlpack::Type dtype{};
  std::vector<std::int64_t> shape, strides;

  bool is(const dlpack::Tensor& tensor) const {
    return data == static_cast<const char*>(tensor.data) + tensor.byte_offset && dtype == tensor.dtype &&
           laid_out_as(tensor);
  }
  bool laid_out_as(const dlpack::Tensor& tensor) const {
    return shape.size() == static_cast<std::size_t>(tensor.ndim) &&
           std::equal(shape.begin(), shape.end(), tensor.shape) &&
           std::equal(strides.begin(), strides.end(), tensor.strides);
  }
};

Form form_of(const dlpack::Tensor& tensor) {
  return {static_cast<const char*>(tensor.data) + tensor.byte_offset,
          tensor.dtype,
          {tensor.shape, tensor.shape + tensor.ndim},
          {tensor.strides, tensor.strides + tensor.ndim}};
}

/// Parameters of torch's and their gradients.  The arrays of the gradients stay from step to step; only where they point
/// changes.
class Tensors {
 public:
  /// plain: torch.Tensor, the type of gradients that have memory of their own; memories: the tensors that have the
  /// parameters' memory, which are the parameters or what they wrap; arrays: the same memory, with the axes in the order
  /// that `orders` says.
  Tensors(const py::capsule& table, py::type plain, const py::list& tensors, const py::list& memories,
          const py::list& arrays, const std::vector<std::vector<std::size_t>>& orders)
      : table_(dlpack::table_of(table)), plain_(std::move(plain)) {
    if (memories.size() != tensors.size() || arrays.size() != tensors.size() || orders.size() != tensors.size())
      throw py::value_error("Tensors: memories, arrays and orders must have one entry for each tensor");
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      One one{tensors[i], memories[i], py::dtype::from_args(py::object(arrays[i]).attr("dtype")), orders[i], {},
              {},         {}};
      dlpack::Tensor tensor;
      if (!read(one.memory.ptr(), tensor)) throw py::type_error("Tensors: not a tensor in the memory of the CPU");
      one.param = form_of(tensor);
      all_.push_back(std::move(one));
    }
  }

  /// (arrays, stepped, others): for each parameter its gradient as an array, or None; the parameters that have one; and
  /// the numbers of those whose gradient is no plain tensor of their dtype and comes as it is.  The arrays are valid until
  /// the next call or until release().  None if the groups hold other parameters than these, or if one of them is
  /// elsewhere in memory.
  py::object gradients(const py::list& groups) {
    release();
    if (!holds(groups)) return py::none();
    static PyObject* const grad = PyUnicode_InternFromString("grad");
    py::list arrays(all_.size()), stepped, others;
    for (std::size_t i = 0; i < all_.size(); ++i) {
      One& one = all_[i];
      dlpack::Tensor tensor;
      if (!read(one.memory.ptr(), tensor) || !one.param.is(tensor)) return py::none();
      auto object = py::reinterpret_steal<py::object>(PyObject_GetAttr(one.tensor.ptr(), grad));
      if (!object) throw py::error_already_set();
      if (!object.is_none()) {
        stepped.append(one.tensor);
        if (reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) == plain_.ptr() && read(object.ptr(), tensor) &&
            tensor.dtype == one.param.dtype && tensor.ndim == static_cast<std::int32_t>(one.order.size()) &&
            one.is_aligned(tensor) && !is_negated(object, tensor)) {
          held_.push_back(std::move(object));
          object = array(one, tensor);
        } else {
          others.append(i);
        }
      }
      PyList_SET_ITEM(arrays.ptr(), static_cast<Py_ssize_t>(i), object.release().ptr());
    }
    return py::make_tuple(arrays, stepped, others);
  }

  /// Lets go of the gradients.
  void release() { held_.clear(); }

 private:
  struct One {
    py::object tensor, memory;
    py::dtype dtype;
    std::vector<std::size_t> order;
    Form param;
    Form last;        // of the last gradient
    py::object grad;  // its array; null before the first one

    bool is_aligned(const dlpack::Tensor& gradient) const {
      const auto address = reinterpret_cast<std::uintptr_t>(gradient.data) + gradient.byte_offset;
      return address % static_cast<std::uintptr_t>(dtype.itemsize()) == 0;
    }
  };

  bool read(PyObject* object, dlpack::Tensor& tensor) const { return dlpack::read(*table_, object, tensor); }

  /// Whether a tensor's numbers are the negatives of those in its memory, which DLPack does not tell.  Only the imaginary
  /// parts of conjugates are, which are every second number.
  static bool is_negated(const py::object& object, const dlpack::Tensor& tensor) {
    std::int64_t dense = 1;
    bool contiguous = true;
    for (auto axis = tensor.ndim; axis-- > 0; dense *= tensor.shape[axis])
      contiguous = contiguous && (tensor.shape[axis] == 1 || tensor.strides[axis] == dense);
    if (contiguous && dense > 1) return false;
    static PyObject* const name = PyUnicode_InternFromString("is_neg");
    const auto negated = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object.ptr(), name));
    if (!negated) throw py::error_already_set();
    return negated.ptr() == Py_True;
  }

  bool holds(const py::list& groups) const {
    static PyObject* const key = PyUnicode_InternFromString("params");
    std::size_t i = 0;
    for (const py::handle group : groups) {
      PyObject* const params = PyDict_Check(group.ptr()) ? PyDict_GetItem(group.ptr(), key) : nullptr;
      if (params == nullptr || !PyList_Check(params)) return false;
      for (Py_ssize_t k = 0; k < PyList_GET_SIZE(params); ++k, ++i)
        if (i >= all_.size() || PyList_GET_ITEM(params, k) != all_[i].tensor.ptr()) return false;
    }
    return i == all_.size();
  }

  /// The array of a gradient: the one of the step before if it was laid out in the same way.
  static py::object array(One& one, const dlpack::Tensor& tensor) {
    char* const data = static_cast<char*>(tensor.data) + tensor.byte_offset;
    if (one.grad && one.last.laid_out_as(tensor)) {
      py::detail::array_proxy(one.grad.ptr())->data = data;
      return one.grad;
    }
    std::vector<py::ssize_t> shape, strides;
    for (const std::size_t axis : one.order) {
      shape.push_back(tensor.shape[axis]);
      strides.push_back(tensor.strides[axis] * one.dtype.itemsize());
    }
    one.grad = py::array(one.dtype, std::move(shape), std::move(strides), data, py::none());
    one.last = form_of(tensor);
    return one.grad;
  }

  const dlpack::Table* table_;
  py::type plain_;
  std::vector<One> all_;
  std::vector<py::object> held_;
};

}  // namespace

void bind_tensors(py::module_& m) {
  py::class_<Tensors>(m, "Tensors", py::module_local(), "torch's parameters and their gradients as arrays.")
      .def(py::init<const py::capsule&, py::type, const py::list&, const py::list&, const py::list&,
                    const std::vector<std::vector<std::size_t>>&>(),
           py::arg("table"), py::arg("plain"), py::arg("tensors"), py::arg("memories"), py::arg("arrays"),
           py::arg("orders"))
      .def(
          "gradients", &Tensors::gradients, py::arg("groups"),
          "For each parameter its gradient as an array, None, or the gradient itself; None if parameters have changed.")
      .def("release", &Tensors::release, "Lets go of the gradients.");
}

}  // namespace fastopt
