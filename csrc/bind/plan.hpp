/// `Plan` holds the members of an optimizer, checks them once, and takes steps with gradients.  `Turn` is the lock of
/// one optimizer.
#pragma once

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <deque>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "bind/arrays.hpp"
#include "bind/gil.hpp"
#include "bind/module.hpp"
#include "bind/sparse.hpp"
#include "core/threads/fork.hpp"
#include "core/threads/team.hpp"
#include "optim/plan.hpp"
#include "optim/rules.hpp"
#include "optim/sparse.hpp"

namespace fastopt {

using Shape = std::vector<std::ptrdiff_t>;

/// The name, in errors, of an argument that has one array for each parameter.
inline std::string plural(const std::string& state) { return state + "s"; }

inline Format format_of(Dtype dtype) {
  return dtype == Dtype::float16 ? Format::float16 : dtype == Dtype::bfloat16 ? Format::bfloat16 : Format::exact;
}

/// Number i of a tuple of floats.
inline double number(const py::tuple& tuple, std::size_t i) {
  const double value = PyFloat_AsDouble(PyTuple_GET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(i)));
  if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

inline PyObject* item(const py::list& list, std::size_t i) {
  return PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i));
}

/// (grad_scale, clip_norm, clip_value, clip_param_norm, clip_adaptive, skip_nonfinite, zero_grads), or None for a plain
/// step.
inline StepOptions step_options(const py::object& object, const std::string& function) {
  StepOptions wish;
  if (object.is_none()) return wish;
  const auto tuple = py::cast<py::tuple>(object);
  if (tuple.size() != 7) throw py::value_error(function + ": expected 7 options of the step");
  double* const to[] = {&wish.grad_scale, &wish.clip_norm, &wish.clip_value, &wish.clip_param_norm,
                        &wish.clip_adaptive};
  for (std::size_t i = 0; i < 5; ++i) *to[i] = number(tuple, i);
  wish.skip_nonfinite = number(tuple, 5) != 0;
  wish.zero_grads = number(tuple, 6) != 0;
  return wish;
}

/// An array's properties at the time of its check.  Other code that has the array may give it another shape, dtype or
/// memory, or make it read-only, at any time.
class Checked {
 public:
  /// `shape` is the index of the array's shape in a list of numbers.
  Checked(py::handle array, bool written, std::size_t shape)
      : proxy_(py::detail::array_proxy(array.ptr())),
        data_(proxy_->data),
        descr_(proxy_->descr),
        shape_(static_cast<std::uint32_t>(shape)),
        ndim_(static_cast<std::int16_t>(proxy_->nd)),
        flags_(static_cast<std::int16_t>(proxy_->flags & (written ? kContiguous | kWriteable : kContiguous))) {}

  bool unchanged(const std::vector<std::ptrdiff_t>& shapes) const {
    return proxy_->data == data_ && proxy_->descr == descr_ && proxy_->nd == ndim_ &&
           (proxy_->flags & flags_) == flags_ && has_shape(shapes);
  }
  /// The same, except that the array may have become read-only.
  bool unmoved(const std::vector<std::ptrdiff_t>& shapes) const {
    return proxy_->data == data_ && proxy_->descr == descr_ && proxy_->nd == ndim_ &&
           (flags_ & kContiguous & ~proxy_->flags) == 0 && has_shape(shapes);
  }
  /// Prefetches the array object, which lies in up to two cache lines.
  void prefetch() const {
    __builtin_prefetch(proxy_);
    __builtin_prefetch(&proxy_->flags);
  }
  const std::ptrdiff_t* shape(const std::vector<std::ptrdiff_t>& shapes) const { return shapes.data() + shape_; }
  std::size_t shape() const { return shape_; }
  std::size_t ndim() const { return static_cast<std::size_t>(ndim_); }

 private:
  bool has_shape(const std::vector<std::ptrdiff_t>& shapes) const {
    const std::ptrdiff_t* const expected = shape(shapes);
    for (int axis = 0; axis < ndim_; ++axis)
      if (proxy_->dimensions[axis] != expected[axis]) return false;
    return true;
  }

  static constexpr int kContiguous = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_,
                       kWriteable = py::detail::npy_api::NPY_ARRAY_WRITEABLE_;

  const py::detail::PyArray_Proxy* proxy_;
  const void* data_;
  const PyObject* descr_;
  std::uint32_t shape_;
  std::int16_t ndim_, flags_;
};

