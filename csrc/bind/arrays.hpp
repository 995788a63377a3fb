/// Checks that NumPy arrays are fit for the kernels, with the error texts.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/rows.hpp"

namespace fastopt {

namespace py = pybind11;

enum class Dtype { float32, float64, float16, bfloat16, int8, uint8, int32, int64 };

template <class T> inline constexpr Dtype dtype_of = sizeof(T) == 4 ? Dtype::float32 : Dtype::float64;
const char* name_of(Dtype dtype);
std::size_t itemsize_of(Dtype dtype);
inline bool is_half(Dtype dtype) { return dtype == Dtype::float16 || dtype == Dtype::bfloat16; }

/// The name of an argument in an error: "layer_norm: weight", "AdamW: grads['bias']".  The text is put together only
/// when there is an error.
struct Name {
  std::string_view function, argument, item = {};
  std::string text() const { return std::string(function).append(": ").append(argument).append(item); }
};

/// Accepted dtypes: those that kernels compute with, those that parameters and gradients may have, these and those of codes
/// and their scales, or those of indices.
enum class Accepted { computed, floats, all, indices };

/// Whether elements must lie at multiples of their size.  In fields of records, or in bytes from a file, they may not.
enum class Alignment { needed, any };

/// A view of a NumPy array after the checks: it has an accepted dtype, is aligned, and is in native byte order.  The
/// view holds no reference: the caller's arguments keep the array alive.
class Array {
 public:
  /// Raises TypeError if `object` is not such an array.
  Array(py::handle object, const Name& name, Accepted accepted = Accepted::computed,
        Alignment alignment = Alignment::needed);

  Dtype dtype() const { return dtype_; }
  std::ptrdiff_t ndim() const { return proxy_->nd; }
  std::ptrdiff_t shape(std::ptrdiff_t axis) const { return proxy_->dimensions[axis]; }
  std::ptrdiff_t stride(std::ptrdiff_t axis) const { return proxy_->strides[axis]; }  ///< in bytes
  std::vector<std::ptrdiff_t> shape() const { return {proxy_->dimensions, proxy_->dimensions + proxy_->nd}; }
  bool has_shape_of(const Array& other) const;
  bool has_shape(const std::ptrdiff_t* shape, std::size_t ndim) const;
  std::size_t size() const;
  std::size_t itemsize() const { return itemsize_of(dtype_); }
  bool contiguous() const { return (proxy_->flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_) != 0; }
  bool aligned() const { return (proxy_->flags & kAligned) != 0; }
  bool writeable() const { return (proxy_->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) != 0; }
  template <class T> T* data() const { return reinterpret_cast<T*>(proxy_->data); }
  /// Whether some of its elements may lie at the same place, as in a broadcast array.
  bool may_overlap_itself() const;
  py::handle object() const { return {reinterpret_cast<PyObject*>(const_cast<py::detail::PyArray_Proxy*>(proxy_))}; }

 private:
  static constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;

  const py::detail::PyArray_Proxy* proxy_;
  Dtype dtype_;
};

/// Raises TypeError, with the way out, if `object` is an array of integers or bools.
void expect_no_integers(py::handle object, const Name& name, const char* expected);
/// Raises TypeError if the dtype is another one.
void expect_dtype(const Array& array, Dtype dtype, const Name& name);
/// Raises ValueError if the shape is another one.
void expect_shape(const Array& array, const std::vector<std::ptrdiff_t>& shape, const Name& name);
/// The first raises TypeError if the array is not C-contiguous; the second, for arrays that are written, if it is
/// read-only.
void expect_contiguous(const Array& array, const Name& name);
void expect_writeable(const Array& array, const Name& name);

/// Whether the object is one of NumPy's masked arrays.  Runs none of its code.
bool is_masked(py::handle object);

/// A copy without gaps, in C order or, with 'K', in the order of the array's memory.  It has NumPy's own type, so that
/// no code of a subclass runs.  Other threads may run meanwhile.
py::object copy_of(const Array& array, const char* order = "C");
/// Sets all elements to zero.  No code of a subclass runs, but other threads may.
void set_to_zero(py::handle array);

/// The elements of an array of any layout, in the order of its axes, in rows that are as long as the layout allows.
Rows elements_of(const Array& array);

using AxisList = std::span<const std::ptrdiff_t>;
/// Rows of an array of any layout: its `inner` axes together form a row, and its `outer` axes count the rows (both
/// outermost first).
Rows rows_of(const Array& array, AxisList outer, AxisList inner);
/// The axes [first, end).
inline AxisList axes_from(std::ptrdiff_t first, std::ptrdiff_t end) {
  static constexpr auto kAll = [] {
    std::array<std::ptrdiff_t, 64> all{};  // as many as NumPy allows
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::ptrdiff_t>(i);
    return all;
  }();
  return AxisList(kAll).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(end - first));
}
/// The stride of an axis in elements.
inline std::ptrdiff_t step_of(const Array& array, std::ptrdiff_t axis) {
  return array.stride(axis) / static_cast<std::ptrdiff_t>(array.itemsize());
}

std::string text_of(const std::vector<std::ptrdiff_t>& shape);

/// The memory of the arguments of one call.  It finds out whether a written argument overlaps another one.  The
/// arguments must live as long as this object.
class Spans {
 public:
  /// The bytes from the first one of an array to the one behind its last.
  struct Extent {
    std::uintptr_t begin, end;
  };

  static Extent extent(py::handle array);

  void add(const Array& array, std::string argument, bool written);
  /// Adds a NumPy array with one element, of any dtype, that is written.
  void add(py::handle array, std::string argument);
  /// Sorts the spans.  Raises ValueError if two arrays share memory and one of them is written, or if an array has
  /// moved because the code of a later argument has changed it.  `in_place`: an array that is written may also be one
  /// that is read, the same object.
  void expect_disjoint(std::string_view function, bool in_place = false);
  /// For use after expect_disjoint, when all arrays in it are written: raises ValueError if `read`, another array,
  /// shares memory with one of them.  `hint` is the place of `read` among them that was found last time; it is updated.
  void expect_apart(const Array& read, const Name& name, std::size_t& hint) const;

 private:
  struct Span : Extent {
    py::handle object;
    std::string argument;
    bool written, dense;
  };

  std::vector<Span> spans_;
  std::vector<Extent> sorted_;  // the extents of spans_, side by side
};

/// Whether two arrays with overlapping extents share an element.
bool share_memory(py::handle a, py::handle b);

}  // namespace fastopt
