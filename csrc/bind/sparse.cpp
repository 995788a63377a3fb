/// The checks of gradients of few rows, and their sums.
#include "bind/sparse.hpp"
#include "bind/gil.hpp"

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "bind/module.hpp"
#include "bind/once.hpp"
#include "bind/plan.hpp"

namespace fastopt {

namespace {

constexpr std::size_t kAnyRows = std::numeric_limits<std::int64_t>::max();

/// Reads integers of type I, however they lie.
template <class I>
void read_as(const char* from, std::ptrdiff_t stride, const Name& name, std::size_t rows,
             std::vector<SparseRows::Place>& places) {
  for (std::size_t i = 0; i < places.size(); ++i, from += stride) {
    I index;
    std::memcpy(&index, from, sizeof index);
    if (index < 0 || static_cast<std::uint64_t>(index) >= rows)
      throw py::value_error(name.text() + "[" + std::to_string(i) + "] must be " +
                            (rows == kAnyRows ? "an int64 and at least 0" : "in [0, " + std::to_string(rows) + ")") +
                            ", got " + std::to_string(index));
    places[i] = {static_cast<std::size_t>(index), i};
  }
}

}  // namespace

bool is_sparse(py::handle object) {
  PyObject* module = PyDict_GetItemString(PyImport_GetModuleDict(), "fastopt._sparse");
  if (module == nullptr) return false;  // nobody can have made one
  static constinit Once type;
  const py::handle sparse = type.get([&] { return py::object(py::handle(module).attr("SparseRows")); });
  return PyType_IsSubtype(Py_TYPE(object.ptr()), reinterpret_cast<PyTypeObject*>(sparse.ptr())) != 0;
}

void read_indices(py::handle object, const Name& name, std::size_t count, std::size_t rows,
                  std::vector<SparseRows::Place>& places) {
  if (!py::isinstance<py::array>(object)) throw py::type_error(name.text() + " must be a numpy array");
  const auto indices = py::reinterpret_borrow<py::array>(object);
  const char kind = indices.dtype().kind();
  if ((kind != 'i' && kind != 'u') || indices.dtype().byteorder() == '>')
    throw py::type_error(name.text() + " has dtype " + std::string(py::str(indices.dtype().attr("str"))) +
                         ", expected integers in the machine's own byte order");
  if (indices.ndim() != 1) throw py::value_error(name.text() + " must have one axis");
  if (static_cast<std::size_t>(indices.shape(0)) != count)
    throw py::value_error(name.text() + " has " + std::to_string(indices.shape(0)) + " entries, expected " +
                          std::to_string(count) + ", one for each row of values");
  places.resize(count);
  const auto read = [&]<class I>(I) {
    read_as<I>(static_cast<const char*>(indices.data()), indices.strides(0), name, rows, places);
  };
  switch (indices.itemsize()) {
    case 1:
      return kind == 'i' ? read(std::int8_t{}) : read(std::uint8_t{});
    case 2:
      return kind == 'i' ? read(std::int16_t{}) : read(std::uint16_t{});
    case 4:
      return kind == 'i' ? read(std::int32_t{}) : read(std::uint32_t{});
    default:
      return kind == 'i' ? read(std::int64_t{}) : read(std::uint64_t{});
  }
}

std::string BoundPlan::why_not_lazily(std::size_t i, std::size_t width, const StepOptions& wish) const {
  const Member& member = plan_.members[i];
  if (!member.kernel->lazy) return "the rule needs every row in every step";
  if (wish.clip_adaptive >= 0) return "clip_adaptive needs every row's gradient";
  if (member.group < plan_.options.size()) {
    constexpr auto& names = Around::options;
    const auto at = std::find(names.begin(), names.end(), std::string_view("swa_start")) - names.begin();
    if (plan_.options[member.group][static_cast<std::size_t>(at)] > 0)
      return "swa_start averages all rows over the same steps";
  }
  for (const StoredArray& state : member.storage.state)
    if (width % kScaleBlock != 0 && (state.format == Format::moment8 || state.format == Format::square8))
      return "moments of 8 bits share an exponent between " + std::to_string(kScaleBlock) +
             " elements, which rows of " + std::to_string(width) + " are no multiple of";
  return {};
}

void BoundPlan::collect_rows(const py::object& object, std::size_t i, const StepOptions& wish,
                             std::vector<std::size_t>& zeroed) {
  const std::string of_values = labels_[i] + ".values", of_indices = labels_[i] + ".indices";
  const Name name{function_, "grads", of_values};
  const Checked& param = checked_[first_[i]];
  const std::ptrdiff_t* const expected = param.shape(shapes_);
  held_.push_back(object.attr("values"));
  const Array values(held_.back(), name, Accepted::floats, Alignment::any);
  expect_gradient_dtype(values, i, name);
  const Shape shape = values.shape();
  if (param.ndim() == 0)
    throw py::value_error(this->name("grads", i).text() + " is a SparseRows, but params" + labels_[i] +
                          " has no rows: it has no axes");
  if (shape.size() != param.ndim() || !std::equal(shape.begin() + 1, shape.end(), expected + 1)) {
    std::string rest;
    for (std::size_t axis = 1; axis < param.ndim(); ++axis) rest += ", " + std::to_string(expected[axis]);
    throw py::value_error(name.text() + " has shape " + text_of(shape) + ", expected (n" + (rest.empty() ? "," : rest) +
                          "), n rows as its parameter has");
  }
  const auto rows = static_cast<std::size_t>(expected[0]);
  if (sparse_count_ == sparse_.size()) sparse_.emplace_back();
  SparseRows& sparse = sparse_[sparse_count_++];
  sparse.width = 1;
  for (std::size_t axis = 1; axis < shape.size(); ++axis) sparse.width *= static_cast<std::size_t>(shape[axis]);
  sparse.lazy = !py::cast<bool>(object.attr("exact"));
  if (const std::string why = sparse.lazy ? why_not_lazily(i, sparse.width, wish) : std::string(); !why.empty())
    throw py::value_error(this->name("grads", i).text() + " cannot be taken row by row: " + why +
                          "; give a SparseRows with exact=True, or its .to_dense(" + std::to_string(rows) + ")");
  read_indices(object.attr("indices"), {function_, "grads", of_indices}, static_cast<std::size_t>(shape[0]), rows,
               sparse.places);
  sparse.format = format_of(values.dtype());
  sparse.values = values.data<void>();
  sparse.layout = nullptr;
  if (!values.aligned())
    sparse.values = py::detail::array_proxy(copies_.emplace_back(copy_of(values)).ptr())->data;
  else if (in_rows(values, i))
    sparse.layout = &rows_.emplace_back(elements_of(values));
  kernels_.run<&Plan::add_rows>(plan_, i, sparse, wish);
  shapes_.insert(shapes_.end(), shape.begin(), shape.end());
  grads_.emplace_back(values.object(), wish.zero_grads, shapes_.size() - shape.size());
  if (values.size() == 0 || plan_.members[i].size == 0) return;
  written_.expect_apart(values, name, hints_[i]);
  if (!wish.zero_grads) return;
  expect_zeroable(values, name);
  zeroed.push_back(held_.size() - 1);
  emptied_.push_back(held_.back());
}

namespace {

/// The indices that occur, in increasing order, and the sums of their values.
py::tuple coalesce(const Kernels& kernels, const std::string& function, py::handle indices, py::handle object) {
  const Name name{function, "values"};
  Array values(object, name, Accepted::floats, Alignment::any);
  if (values.ndim() == 0) throw py::value_error(name.text() + " must have an axis that counts rows");
  Shape shape = values.shape();
  SparseRows sparse;
  sparse.width = 1;
  for (std::size_t axis = 1; axis < shape.size(); ++axis) sparse.width *= static_cast<std::size_t>(shape[axis]);
  read_indices(indices, {function, "indices"}, static_cast<std::size_t>(shape[0]), kAnyRows, sparse.places);
  py::object copy;
  if (!values.aligned()) values = Array(copy = copy_of(values), name, Accepted::floats);
  sparse.format = format_of(values.dtype());
  sparse.values = values.data<void>();
  Rows layout;
  if (!values.contiguous() && values.size() != 0) {
    layout = elements_of(values);
    sparse.layout = &layout;
  }
  kernels.run<&SparseRows::group>(sparse);
  shape[0] = static_cast<std::ptrdiff_t>(sparse.count());
  py::array_t<std::int64_t> rows(shape[0]);
  for (std::size_t k = 0; k < sparse.count(); ++k) rows.mutable_data()[k] = static_cast<std::int64_t>(sparse.row(k));
  py::array sums;
  if (values.dtype() == Dtype::float64)
    sums = py::array_t<double>(shape);
  else
    sums = py::array_t<float>(shape);
  void* const to = sums.mutable_data();
  if (sparse.size() != 0) {
    const WithoutGil release;
    values.dtype() == Dtype::float64 ? kernels.run<&sum_rows<double>>(sparse, static_cast<double*>(to))
                                     : kernels.run<&sum_rows<float>>(sparse, static_cast<float*>(to));
  }
  return py::make_tuple(rows, sums);
}

}  // namespace

void bind_sparse(py::module_& m, const Kernels& kernels) {
  m.def("coalesce", bound(kernels, coalesce), py::arg("function"), py::arg("indices"), py::arg("values"),
        "The indices that occur, in increasing order, and the sums of their values.");
}

}  // namespace fastopt
