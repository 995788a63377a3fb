/// NumPy arrays as kernels want them: the checks and their error texts.
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

/// The name of an argument in an error: "layer_norm: weight", "AdamW: grads['bias']".  Costs nothing until there is
/// one.
struct Name {
  std::string_view function, argument, item = {};
  std::string text() const { return std::string(function).append(": ").append(argument).append(item); }
};

/// Which dtypes are meant: those that are computed with, those that parameters and gradients may have, these and those of
/// codes and their scales, or those of indices.
enum class Accepted { computed, floats, all, indices };

/// Whether elements must lie at multiples of their size.  Those of fields of records, or of bytes from a file, may not.
enum class Alignment { needed, any };

/// A view of one NumPy array that has been found to be one of ours: of an accepted dtype, aligned, in native byte
/// order. Holds no reference: the caller's arguments keep the array alive.
class Array {
 public:
  /// TypeError where `object` is not such an array.
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
  /// Whether some of its elements may lie at the same place, as those of a broadcast array do.
  bool may_overlap_itself() const;
  py::handle object() const { return {reinterpret_cast<PyObject*>(const_cast<py::detail::PyArray_Proxy*>(proxy_))}; }

 private:
  static constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;

  const py::detail::PyArray_Proxy* proxy_;
  Dtype dtype_;
};

/// TypeError where the dtype is another one.
void expect_dtype(const Array& array, Dtype dtype, const Name& name);
/// ValueError where the shape is another one.
void expect_shape(const Array& array, const std::vector<std::ptrdiff_t>& shape, const Name& name);
/// TypeError where the array is not C-contiguous; and for what is written, where it is read-only.
void expect_contiguous(const Array& array, const Name& name);
void expect_writeable(const Array& array, const Name& name);

/// Whether it is an instance of NumPy's masked arrays.  Runs none of its code.
bool is_masked(py::handle object);

/// A copy without gaps, in C order or, with 'K', in that of the array's memory; of NumPy's own type, so that no code of
/// a subclass runs.  Other threads may run meanwhile.
py::object copy_of(const Array& array, const char* order = "C");
/// Sets all elements to zero, likewise.
void set_to_zero(py::handle array);

/// The elements of an array of any layout, in the order of its axes, in rows that are as long as the memory allows.
Rows elements_of(const Array& array);

using AxisList = std::span<const std::ptrdiff_t>;
/// Rows of an array of any layout whose `inner` axes together are a row, and whose `outer` axes count rows (both
/// outermost first).
Rows rows_of(const Array& array, AxisList outer, AxisList inner);
/// Axes from `first` on, before `end`.
inline AxisList axes_from(std::ptrdiff_t first, std::ptrdiff_t end) {
  static constexpr auto kAll = [] {
    std::array<std::ptrdiff_t, 64> all{};  // as many as NumPy allows
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::ptrdiff_t>(i);
    return all;
  }();
  return AxisList(kAll).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(end - first));
}
/// Elements from one to the next along an axis.
inline std::ptrdiff_t step_of(const Array& array, std::ptrdiff_t axis) {
  return array.stride(axis) / static_cast<std::ptrdiff_t>(array.itemsize());
}

std::string text_of(const std::vector<std::ptrdiff_t>& shape);

/// The memory of the arguments of one call, to find out whether what is written overlaps anything else.  The arguments
/// must live as long.
class Spans {
 public:
  /// From the first byte of an array to behind its last one.
  struct Extent {
    std::uintptr_t begin, end;
  };

  static Extent extent(py::handle array);

  void add(const Array& array, std::string argument, bool written);
  /// A NumPy array with one element, of any dtype, that is written.
  void add(py::handle array, std::string argument);
  /// Sorts; ValueError where two share memory and one of them is written, or where one lies elsewhere now: code of
  /// later arguments has changed it.
  void expect_disjoint(std::string_view function);
  /// After expect_disjoint, where all are written: ValueError where a further array, which is read, shares memory with
  /// one.  `hint` says where the array was found to lie among these the last time, and is brought up to date.
  void expect_apart(const Array& read, const Name& name, std::size_t& hint) const;

 private:
  struct Span : Extent {
    py::handle object;
    std::string argument;
    bool written, dense;
  };

  std::vector<Span> spans_;
  std::vector<Extent> sorted_;  // those of spans_, close together
};

/// Whether two arrays, whose extents overlap, share an element.
bool share_memory(py::handle a, py::handle b);

}  // namespace fastopt
