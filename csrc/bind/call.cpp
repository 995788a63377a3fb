#include "bind/call.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "bind/memory.hpp"
#include "bind/once.hpp"

namespace fastopt {

namespace {

/// NumPy's type of bools.
PyTypeObject* numpy_bool() {
  static constinit Once type;
  return reinterpret_cast<PyTypeObject*>(type.get([] { return py::object(py::dtype("bool").attr("type")); }).ptr());
}

/// An attribute, or something else if there is none.
py::object attribute(py::handle object, const char* name, py::object otherwise) {
  PyObject* const found = PyObject_GetAttrString(object.ptr(), name);
  if (found != nullptr) return py::reinterpret_steal<py::object>(found);
  if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) throw py::error_already_set();
  PyErr_Clear();
  return otherwise;
}

/// Clears the error that Python raised because a value has the wrong type, and returns whether the value was too large.
/// Any other error, such as an interrupt, is rethrown.
bool clear_refusal() {
  const bool too_large = PyErr_ExceptionMatches(PyExc_OverflowError) != 0;
  if (!too_large && PyErr_ExceptionMatches(PyExc_TypeError) == 0 && PyErr_ExceptionMatches(PyExc_ValueError) == 0 &&
      PyErr_ExceptionMatches(PyExc_RuntimeError) == 0)
    throw py::error_already_set();
  PyErr_Clear();
  return too_large;
}

/// Whether the object counts as one number.  A bool, a string, a complex number or an array with axes does not, though
/// Python would convert it.
bool is_one_number(py::handle object) {
  if (PyFloat_Check(object.ptr())) return true;
  if (is_bool(object)) return false;
  if (PyLong_Check(object.ptr())) return true;
  if (!attribute(object, "ndim", py::int_(0)).equal(py::int_(0)) || is_masked(object)) return false;
  const py::object kind = attribute(attribute(object, "dtype", py::none()), "kind", py::none());
  return kind.is_none() || py::str("iuf").attr("__contains__")(kind).cast<bool>();
}

/// Whether the argument has the dtype that is computed with.  All others are statistics, in float64.
bool is_parameter(std::string_view argument) {
  for (const std::string_view one : {"weight", "bias", "running_mean", "running_var", "g"})
    if (argument == one) return true;
  return false;
}

}  // namespace

bool is_bool(py::handle object) { return PyBool_Check(object.ptr()) || Py_TYPE(object.ptr()) == numpy_bool(); }

namespace {

/// A line of the table, and the kernels that it calls.
struct Bound {
  const Function& function;
  const Kernels& kernels;
};

/// The entry for Python; self is a capsule with a Bound.  It bypasses pybind11's dispatch, which costs as
/// much as all checks of a small call.
PyObject* call_function(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  const auto& bound = *static_cast<const Bound*>(PyCapsule_GetPointer(self, nullptr));
  try {
    Call call(bound.function, bound.kernels, {arguments, static_cast<std::size_t>(count)});
    return bound.function.run(call).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

}  // namespace

void bind_functions(py::module_& m, const Kernels& kernels, const std::vector<Function>& table) {
  py::dict signatures = py::hasattr(m, "signatures") ? py::dict(m.attr("signatures")) : py::dict();
  for (const Function& function : table) {
    // These live as long as the module, which is never unloaded.
    auto* const method = new PyMethodDef{
        function.name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&call_function)), METH_FASTCALL, nullptr};
    const py::capsule line(static_cast<const void*>(new Bound{function, kernels}));
    m.attr(function.name) = py::reinterpret_steal<py::object>(PyCFunction_New(method, line.ptr()));
    py::tuple names(function.arguments.size());
    for (std::size_t i = 0; i < names.size(); ++i) names[i] = py::str(std::string(function.arguments[i]));
    signatures[function.name] = names;
  }
  m.attr("signatures") = signatures;
}

Call::Call(const Function& function, const Kernels& kernels, std::span<PyObject* const> arguments)
    : kernels_(kernels), function_(function.name), arguments_(&function.arguments), given_arguments_(arguments) {
  if (arguments.size() != arguments_->size())
    throw py::type_error(std::string(function_) + ": takes " + std::to_string(arguments_->size()) + " arguments, got " +
                         std::to_string(arguments.size()));
}