/// A group at the time when the options were made from it.
struct Seen {
  py::dict group;
  Py_ssize_t size;
  py::object params;
  std::size_t count;                                      // the number of its parameters
  py::tuple values;                                       // the values of its hyperparameters
  std::vector<std::pair<py::object, py::object>> others;  // its other entries, except params
};

/// The lock of one optimizer, as a context manager.  A thread that already holds it gets an error instead of waiting
/// for itself.  In a forked child the lock is free, whoever held it.
class Turn {
 public:
  explicit Turn(std::string name) : name_(std::move(name)) {}

  void enter() {
    if (generation_ != fork_generation()) renew();
    if (owner_ == std::this_thread::get_id())
      throw std::runtime_error(name_ +
                               ": this thread is inside a call of this optimizer already; a signal handler or an "
                               "array's own code must not call it");
    if (!mutex_.try_lock()) {
      const WithoutGil release;
      mutex_.lock();
    }
    owner_ = std::this_thread::get_id();
  }

  void exit() {
    if (generation_ != fork_generation()) return;
    owner_ = {};
    mutex_.unlock();
  }

  /// As long as an object of this class lives, the calling thread holds the lock.
  class Taken {
   public:
    explicit Taken(Turn& turn) : turn_(turn) { turn_.enter(); }
    ~Taken() { turn_.exit(); }
    Taken(const Taken&) = delete;
    Taken& operator=(const Taken&) = delete;

   private:
    Turn& turn_;
  };

 private:
  void renew() {
    new (&mutex_) std::mutex;
    owner_ = {};
    generation_ = fork_generation();
  }

  std::string name_;
  std::mutex mutex_;
  std::thread::id owner_;
  std::uint32_t generation_ = fork_generation();
};

class BoundPlan {
 public:
  /// members: a list of records (see fastopt.optim.plan.Member).  count: an int64 array without axes, or None.
  BoundPlan(const Kernels& kernels, std::string function, py::list members, py::object count)
      : kernels_(kernels), function_(std::move(function)), records_(std::move(members)), count_(std::move(count)) {
    const std::size_t size = records_.size();
    labels_.reserve(size);
    params_.reserve(size);
    plan_.members.reserve(size);
    entries_.reserve(size);
    for (std::size_t i = 0; i < size; ++i) add(i, py::handle(item(records_, i)));
    first_.push_back(checked_.size());
    for (const Member& member : plan_.members) nanoseconds_ += kCheckPerTensor + member.bytes() * kSlowStepPerByte;
    written_.expect_disjoint(function_);
    hints_.assign(size, 0);
    if (!count_.is_none()) plan_.count = counter(count_, {function_, "count"});
    shapes_.shrink_to_fit();
    own_shapes_ = shapes_.size();
  }

  /// Sets the options of each group: the numbers for its rule.
  void set_options(const py::list& options) {
    std::vector<std::vector<double>> read(options.size());
    for (std::size_t g = 0; g < options.size(); ++g) {
      const auto tuple = py::cast<py::tuple>(py::handle(item(options, g)));
      read[g].resize(tuple.size());
      for (std::size_t o = 0; o < tuple.size(); ++o) read[g][o] = number(tuple, o);
    }
    for (std::size_t i = 0; i < plan_.members.size(); ++i)
      if (plan_.members[i].group >= read.size() || read[plan_.members[i].group].size() != entries_[i]->options.size())
        throw py::value_error(name("params", i).text() + " must have a group with " +
                              std::to_string(entries_[i]->options.size()) + " options");
    plan_.options = std::move(read);
  }

  /// Notes what current() compares: for each group the values of these names, its params, and its other entries.
  /// `changed` is a list with one bool, which is set if anything else has changed.  `shared` is a list with one bool
  /// that says whether other code has arrays of the state and may change them; steps then check these arrays.
  void watch(const py::list& groups, const py::tuple& names, const py::list& values, const py::list& changed,
             const py::list& shared) {
    std::vector<Seen> seen;
    for (std::size_t g = 0; g < groups.size(); ++g) {
      const auto group = py::cast<py::dict>(py::handle(item(groups, g)));
      Seen& now = seen.emplace_back(Seen{group,
                                         PyDict_Size(group.ptr()),
                                         group["params"],
                                         py::len(group["params"]),
                                         py::cast<py::tuple>(py::handle(item(values, g))),
                                         {}});
      for (const auto& [key, value] : group)
        if (!key.equal(py::str("params")) && PySequence_Contains(names.ptr(), key.ptr()) == 0)
          now.others.emplace_back(py::reinterpret_borrow<py::object>(key), py::reinterpret_borrow<py::object>(value));
    }
    seen_ = std::move(seen);
    names_ = names;
    changed_ = changed;
    shared_ = shared;
  }

