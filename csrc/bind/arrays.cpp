#include "bind/arrays.hpp"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <utility>

#include "bind/once.hpp"

namespace fastopt {

namespace {

constexpr int kNumberOfFloat16 = 23, kFirstOfUsers = 256;  // from numpy/ndarraytypes.h

std::string text_of_type(py::handle object) { return py::str(py::type::handle_of(object).attr("__name__")); }

/// NumPy's type number of ml_dtypes' bfloat16; -1 as long as nobody has imported ml_dtypes.
int number_of_bfloat16() {
  static int number = -1;
  if (number < 0) {
    PyObject* module = PyDict_GetItemString(PyImport_GetModuleDict(), "ml_dtypes");
    if (module != nullptr)
      number = py::detail::array_descriptor_proxy(
                   py::dtype::from_args(py::reinterpret_borrow<py::object>(module).attr("bfloat16")).ptr())
                   ->type_num;
  }
  return number;
}

std::optional<Dtype> dtype_of_number(int number, Accepted accepted) {
  using api = py::detail::npy_api;
  if (accepted == Accepted::indices) {
    if (number == api::NPY_INT32_) return Dtype::int32;
    if (number == api::NPY_INT64_ || number == api::NPY_LONGLONG_) return Dtype::int64;
    return {};
  }
  if (number == api::NPY_FLOAT_) return Dtype::float32;
  if (number == api::NPY_DOUBLE_) return Dtype::float64;
  if (accepted == Accepted::computed) return {};
  if (number == kNumberOfFloat16) return Dtype::float16;
  if (number >= kFirstOfUsers && number == number_of_bfloat16()) return Dtype::bfloat16;
  if (accepted == Accepted::floats) return {};
  if (number == api::NPY_BYTE_) return Dtype::int8;
  if (number == api::NPY_UBYTE_) return Dtype::uint8;
  return {};
}

/// How to get an array of what is none.
std::string way_out_of(py::handle object) {
  if (!py::hasattr(object, "numpy")) return "";
  if (!py::getattr(object, "requires_grad", py::none()).is(py::bool_(true)))
    return ": give its .numpy(), which shares its memory";
  return ": give its .detach().numpy(), which shares its memory; for a model of torch there is fastopt.torch";
}

}  // namespace

bool is_masked(py::handle object) {
  PyObject* module = PyDict_GetItemString(PyImport_GetModuleDict(), "numpy.ma");
  if (module == nullptr) return false;
  static constinit Once type;
  const py::handle masked = type.get([&] { return py::object(py::handle(module).attr("MaskedArray")); });
  return PyType_IsSubtype(Py_TYPE(object.ptr()), reinterpret_cast<PyTypeObject*>(masked.ptr())) != 0;
}

const char* name_of(Dtype dtype) {
  constexpr const char* names[] = {"float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64"};
  return names[static_cast<int>(dtype)];
}

std::size_t itemsize_of(Dtype dtype) {
  constexpr std::size_t sizes[] = {4, 8, 2, 2, 1, 1, 4, 8};
  return sizes[static_cast<int>(dtype)];
}

Array::Array(py::handle object, const Name& name, Accepted accepted, Alignment alignment)
    : proxy_(py::detail::array_proxy(object.ptr())) {
  if (!py::detail::npy_api::get().PyArray_Check_(object.ptr()))
    throw py::type_error(name.text() + " must be a numpy array, got " + text_of_type(object) + way_out_of(object));
  if (Py_TYPE(object.ptr()) != py::detail::npy_api::get().PyArray_Type_ && is_masked(object))
    throw py::type_error(name.text() + " is a masked array, whose mask would be ignored: pass " +
                         std::string(name.argument) + std::string(name.item) + ".filled(...)");
  const auto* descr = py::detail::array_descriptor_proxy(proxy_->descr);
  if (const auto dtype = dtype_of_number(descr->type_num, accepted))
    dtype_ = *dtype;
  else
    throw py::type_error(name.text() + " has dtype " + std::string(py::str(object.attr("dtype"))) + ", expected " +
                         (accepted == Accepted::computed  ? "float32 or float64"
                          : accepted == Accepted::indices ? "int32 or int64"
                                                          : "float32, float64, float16 or bfloat16"));
  if (descr->byteorder != '=' && descr->byteorder != '|')
    throw py::type_error(name.text() + " has swapped byte order (dtype " +
                         std::string(py::str(object.attr("dtype").attr("str"))) + "), expected the machine's own");
  if (alignment == Alignment::needed && !aligned())
    throw py::type_error(name.text() +
                         " is not aligned: its elements do not lie at multiples of their size; give "
                         "numpy.require(array, requirements='CA')");
}

void expect_no_integers(py::handle object, const Name& name, const char* expected) {
  if (!py::detail::npy_api::get().PyArray_Check_(object.ptr())) return;
  const auto* array = py::detail::array_proxy(object.ptr());
  const int number = py::detail::array_descriptor_proxy(array->descr)->type_num;
  if (number >= 0 && number <= py::detail::npy_api::NPY_ULONGLONG_)
    throw py::type_error(name.text() + " has dtype " + std::string(py::str(object.attr("dtype"))) + ", expected " +
                         expected + ": pass " + std::string(name.argument) + std::string(name.item) +
                         ".astype(np.float32)");
}

std::size_t Array::size() const {
  std::size_t size = 1;
  for (std::ptrdiff_t axis = 0; axis < ndim(); ++axis) size *= static_cast<std::size_t>(shape(axis));
  return size;
}

std::string text_of(const std::vector<std::ptrdiff_t>& shape) {
  std::string text = "(";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) text += (axis ? ", " : "") + std::to_string(shape[axis]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

bool Array::may_overlap_itself() const {
  std::vector<std::pair<std::ptrdiff_t, std::ptrdiff_t>> axes;  // strides and counts
  for (std::ptrdiff_t axis = 0; axis < ndim(); ++axis) {
    if (shape(axis) == 0) return false;
    if (shape(axis) > 1) axes.emplace_back(std::abs(stride(axis)), shape(axis));
  }
  std::sort(axes.begin(), axes.end());
  auto extent = static_cast<std::ptrdiff_t>(itemsize());  // bytes that the axes so far take
  for (const auto& [stride, count] : axes) {
    if (stride < extent) return true;
    extent += stride * (count - 1);
  }
  return false;
}

bool Array::has_shape(const std::ptrdiff_t* shape, std::size_t ndim) const {
  return static_cast<std::size_t>(proxy_->nd) == ndim && std::equal(shape, shape + ndim, proxy_->dimensions);
}

bool Array::has_shape_of(const Array& other) const {
  return ndim() == other.ndim() &&
         std::equal(proxy_->dimensions, proxy_->dimensions + ndim(), other.proxy_->dimensions);
}

py::object copy_of(const Array& array, const char* order) {
  static constinit Once copy;
  return copy.get([] { return py::object(py::module_::import("numpy").attr("array")); })(
      array.object(), py::arg("copy") = true, py::arg("order") = order);
}

void set_to_zero(py::handle array) {
  static constinit Once fill;
  fill.get([] { return py::object(py::module_::import("numpy").attr("ndarray").attr("fill")); })(array, 0);
}

Rows elements_of(const Array& array) {
  Rows rows;
  rows.width = 0;
  if (array.size() == 0) return rows;  // one row without elements
  for (std::ptrdiff_t axis = array.ndim(); axis-- > 0;) {
    const auto count = static_cast<std::size_t>(array.shape(axis));
    if (count == 1) continue;
    const std::ptrdiff_t stride = step_of(array, axis);
    const auto continues = [&](std::size_t inner_count, std::ptrdiff_t inner) {
      return stride == static_cast<std::ptrdiff_t>(inner_count) * inner;
    };
    if (rows.width == 0) {
      rows.width = count;
      rows.step = stride;
    } else if (rows.axes.empty() ? continues(rows.width, rows.step)
                                 : continues(rows.axes.front().count, rows.axes.front().stride)) {
      (rows.axes.empty() ? rows.width : rows.axes.front().count) *= count;
    } else {
      rows.axes.insert(rows.axes.begin(), {count, stride});
    }
  }
  if (rows.width == 0) rows.width = 1;
  return rows;
}

Rows rows_of(const Array& array, AxisList outer, AxisList inner) {
  const bool empty = array.size() == 0;  // strides then mean nothing
  // Merges axes whose strides fit together and calls add(axis) for each merged axis, innermost first.
  const auto merge = [&](AxisList axes, const auto& add) {
    Rows::Axis merged{1, 0};
    for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
      const auto count = static_cast<std::size_t>(array.shape(*axis));
      if (count == 1) continue;
      const std::ptrdiff_t apart = empty ? 0 : step_of(array, *axis);
      if (merged.count != 1 && apart != static_cast<std::ptrdiff_t>(merged.count) * merged.stride) {
        add(merged);
        merged.count = 1;
      }
      if (merged.count == 1) merged.stride = apart;
      merged.count *= count;
    }
    return merged;
  };
  Rows rows;
  const auto outermost = [](std::vector<Rows::Axis>& of) {
    return [&of](const Rows::Axis& axis) { of.insert(of.begin(), axis); };
  };
  const Rows::Axis first = merge(outer, outermost(rows.axes)), run = merge(inner, outermost(rows.inner));
  if (first.count != 1) rows.axes.insert(rows.axes.begin(), first);
  rows.width = run.count;
  if (!rows.inner.empty()) {
    rows.inner.insert(rows.inner.begin(), run);
    for (std::size_t i = 1; i < rows.inner.size(); ++i) rows.width *= rows.inner[i].count;
  } else if (run.count != 1) {
    rows.step = run.stride;
  }
  if (empty) {
    rows.step = 1;
    rows.inner.clear();
  }
  return rows;
}

void expect_dtype(const Array& array, Dtype dtype, const Name& name) {
  if (array.dtype() != dtype)
    throw py::type_error(name.text() + " has dtype " + name_of(array.dtype()) + ", expected " + name_of(dtype));
}

void expect_shape(const Array& array, const std::vector<std::ptrdiff_t>& shape, const Name& name) {
  if (array.shape() != shape)
    throw py::value_error(name.text() + " has shape " + text_of(array.shape()) + ", expected " + text_of(shape));
}

void expect_contiguous(const Array& array, const Name& name) {
  if (!array.contiguous())
    throw py::type_error(
        name.text() +
        " must be C-contiguous; make a copy with numpy.ascontiguousarray(…), and use the copy from then on");
}

void expect_writeable(const Array& array, const Name& name) {
  if (!array.writeable()) throw py::type_error(name.text() + " is read-only, but would be written; give a copy");
}

Spans::Extent Spans::extent(py::handle array) {
  const auto* proxy = py::detail::array_proxy(array.ptr());
  auto begin = reinterpret_cast<std::uintptr_t>(proxy->data);
  auto end = begin + static_cast<std::uintptr_t>(py::detail::array_descriptor2_proxy(proxy->descr)->elsize);
  for (int axis = 0; axis < proxy->nd; ++axis) {
    const std::ptrdiff_t reach = (proxy->dimensions[axis] - 1) * proxy->strides[axis];
    (reach > 0 ? end : begin) += static_cast<std::uintptr_t>(reach);
  }
  return {begin, end};
}

void Spans::add(const Array& array, std::string argument, bool written) {
  if (array.size() != 0)
    spans_.push_back({extent(array.object()), array.object(), std::move(argument), written, array.contiguous()});
}

void Spans::add(py::handle array, std::string argument) {
  spans_.push_back({extent(array), array, std::move(argument), true, true});
}

void Spans::expect_disjoint(std::string_view function, bool in_place) {
  for (const Span& span : spans_)
    if (const Extent now = extent(span.object); now.begin != span.begin || now.end != span.end)
      throw py::value_error(std::string(function) + ": " + span.argument + " was changed while arguments were checked");
  std::sort(spans_.begin(), spans_.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  std::uintptr_t end = 0;
  const bool apart = std::all_of(spans_.begin(), spans_.end(), [&](const Span& span) {
    return std::exchange(end, std::max(end, span.end)) <= span.begin;
  });
  sorted_.assign(spans_.begin(), spans_.end());
  if (apart) return;
  std::vector<const Span*> open;  // spans that may end behind the beginning of the next one
  for (const Span& span : spans_) {
    std::erase_if(open, [&](const Span* other) { return other->end <= span.begin; });
    for (const Span* other : open) {
      if (!span.written && !other->written) continue;
      if (in_place && span.written != other->written && span.object.is(other->object)) continue;
      if (!(span.dense && other->dense) && !share_memory(span.object, other->object)) continue;
      const Span &target = other->written ? *other : span, &rest = other->written ? span : *other;
      throw py::value_error(std::string(function) + ": " + target.argument + " would be written, but overlaps " +
                            rest.argument);
    }
    open.push_back(&span);
  }
}

void Spans::expect_apart(const Array& read, const Name& name, std::size_t& hint) const {
  const Extent extent = Spans::extent(read.object());
  const std::size_t size = sorted_.size();
  if (!(hint <= size && (hint == 0 || sorted_[hint - 1].begin < extent.end) &&
        (hint == size || sorted_[hint].begin >= extent.end)))
    hint = static_cast<std::size_t>(
        std::lower_bound(sorted_.begin(), sorted_.end(), extent.end,
                         [](const Extent& span, std::uintptr_t end) { return span.begin < end; }) -
        sorted_.begin());
  auto after = sorted_.begin() + static_cast<std::ptrdiff_t>(hint);
  for (; after != sorted_.begin() && (after - 1)->end > extent.begin; --after) {
    const Span& span = spans_[static_cast<std::size_t>(after - 1 - sorted_.begin())];
    if (read.contiguous() || share_memory(read.object(), span.object))
      throw py::value_error(std::string(name.function) + ": " + span.argument + " would be written, but overlaps " +
                            std::string(name.argument).append(name.item));
  }
}

bool share_memory(py::handle a, py::handle b) {
  constexpr int most_work = 1'000'000;  // the limit of a search that is exponential for strange strides
  try {
    return py::cast<bool>(py::module_::import("numpy").attr("shares_memory")(a, b, most_work));
  } catch (py::error_already_set& error) {
    if (!error.matches(py::module_::import("numpy").attr("exceptions").attr("TooHardError"))) throw;
    return true;
  }
}

}  // namespace fastopt