std::size_t Call::find(std::string_view argument) const {
  const std::vector<std::string_view>& all = *arguments_;
  if (next_ < all.size() && all[next_] == argument) return next_++;
  if (next_ > 0 && all[next_ - 1] == argument) return next_ - 1;
  const auto found = static_cast<std::size_t>(std::find(all.begin(), all.end(), argument) - all.begin());
  if (found < all.size()) next_ = found + 1;
  return found;
}

py::handle Call::operator[](std::string_view argument) const {
  const std::size_t i = find(argument);
  if (i == arguments_->size()) throw std::logic_error(std::string(function_) + " has no " + std::string(argument));
  return given_arguments_[i];
}

Array Call::read(const char* argument) {
  const Array array = aligned(argument);
  if (!x_) {
    x_ = array;
    x_name_ = argument;
  }
  return array;
}

Array Call::aligned(const char* argument) {
  expect_no_integers((*this)[argument], name(argument), "float32, float64, float16 or bfloat16");
  const Array array((*this)[argument], name(argument), Accepted::floats, Alignment::any);
  if (array.aligned()) {
    spans_.add(array, argument, false);
    return array;
  }
  copies_.push_back(copy_of(array, "K"));
  return Array(copies_.back(), name(argument), Accepted::floats);
}

Array Call::indices(const char* argument, Dtype dtype, const Shape* shape, bool contiguous) {
  const Array array((*this)[argument], name(argument), Accepted::indices, Alignment::any);
  expect_dtype(array, dtype, name(argument));
  if (shape) expect_shape(array, *shape, name(argument));
  spans_.add(array, argument, false);
  if (array.aligned() && (array.contiguous() || !contiguous)) return array;
  copies_.push_back(copy_of(array));
  return Array(copies_.back(), name(argument), Accepted::indices);
}

Array Call::read(const char* argument, Dtype dtype, const Shape& shape) {
  const Array array = read(argument);
  if (array.dtype() != dtype) {
    const std::string x = x_name_;
    const bool either = dtype == Dtype::float64 && array.dtype() == Dtype::float32;  // x has NumPy's default dtype
    throw py::type_error(text(argument) + " has dtype " + name_of(array.dtype()) + ", expected " + name_of(dtype) +
                         ", as " + x + " has: pass " + argument + ".astype(" + x + ".dtype)" +
                         (either ? ", or " + x + ".astype(np.float32)" : ""));
  }
  expect_shape(array, shape, name(argument));
  return array;
}

void Call::expect_fitting(const Array& array, const char* argument, Dtype dtype, const Shape& shape) const {
  const Dtype given = array.dtype(), of_x = x_ ? x_->dtype() : dtype;
  if (given != dtype) {
    if (!x_ || !is_parameter(argument)) expect_dtype(array, dtype, name(argument));
    const std::string x = x_name_, its_dtype = " has dtype ", parameter = argument;
    if (of_x == Dtype::float64 && given == Dtype::float32)  // NumPy's default dtype is float64
      throw py::type_error(text(x) + its_dtype + "float64, but " + parameter + its_dtype + "float32: pass " + x +
                           ".astype(np.float32), or " + parameter + " in float64 (a layer's with dtype=np.float64)");
    throw py::type_error(text(argument) + its_dtype + name_of(given) + ", expected " + name_of(dtype) + ", as " + x +
                         its_dtype + name_of(of_x) + ": pass " + parameter + ".astype(np." + name_of(dtype) + ")" +
                         (given == Dtype::float64 ? ", or " + x + ".astype(np.float64)" : ""));
  }
  if (array.shape() != shape)
    throw py::value_error(text(argument) + " has shape " + text_of(array.shape()) + ", expected " + text_of(shape) +
                          why_channels(array, shape));
}