  /// Whether the groups are the same as when watch() was called.
  bool current(const py::object& groups) const { return is_current(groups, true); }

  /// The same, ignoring the values of hyperparameters.
  bool same_members(const py::object& groups) const { return is_current(groups, false); }

  /// Raises an error if anything is wrong with the gradients; changes nothing.
  void check(const py::list& grads, const py::object& options) {
    const Use use(*this);
    collect(grads, step_options(options, function_), false);
  }

  /// Takes a step, and right after it one of `then`, another plan with its gradients and no options.  Returns the count
  /// of steps, the norm of all gradients if it was needed, and whether the step was skipped.  Returns None, before
  /// anything is written, if an array has changed since it was checked.  The parameters of the plan `emptied` were the
  /// gradients; its counts go back to 0.  Other threads run meanwhile, unless the step is brief.
  py::object step(const py::list& grads, const py::object& options, BoundPlan* emptied, BoundPlan* then,
                  const py::list& then_grads) {
    const StepOptions wish = step_options(options, function_);
    const Use use(*this);
    std::optional<Use> use_then;
    if (then != nullptr) use_then.emplace(*then);
    const bool pending = first_region_pending();  // so Python's code may run in between
    const bool brief = then == nullptr && nanoseconds_ < kBriefStep && !wish.zero_grads && !pending;
    if (!collect(grads, wish, !brief) || (then != nullptr && !then->collect(then_grads, {}, !brief))) return py::none();
    if (pending && (is_parallel() || (then != nullptr && then->is_parallel()))) {
      run_first_region_hook();
      if (!nothing_moved() || (then != nullptr && !then->nothing_moved())) return py::none();
    }
    Outcome outcome;
    {
      std::optional<WithoutGil> release;
      if (!brief) release.emplace();
      const NoFork guard;
      outcome = kernels_.run<&Plan::take>(plan_, wish);
      if (then != nullptr && !outcome.skipped) then->kernels_.run<&Plan::take>(then->plan_, StepOptions{});
      if (emptied != nullptr) emptied->restart();
    }
    for (const py::object& grad : emptied_) set_to_zero(grad);
    return py::make_tuple(plan_.count != nullptr ? *plan_.count : 0, outcome.norm, outcome.skipped);
  }

  /// Takes the optimizer's lock and then calls step() with a list of gradients.  Returns None also if anything that
  /// watch() noted has changed, or if the list `simple` does not consist of this plan once the lock is held.
  static py::object step_if_current(const py::object& self, Turn& turn, const py::list& simple,
                                    const py::object& groups, const py::list& grads, const py::object& options) {
    const Turn::Taken taken(turn);
    if (simple.size() != 1 || item(simple, 0) != self.ptr()) return py::none();
    auto& plan = py::cast<BoundPlan&>(self);
    const py::object flat = plan.flat_of(grads);
    if (flat.is_none() || !plan.current(groups)) return py::none();
    return plan.step(py::reinterpret_borrow<py::list>(flat), options, nullptr, nullptr, py::list());
  }

  /// Whether all arrays are unchanged since they were checked; they may have become read-only.
  bool unmoved() const {
    const auto same = [&](const Checked& one) { return one.unmoved(shapes_); };
    return std::all_of(checked_.begin(), checked_.end(), same) && std::all_of(counts_.begin(), counts_.end(), same);
  }

  void restart() { kernels_.run<&Plan::restart>(plan_); }

  std::array<double, kMostSums> measured() const { return plan_.measured(); }

