/// Functions of arrays that Python calls.  A table has their names and the names of their arguments; a call reads
/// arguments by name and checks them before anything is written.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bind/arrays.hpp"
#include "core/number.hpp"
#include "library/functions.hpp"

namespace fastopt {

using Shape = std::vector<std::ptrdiff_t>;

/// The dtype in which numbers of a dtype are computed.
inline Dtype computed_with(Dtype dtype) { return dtype == Dtype::float64 ? Dtype::float64 : Dtype::float32; }

/// Calls body(S{}) with the type in which numbers of a dtype are stored.
template <class Body> auto with_storage(Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::float64:
      return body(double{});
    case Dtype::float16:
      return body(float16{});
    case Dtype::bfloat16:
      return body(bfloat16{});
    default:
      return body(float{});
  }
}

/// Calls body(T{}) with the type that numbers of float32 or float64 have.
template <class Body> auto with_computed(Dtype dtype, Body&& body) {
  return dtype == Dtype::float64 ? body(double{}) : body(float{});
}

/// Whether the object is a bool, Python's or NumPy's.
bool is_bool(py::handle object);

class Call;

/// One line of the table of functions.  Python passes all arguments by position, in this order.
struct Function {
  const char* name;
  std::vector<std::string_view> arguments;
  py::object (*run)(Call&);
};

/// Makes the functions of the table functions of the module, which call these kernels, and adds their arguments to its
/// `signatures`.  Kernels and table must live for ever.
void bind_functions(py::module_& m, const Kernels& kernels, const std::vector<Function>& table);

/// One call.  Arguments are read and checked one by one; expect_disjoint() is the last check.
class Call {
 public:
  Call(const Function& function, const Kernels& kernels, std::span<PyObject* const> arguments);

  /// Calls a kernel.
  template <auto function, class... Arguments> decltype(auto) run(Arguments&&... arguments) const {
    return kernels_.run<function>(std::forward<Arguments>(arguments)...);
  }
  const Kernels& kernels() const { return kernels_; }

  bool has(std::string_view argument) const { return find(argument) < arguments_->size(); }
  py::handle operator[](std::string_view argument) const;

  Name name(std::string_view argument) const { return {function_, argument}; }
  std::string text(std::string_view argument) const { return name(argument).text(); }

  /// An array that is only read, of any layout.
  Array read(const char* argument);
  /// The same, with a given dtype and shape.
  Array read(const char* argument, Dtype dtype, const Shape& shape);

  /// An array of indices that is only read, of a dtype, and of a shape where one is given; contiguous, or a copy that is,
  /// unless any layout will do.
  Array indices(const char* argument, Dtype dtype, const Shape* shape = nullptr, bool contiguous = true);

  /// For error texts: parameters and statistics must fit the channels of x, the array that was read first.  They lie
  /// along `axis`, which is the value of the argument `argument`.
  void channels_along(std::ptrdiff_t axis, const char* argument) { channel_axis_ = axis, axis_name_ = argument; }

  /// A contiguous array of a given dtype and shape; nothing if it is None, or if the function has no such argument.  An
  /// array that is only read and is not contiguous is copied.
  std::optional<Array> optional(const char* argument, Dtype dtype, const Shape& shape, bool written = false);
  Array required(const char* argument, Dtype dtype, const Shape& shape, bool written = false);
  /// A number that is counted up: an int64 array without axes, in [0, 2⁵³); null if the argument is None.
  std::int64_t* counter(const char* argument);

  /// A number in [low, high].
  double number(const char* argument, double low, double high, const char* constraint) const;
  double eps() const;
  /// One for both axes of images, or one for each, of at least `least`.
  std::array<std::ptrdiff_t, 2> integers(const char* argument, std::ptrdiff_t least) const;
  std::ptrdiff_t integer(const char* argument) const { return integer((*this)[argument], argument); }
  /// An integer that is part of an argument.
  std::ptrdiff_t integer(py::handle object, const char* argument) const;
  bool flag(const char* argument) const;

  /// Reads the argument `out`, which may give some of the results: an array for one result, otherwise a tuple.
  void results(std::size_t count);
  /// Result number i: the given array, or the one that `make` makes.
  template <class Make> py::object result(std::size_t i, Dtype dtype, const Shape& shape, const Make& make) {
    return given_[i].is_none() ? make() : given(i, dtype, shape);
  }
  py::object contiguous_result(std::size_t i, Dtype dtype, const Shape& shape);
  /// contiguous_result if `wanted`; otherwise the result must not be given.
  py::object result_if(bool wanted, std::size_t i, Dtype dtype, const Shape& shape, const char* why_not);
  /// Whether `out` has an array for result number i.
  bool has_result(std::size_t i) const { return !given_[i].is_none(); }
  Name result_name(std::size_t i) const { return name(result_names_[i]); }

  /// The last check.  `in_place`: a result may be one of the arrays that are only read.
  void expect_disjoint(bool in_place = false) { spans_.expect_disjoint(function_, in_place); }

 private:
  /// The position of an argument; the number of arguments if there is no such argument.
  std::size_t find(std::string_view argument) const;
  /// The array, or a copy if its elements are not aligned.
  Array aligned(const char* argument);
  py::object given(std::size_t i, Dtype dtype, const Shape& shape);
  /// Raises TypeError or ValueError if the dtype or the shape is another one; the text says why, and what to do.
  void expect_fitting(const Array& array, const char* argument, Dtype dtype, const Shape& shape) const;
  std::string why_channels(const Array& array, const Shape& expected) const;

  const Kernels& kernels_;
  const char* function_;
  const std::vector<std::string_view>* arguments_;
  std::span<PyObject* const> given_arguments_;
  mutable std::size_t next_ = 0;  ///< the argument that is usually read next
  std::optional<Array> x_;        ///< the array that was read first; the others must fit it
  const char* x_name_ = nullptr;
  std::ptrdiff_t channel_axis_ = -1;
  const char* axis_name_ = nullptr;
  std::vector<py::object> given_, copies_;
  std::vector<std::string> result_names_;
  Spans spans_;
};

/// An array that is only read, as it was when it was checked: reading later arguments may run Python code, which may change
/// it.
struct Input {
  Dtype dtype;
  Shape shape;
  Rows rows;
  const void* data;
  std::size_t size;

  Input(const Array& array, Rows its_rows)
      : dtype(array.dtype()),
        shape(array.shape()),
        rows(std::move(its_rows)),
        data(array.data<void>()),
        size(array.size()) {}
  template <class T> const T* at() const { return static_cast<const T*>(data); }
};

/// The strides of an array without gaps whose axes lie in memory in this order, outermost first.
Shape strides_in(const Shape& order, const Shape& shape, Dtype dtype);

/// A new array, with the strides of C order if none are given.
py::object fresh(Dtype dtype, const Shape& shape, const Shape& strides = {});

template <class T> T* data_of(const std::optional<Array>& array) { return array ? array->data<T>() : nullptr; }
template <class T> T* data_of(const py::object& array) {
  return array.is_none() ? nullptr : reinterpret_cast<T*>(py::detail::array_proxy(array.ptr())->data);
}

}  // namespace fastopt
