/// The checks of gradients, which run at every step.
#include "bind/plan.hpp"
#include "bind/sparse.hpp"

namespace fastopt {

void BoundPlan::prefetch(std::size_t i, const py::list& grads) const {
  if (i < grads.size()) __builtin_prefetch(item(grads, i));
  const std::size_t sooner = i - kAhead / 2;  // its objects are in cache by now, so its shape can be found
  __builtin_prefetch(py::detail::array_proxy(params_[sooner])->dimensions);
  for (std::size_t c = first_[i]; c < last(i); ++c) checked_[c].prefetch();
}

bool BoundPlan::collect(const py::list& grads, const StepOptions& wish, bool hold) {
  hold = hold || wish.zero_grads;
  const std::size_t count = plan_.members.size();
  if (grads.size() != count)
    throw py::value_error(function_ + ": grads has " + std::to_string(grads.size()) + " entries, expected " +
                          std::to_string(count) + ", one for each parameter");
  plan_.begin();
  let_go();
  rows_.clear();
  rows_.reserve(count);
  sparse_count_ = 0;
  std::vector<std::size_t> zeroed;
  const bool shared = state_is_shared();
  bool others_ran = false;  // whether Python's code or other threads may have run meanwhile
  for (std::size_t i = 0; i < count; ++i) {
    if (i + kAhead < count) prefetch(i + kAhead, grads);
    if (grads.size() != count) return false;  // other code has changed it meanwhile
    py::handle object = item(grads, i);
    if (object.is_none()) continue;
    if (!unchanged(i)) return false;
    const Member& member = plan_.members[i];
    if (shared && !counts_[i].unchanged(shapes_)) return false;
    if (shared && (*member.step < 0 || *member.step >= kMostSteps))
      throw py::value_error(name("step", i).text() + " must be in [0, 2**53), got " + std::to_string(*member.step));
    const bool exact = Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_;
    if (!hold && !(exact && is_simple(object))) return collect(grads, wish, true);
    if (hold) {
      auto held = py::reinterpret_borrow<py::object>(object);
      if (!exact && is_sparse(held)) {
        others_ran = true;
        collect_rows(held, i, wish, zeroed);
        continue;
      }
      object = held_.emplace_back(exact ? std::move(held) : array(std::move(held), i, wish));
      others_ran = others_ran || !exact || !is_simple(object);
    }
    const Array grad(object, name("grads", i), Accepted::floats, Alignment::any);
    expect_gradient_dtype(grad, i, name("grads", i));
    const std::ptrdiff_t* const shape = checked_[first_[i]].shape(shapes_);
    const std::size_t ndim = checked_[first_[i]].ndim();
    if (!grad.has_shape(shape, ndim)) expect_shape(grad, Shape(shape, shape + ndim), name("grads", i));
    const Rows* rows = nullptr;
    const void* data = grad.data<void>();
    if (!grad.aligned())
      data = py::detail::array_proxy(copies_.emplace_back(copy_of(grad)).ptr())->data;
    else if (in_rows(grad, i))
      rows = &rows_.emplace_back(elements_of(grad));
    kernels_.run<&Plan::add>(plan_, i, data, format_of(grad.dtype()), rows, wish);
    if (hold) grads_.emplace_back(grad.object(), wish.zero_grads, checked_[first_[i]].shape());
    if (member.size == 0) continue;
    written_.expect_apart(grad, name("grads", i), hints_[i]);
    if (!wish.zero_grads) continue;
    expect_zeroable(grad, name("grads", i));
    zeroed.push_back(held_.size() - 1);
    if (!grad.aligned()) emptied_.push_back(held_.back());
  }
  if (!zeroed.empty()) expect_disjoint(zeroed);
  return !others_ran || nothing_moved();
}

void BoundPlan::expect_gradient_dtype(const Array& grad, std::size_t i, const Name& name) const {
  const Dtype computed = plan_.members[i].kernel->itemsize == sizeof(double) ? Dtype::float64 : Dtype::float32;
  if (grad.dtype() != computed && (computed != Dtype::float32 || !is_half(grad.dtype())))
    throw py::type_error(name.text() + " has dtype " + name_of(grad.dtype()) + ", expected " + name_of(computed) +
                         ", as its parameter has: pass " + std::string(name.argument) + std::string(name.item) +
                         ".astype(np." + name_of(computed) + ")");
}

void BoundPlan::expect_zeroable(const Array& grad, const Name& name) {
  if (!grad.writeable())
    throw py::type_error(name.text() + " is read-only, but would be zeroed; give a copy, or zero_grads=False");
  if (grad.may_overlap_itself())
    throw py::value_error(name.text() +
                          " has elements that share memory, and would be zeroed; give a copy, or zero_grads=False");
}

bool BoundPlan::nothing_moved() const {
  auto rows = rows_.begin();
  for (std::size_t k = 0; k < held_.size(); ++k) {
    const std::size_t i = plan_.which()[k];
    if (!unchanged(i) || !grads_[k].unchanged(shapes_)) return false;
    const Array grad(held_[k], name("grads", i), Accepted::floats, Alignment::any);
    if (in_rows(grad, i) && !(rows != rows_.end() && *rows++ == elements_of(grad))) return false;
  }
  return true;
}

bool BoundPlan::in_rows(const Array& grad, std::size_t i) const {
  return plan_.members[i].size != 0 && grad.aligned() && !grad.contiguous();
}

void BoundPlan::expect_disjoint(const std::vector<std::size_t>& which) const {
  struct Part : Spans::Extent {
    std::size_t index;
    bool dense;
  };
  std::vector<Part> parts, open;
  for (const std::size_t k : which) {
    const Array grad(held_[k], name("grads", plan_.which()[k]), Accepted::floats, Alignment::any);
    parts.push_back({Spans::extent(grad.object()), k, grad.contiguous()});
  }
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.begin < b.begin; });
  for (const Part& part : parts) {
    std::erase_if(open, [&](const Part& other) { return other.end <= part.begin; });
    for (const Part& other : open)
      if ((part.dense && other.dense) || share_memory(held_[part.index], held_[other.index]))
        throw py::value_error(name("grads", plan_.which()[part.index]).text() + " would be zeroed, but overlaps grads" +
                              labels_[plan_.which()[other.index]]);
    open.push_back(part);
  }
}

bool BoundPlan::is_simple(py::handle array) {
  constexpr int kSimple = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  return (py::detail::array_proxy(array.ptr())->flags & kSimple) == kSimple;
}

py::object BoundPlan::array(py::object object, std::size_t i, const StepOptions& wish) const {
  const py::module_ numpy = py::module_::import("numpy");
  if (!py::isinstance(object, numpy.attr("generic"))) return object;
  if (wish.zero_grads)
    throw py::type_error(name("grads", i).text() +
                         " is a scalar, which cannot be zeroed; give an array, or zero_grads=False");
  return numpy.attr("asarray")(object);
}

}  // namespace fastopt