 private:
  /// As long as an object of this class lives, nobody else uses the plan, and the plan holds the gradients of the step.
  class Use {
   public:
    explicit Use(BoundPlan& plan) : plan_(plan) {
      const std::uint32_t generation = fork_generation();
      if (plan.in_use_ == generation) throw std::runtime_error(plan.function_ + ": a step is being taken already");
      plan.let_go();  // objects of a thread that does not exist in this forked child
      plan.in_use_ = generation;
    }
    ~Use() {
      plan_.let_go();
      plan_.in_use_.reset();
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    BoundPlan& plan_;
  };
  /// The gradients of all parameters, one behind the other, from such a list or from one with a list for each group; None
  /// if they are given in another way.
  py::object flat_of(const py::list& grads) const {
    if (is_flat(grads)) return grads;
    if (grads.size() != seen_.size()) return py::none();
    py::list flat(params_.size());
    std::size_t i = 0;
    for (std::size_t g = 0; g < seen_.size(); ++g) {
      PyObject* const part = item(grads, g);
      if (!PyList_CheckExact(part) || static_cast<std::size_t>(PyList_GET_SIZE(part)) != seen_[g].count ||
          i + seen_[g].count > params_.size())
        return py::none();
      for (std::size_t k = 0; k < seen_[g].count; ++k, ++i)
        PyList_SET_ITEM(flat.ptr(), static_cast<Py_ssize_t>(i),
                        Py_NewRef(PyList_GET_ITEM(part, static_cast<Py_ssize_t>(k))));
    }
    if (i != params_.size() || !is_flat(flat)) return py::none();
    return flat;
  }

  /// Whether these are gradients of all parameters, one behind the other.
  bool is_flat(const py::list& grads) const {
    PyTypeObject* const array = py::detail::npy_api::get().PyArray_Type_;
    return grads.size() == params_.size() && std::all_of(grads.begin(), grads.end(), [&](py::handle one) {
             return one.is_none() || Py_TYPE(one.ptr()) == array || is_sparse(one);
           });
  }

  bool is_parallel() const { return kernels_.run<&Plan::parallel>(plan_); }

