#include "bind/call.hpp"

#include <limits>

namespace fastopt {

Array Call::read(py::handle object, const char* argument) {
  const Array array(object, name(argument), Accepted::floats);
  spans_.add(array, argument, false);
  return array;
}

Array Call::read(py::handle object, const char* argument, Dtype dtype, const Shape& shape) {
  const Array array = read(object, argument);
  expect_dtype(array, dtype, name(argument));
  expect_shape(array, shape, name(argument));
  return array;
}

std::optional<Array> Call::optional(py::handle object, const char* argument, Dtype dtype, const Shape& shape,
                                    bool written) {
  if (object.is_none()) return std::nullopt;
  return required(object, argument, dtype, shape, written);
}

Array Call::required(py::handle object, const char* argument, Dtype dtype, const Shape& shape, bool written) {
  if (object.is_none()) throw py::type_error(text(argument) + " must be a numpy array, got None");
  const Array array(object, name(argument), Accepted::floats);
  expect_dtype(array, dtype, name(argument));
  expect_shape(array, shape, name(argument));
  if (written) {
    expect_contiguous(array, name(argument));
    expect_writeable(array, name(argument));
  }
  spans_.add(array, argument, written);
  if (array.contiguous()) return array;
  copies_.push_back(py::array::ensure(object, py::array::c_style));
  return Array(copies_.back(), name(argument), Accepted::floats);
}

double Call::number(py::handle object, const char* argument, double low, double high, const char* constraint) const {
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1 && PyErr_Occurred()) {
    const bool too_large = PyErr_ExceptionMatches(PyExc_OverflowError) != 0;
    PyErr_Clear();
    if (!too_large) throw py::type_error(text(argument) + " must be a number, got " + std::string(py::repr(object)));
    throw py::value_error(text(argument) + " must be " + constraint + ", got " + std::string(py::str(object)));
  }
  if (!(value >= low && value <= high))
    throw py::value_error(text(argument) + " must be " + constraint + ", got " + std::string(py::str(object)));
  return value;
}

double Call::eps(py::handle object) const {
  return number(object, "eps", 0, std::numeric_limits<double>::max(), "finite and >= 0");
}

std::ptrdiff_t Call::integer(py::handle object, const char* argument) const {
  const Py_ssize_t value = PyNumber_AsSsize_t(object.ptr(), nullptr);
  if (value == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(text(argument) + " must be an integer, got " + std::string(py::repr(object)));
  }
  return value;
}

bool Call::flag(py::handle object, const char* argument) const {
  if (!py::isinstance<py::bool_>(object) && !PyIndex_Check(object.ptr()) &&
      std::string(py::str(py::type::handle_of(object).attr("__name__"))) != "bool")
    throw py::type_error(text(argument) + " must be a bool, got " + std::string(py::repr(object)));
  const int truth = PyObject_IsTrue(object.ptr());
  if (truth < 0) {
    PyErr_Clear();
    throw py::type_error(text(argument) + " must be a bool, got " + std::string(py::repr(object)));
  }
  return truth == 1;
}

void Call::results(py::handle out, std::size_t count) {
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
  const Array array(given_[i], called, Accepted::floats);
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

py::object fresh(Dtype dtype, const Shape& shape, const Shape& strides) {
  const auto of = [&](const py::dtype& descr) -> py::object {
    return strides.empty() ? py::array(descr, shape) : py::array(descr, shape, strides);
  };
  switch (dtype) {
    case Dtype::float32:
      return of(py::dtype::of<float>());
    case Dtype::float64:
      return of(py::dtype::of<double>());
    case Dtype::float16: {
      static const auto& float16 = *new py::dtype("float16");
      return of(float16);
    }
    default: {
      static const auto& bfloat16 =
          *new py::dtype(py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16")));
      return of(bfloat16);
    }
  }
}

}  // namespace fastopt