std::string Call::why_channels(const Array& array, const Shape& expected) const {
  if (!axis_name_) return "";
  const bool is_dim = std::string_view(axis_name_) == "dim";
  if (expected.size() != 1 && !is_dim) return "";
  std::string why = std::string(", as ") + x_name_ + " of shape " + text_of(x_->shape()) + " has " +
                    std::to_string(x_->shape(channel_axis_)) + (is_dim ? "" : " channels") + " on axis " +
                    std::to_string(channel_axis_) + ", the " + axis_name_;
  if (array.ndim() != 1) return why;
  for (const std::ptrdiff_t axis : {std::ptrdiff_t{1}, std::ptrdiff_t{-1}})  // where channels usually are
    if (x_->ndim() > 1 && x_->shape(axis < 0 ? x_->ndim() - 1 : axis) == array.shape(0))
      return why + "; is it " + axis_name_ + "=" + std::to_string(axis) + "?";
  return why;
}

std::optional<Array> Call::optional(const char* argument, Dtype dtype, const Shape& shape, bool written) {
  if (!has(argument) || (*this)[argument].is_none()) return std::nullopt;
  return required(argument, dtype, shape, written);
}

Array Call::required(const char* argument, Dtype dtype, const Shape& shape, bool written) {
  const py::handle object = (*this)[argument];
  if (object.is_none()) throw py::type_error(text(argument) + " must be a numpy array, got None");
  if (written) {
    const Array array(object, name(argument), Accepted::floats);
    if (array.dtype() != dtype || array.shape() != shape) expect_fitting(array, argument, dtype, shape);
    expect_contiguous(array, name(argument));
    expect_writeable(array, name(argument));
    spans_.add(array, argument, true);
    return array;
  }
  const Array array = aligned(argument);
  if (array.dtype() != dtype || array.shape() != shape) expect_fitting(array, argument, dtype, shape);
  if (array.contiguous()) return array;
  copies_.push_back(copy_of(array));
  return Array(copies_.back(), name(argument), Accepted::floats);
}

std::int64_t* Call::counter(const char* argument) {
  const py::handle object = (*this)[argument];
  if (object.is_none()) return nullptr;
  const Array array(object, name(argument), Accepted::indices);
  expect_dtype(array, Dtype::int64, name(argument));
  expect_shape(array, {}, name(argument));
  expect_writeable(array, name(argument));
  auto* const count = array.data<std::int64_t>();
  if (*count < 0 || *count >= std::int64_t{1} << 53)
    throw py::value_error(text(argument) + " must be in [0, 2**53), got " + std::to_string(*count));
  spans_.add(array, argument, true);
  return count;
}

double Call::number(const char* argument, double low, double high, const char* constraint) const {
  const py::handle object = (*this)[argument];
  if (!is_one_number(object))
    throw py::type_error(text(argument) + " must be a number, got " + std::string(py::repr(object)));
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1 && PyErr_Occurred()) {
    if (!clear_refusal())
      throw py::type_error(text(argument) + " must be a number, got " + std::string(py::repr(object)));
    throw py::value_error(text(argument) + " must be " + constraint + ", got " + std::string(py::str(object)));
  }
  if (!(value >= low && value <= high))
    throw py::value_error(text(argument) + " must be " + constraint + ", got " + std::string(py::str(object)));
  return value;
}

double Call::eps() const { return number("eps", 0, std::numeric_limits<double>::max(), "finite and >= 0"); }

std::ptrdiff_t Call::integer(py::handle object, const char* argument) const {
  const Py_ssize_t value = is_bool(object) ? -1 : PyNumber_AsSsize_t(object.ptr(), PyExc_OverflowError);
  if (value != -1 || (!PyErr_Occurred() && !is_bool(object))) return value;
  if (PyErr_Occurred() != nullptr && clear_refusal())
    throw py::value_error(text(argument) + " must be in [-2**63, 2**63), got " + std::string(py::str(object)));
  throw py::type_error(text(argument) + " must be an integer, got " + std::string(py::repr(object)));
}