  bool is_current(const py::object& groups, bool values_too) const {
    if (changed_.size() != 1 || item(changed_, 0) != Py_False) return false;
    if (!PyList_CheckExact(groups.ptr()) || PyList_GET_SIZE(groups.ptr()) != static_cast<Py_ssize_t>(seen_.size()))
      return false;
    std::size_t i = 0;
    for (std::size_t g = 0; g < seen_.size(); ++g) {
      const Seen& seen = seen_[g];
      PyObject* group = PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(g));
      if (group != seen.group.ptr() || PyDict_GET_SIZE(group) != seen.size) return false;
      if (values_too)
        for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(names_.ptr()); ++k)
          if (PyDict_GetItem(group, PyTuple_GET_ITEM(names_.ptr(), k)) != PyTuple_GET_ITEM(seen.values.ptr(), k))
            return false;
      for (const auto& [other, value] : seen.others)
        if (PyDict_GetItem(group, other.ptr()) != value.ptr()) return false;
      static PyObject* const key = PyUnicode_InternFromString("params");
      PyObject* params = PyDict_GetItem(group, key);
      if (params != seen.params.ptr() || !PyList_CheckExact(params)) return false;
      const auto count = static_cast<std::size_t>(PyList_GET_SIZE(params));
      if (count != seen.count || i + count > params_.size()) return false;
      for (std::size_t k = 0; k < count; ++k, ++i)
        if (PyList_GET_ITEM(params, static_cast<Py_ssize_t>(k)) != params_[i]) return false;
    }
    return i == params_.size();
  }

  Name name(std::string_view argument, std::size_t i) const { return {function_, argument, labels_[i]}; }

  /// Checks member i and everything that belongs to it.
  void add(std::size_t i, py::handle record);

  /// Checks the residual of a 16-bit parameter.
  void add_weights(Member& member, const Array& param, const std::string& weights, const py::object& object,
                   std::size_t i);

  /// Checks state s of member i.
  void add_state(Member& member, Shape shape, Dtype computed, std::size_t s, py::handle object, py::handle scale_object,
                 const std::string& moments, std::size_t i);

  /// Registers an array of member i that steps will write, or only read, and returns its memory.
  void* written(const Array& array, Dtype dtype, const Shape& shape, std::string_view argument, std::size_t i,
                bool writes = true);

  /// The index of a shape in shapes_.  Most arrays of a member have the shape of its parameter.
  std::size_t place_of(const Shape& shape, std::size_t i);

  static std::int64_t* counter(const py::object& object, const Name& name);

  /// Whether those of member i's arrays that other code may have are unchanged since they were checked.
  bool unchanged(std::size_t i) const { return unchanged(i, last(i)); }

  bool unchanged(std::size_t i, std::size_t end) const {
    return std::all_of(checked_.begin() + static_cast<std::ptrdiff_t>(first_[i]),
                       checked_.begin() + static_cast<std::ptrdiff_t>(end),
                       [&](const Checked& one) { return one.unchanged(shapes_); });
  }

  /// One past the last of member i's arrays that steps check.
  std::size_t last(std::size_t i) const { return state_is_shared() ? first_[i + 1] : first_[i] + 1; }

  bool state_is_shared() const { return shared_.size() != 1 || item(shared_, 0) == Py_True; }

  /// Prefetches the objects that member i's checks look at; they may lie anywhere.
  void prefetch(std::size_t i, const py::list& grads) const;

  /// Checks the gradients; returns false if an array of a member with a gradient has changed.  Without `hold` the plan
  /// takes no references to the gradients.  That is safe as long as no other code runs that may free them; so gradients
  /// whose check needs Python are held all the same.
  bool collect(const py::list& grads, const StepOptions& wish, bool hold);

  /// Checks a gradient of few rows, an object of fastopt.SparseRows, and holds it.
  void collect_rows(const py::object& object, std::size_t i, const StepOptions& wish, std::vector<std::size_t>& zeroed);

  /// Why member i cannot take a gradient of few rows lazily; empty if it can.
  std::string why_not_lazily(std::size_t i, std::size_t width, const StepOptions& wish) const;

  /// TypeError where a gradient's dtype does not suit member i.
  void expect_gradient_dtype(const Array& grad, std::size_t i, const Name& name) const;

  /// TypeError or ValueError where a gradient cannot be zeroed.
  static void expect_zeroable(const Array& grad, const Name& name);

  /// Whether the arrays of the step that is being taken are unchanged since they were checked.
  bool nothing_moved() const;

  /// Whether a gradient is read row by row, and neither contiguously nor from a copy.
  bool in_rows(const Array& grad, std::size_t i) const;

  /// Raises ValueError if two of these gradients share memory.
  void expect_disjoint(const std::vector<std::size_t>& which) const;

  static bool is_simple(py::handle array);

  void let_go() {
    grads_.clear();
    held_.clear();
    copies_.clear();
    emptied_.clear();
    shapes_.resize(own_shapes_);
  }

  /// Turns a NumPy scalar into an array without axes; returns anything else unchanged.
  py::object array(py::object object, std::size_t i, const StepOptions& wish) const;

  static constexpr std::size_t kAhead = 8;                           // members between a prefetch and the current check
  static constexpr std::int64_t kMostSteps = std::int64_t{1} << 53;  // a double holds them exactly
  const Kernels& kernels_;
  std::string function_;  // for errors: "AdamW"
  py::list records_;      // they hold all arrays
  py::object count_;
  std::vector<std::string> labels_;  // each member in errors: "[0]" or "['bias']"
  std::vector<PyObject*> params_;
  std::vector<const Entry*> entries_;
  std::vector<Checked> checked_;    // for each member, its parameter first
  std::vector<Checked> counts_;     // the counts of steps; only their owner changes them, unless the state is shared
  std::vector<std::size_t> first_;  // each member's first entry in checked_
  std::vector<std::ptrdiff_t> shapes_;  // the shapes of the checked arrays, then those of values of sparse gradients
  std::size_t own_shapes_ = 0;          // how many of these numbers belong to the checked arrays
  std::vector<std::size_t> hints_;      // the place of each gradient among the written arrays
  Spans written_;
  Plan plan_;
  double nanoseconds_ = 0;  // the time of a step, roughly
  std::vector<Seen> seen_;
  py::tuple names_;
  py::list changed_, shared_;
  // For the step that is being taken; the vectors keep their memory.
  std::optional<std::uint32_t> in_use_;  // the fork generation in which a step is being taken
  std::vector<Rows> rows_;
  std::deque<SparseRows> sparse_;  // those before number sparse_count_ belong to this step
  std::size_t sparse_count_ = 0;
  std::vector<py::object> held_;     // references to gradients
  std::vector<Checked> grads_;       // their properties when they were checked
  std::vector<py::object> copies_;   // copies of those that are not aligned
  std::vector<py::object> emptied_;  // held gradients that will be set to zero
};

}  // namespace fastopt