std::array<std::ptrdiff_t, 2> Call::integers(const char* argument, std::ptrdiff_t least) const {
  const py::handle object = (*this)[argument];
  std::array<std::ptrdiff_t, 2> both;
  if (PyTuple_Check(object.ptr()) || PyList_Check(object.ptr())) {
    if (py::len(object) != 2)
      throw py::value_error(text(argument) + " must be an integer or two of them, got " +
                            std::string(py::repr(object)));
    for (std::size_t i = 0; i < 2; ++i) both[i] = integer(object[py::int_(i)], argument);
  } else {
    both.fill(integer(argument));
  }
  if (std::ranges::min(both) < least)
    throw py::value_error(text(argument) + " must be >= " + std::to_string(least) + ", got " +
                          std::string(py::repr(object)));
  if (std::ranges::max(both) > (1 << 30))
    throw py::value_error(text(argument) + " must be at most 2**30, got " + std::string(py::repr(object)));
  return both;
}

bool Call::flag(const char* argument) const {
  const py::handle object = (*this)[argument];
  if (!is_bool(object)) throw py::type_error(text(argument) + " must be a bool, got " + std::string(py::repr(object)));
  return PyObject_IsTrue(object.ptr()) == 1;
}

void Call::results(std::size_t count) {
  const py::handle out = (*this)["out"];
  given_.assign(count, py::none());
  result_names_.assign(count, "out");
  if (count == 1) {
    given_[0] = py::reinterpret_borrow<py::object>(out);
    return;
  }
  for (std::size_t i = 0; i < count; ++i) result_names_[i].append("[").append(std::to_string(i)).append("]");
  if (out.is_none()) return;
  if (!py::isinstance<py::tuple>(out) || py::len(out) != count)
    throw py::type_error(text("out") + " must be a tuple of " + std::to_string(count) +
                         ", with None for results that are wanted new");
  const auto tuple = py::reinterpret_borrow<py::tuple>(out);
  for (std::size_t i = 0; i < count; ++i) given_[i] = tuple[i];
}

py::object Call::given(std::size_t i, Dtype dtype, const Shape& shape) {
  const Name called = result_name(i);
  const Array array(given_[i], called, dtype == Dtype::int32 ? Accepted::indices : Accepted::floats);
  expect_dtype(array, dtype, called);
  expect_shape(array, shape, called);
  expect_writeable(array, called);
  spans_.add(array, result_names_[i], true);
  return given_[i];
}

py::object Call::contiguous_result(std::size_t i, Dtype dtype, const Shape& shape) {
  py::object object = result(i, dtype, shape, [&] { return fresh(dtype, shape); });
  expect_contiguous(Array(object, result_name(i), Accepted::floats), result_name(i));
  return object;
}

py::object Call::result_if(bool wanted, std::size_t i, Dtype dtype, const Shape& shape, const char* why_not) {
  if (wanted) return contiguous_result(i, dtype, shape);
  if (!given_[i].is_none()) throw py::value_error(result_name(i).text() + " is given, but " + why_not);
  return py::none();
}

Shape strides_in(const Shape& order, const Shape& shape, Dtype dtype) {
  Shape strides(shape.size());
  auto stride = static_cast<std::ptrdiff_t>(itemsize_of(dtype));
  for (auto axis = order.rbegin(); axis != order.rend(); ++axis) {
    const auto a = static_cast<std::size_t>(*axis);
    strides[a] = stride;
    stride *= std::max<std::ptrdiff_t>(shape[a], 1);
  }
  return strides;
}

py::object fresh(Dtype dtype, const Shape& shape, const Shape& strides) {
  const auto of = [&](const py::dtype& descr) -> py::object { return fresh_array(descr, shape, strides); };
  switch (dtype) {
    case Dtype::float32:
      return of(py::dtype::of<float>());
    case Dtype::float64:
      return of(py::dtype::of<double>());
    case Dtype::int32:
      return of(py::dtype::of<std::int32_t>());
    case Dtype::float16: {
      static constinit Once float16;
      return of(py::reinterpret_borrow<py::dtype>(float16.get([] { return py::dtype("float16"); })));
    }
    default: {
      static constinit Once bfloat16;
      return of(py::reinterpret_borrow<py::dtype>(
          bfloat16.get([] { return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16")); })));
    }
  }
}

}  // namespace fastopt
