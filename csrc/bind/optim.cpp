/// Optimizer steps for Python: `Plan`, members that are checked once and stepped with gradients, and `Turn`, the lock
/// of one optimizer.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
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
#include "bind/module.hpp"
#include "bind/rules.hpp"
#include "core/threads/fork.hpp"
#include "optim/plan.hpp"

namespace fastopt {

namespace {

using Shape = std::vector<std::ptrdiff_t>;

/// An argument that has one array for each parameter, as errors call it.
std::string plural(const std::string& state) { return state + "s"; }

Format format_of(Dtype dtype) {
  return dtype == Dtype::float16 ? Format::float16 : dtype == Dtype::bfloat16 ? Format::bfloat16 : Format::exact;
}

/// Number i of a tuple of floats.
double number(const py::tuple& tuple, std::size_t i) {
  const double value = PyFloat_AsDouble(PyTuple_GET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(i)));
  if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

PyObject* item(const py::list& list, std::size_t i) { return PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i)); }

/// (grad_scale, clip_norm, clip_value, clip_param_norm, clip_adaptive, skip_nonfinite, zero_grads), or None for a plain
/// step.
StepOptions step_options(const py::object& object, const std::string& function) {
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

/// An array as it was when it was checked.  Whoever has the array may give it another shape, dtype or memory, or make
/// it read-only, at any time.
class Checked {
 public:
  /// `shape`: where the array's shape stands in a list of numbers.
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
  /// The same, but that it may have become read-only.
  bool unmoved(const std::vector<std::ptrdiff_t>& shapes) const {
    return proxy_->data == data_ && proxy_->descr == descr_ && proxy_->nd == ndim_ &&
           (flags_ & kContiguous & ~proxy_->flags) == 0 && has_shape(shapes);
  }
  /// Its object, which lies in up to two lines of the cache.
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

/// A group as it was when the options were made of it.
struct Seen {
  py::dict group;
  Py_ssize_t size;
  py::object params;
  std::size_t count;                                      // of its parameters
  py::tuple values;                                       // of its hyperparameters
  std::vector<std::pair<py::object, py::object>> others;  // its other entries, but for params
};

/// The lock of one optimizer, a context manager.  A thread that already has it gets an error instead of waiting for
/// itself.  In a forked child it is free, whoever had it.
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
      const py::gil_scoped_release release;
      mutex_.lock();
    }
    owner_ = std::this_thread::get_id();
  }

  void exit() {
    if (generation_ != fork_generation()) return;
    owner_ = {};
    mutex_.unlock();
  }

  /// While one lives, the calling thread has the turn.
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
  /// members: a list of records, see fastopt.optim.plan.Member.  count: an int64 array without axes, or None.
  BoundPlan(std::string function, py::list members, py::object count)
      : function_(std::move(function)), records_(std::move(members)), count_(std::move(count)) {
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
  }

  /// Takes the numbers over that the groups' rules have now.
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

  /// Says what current() is to compare: of each group the values of these names, its params, and what else is in it.
  /// `changed` is a list with one bool, which is set where anything else has changed; `shared` one that says whether
  /// somebody else has arrays of the state, and may change them: steps look at these then.
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

  /// Whether the groups are still what they were when they were watched.
  bool current(const py::object& groups) const { return is_current(groups, true); }

  /// The same, but for the values of hyperparameters.
  bool same_members(const py::object& groups) const { return is_current(groups, false); }

  /// Raises what is wrong with gradients; changes nothing.
  void check(const py::list& grads, const py::object& options) {
    const Use use(*this);
    collect(grads, step_options(options, function_), false);
  }

  /// Takes a step, and right after it one of `then`, another plan with its gradients and no options.  Returns the count
  /// of steps, the norm of all gradients where it was needed, and whether the step was skipped; or None, before
  /// anything was written, where an array is not what it was when it was checked.  `emptied`: the plan whose parameters
  /// were the gradients, and which begins anew.  Other threads run meanwhile, unless the step is a brief one.
  py::object step(const py::list& grads, const py::object& options, BoundPlan* emptied, BoundPlan* then,
                  const py::list& then_grads) {
    const StepOptions wish = step_options(options, function_);
    const Use use(*this);
    std::optional<Use> use_then;
    if (then != nullptr) use_then.emplace(*then);
    const bool pending = first_region_pending();  // so Python's code may run in between
    const bool brief = then == nullptr && nanoseconds_ < kBriefStep && !wish.zero_grads && !pending;
    if (!collect(grads, wish, !brief) || (then != nullptr && !then->collect(then_grads, {}, !brief))) return py::none();
    if (pending && (plan_.parallel() || (then != nullptr && then->plan_.parallel()))) {
      run_first_region_hook();
      if (!nothing_moved() || (then != nullptr && !then->nothing_moved())) return py::none();
    }
    Outcome outcome;
    {
      std::optional<py::gil_scoped_release> release;
      if (!brief) release.emplace();
      const NoFork guard;
      outcome = plan_.take(wish);
      if (then != nullptr && !outcome.skipped) then->plan_.take({});
      if (emptied != nullptr) emptied->plan_.restart();
    }
    for (const py::object& grad : emptied_) set_to_zero(grad);
    return py::make_tuple(plan_.count != nullptr ? *plan_.count : 0, outcome.norm, outcome.skipped);
  }

  /// step() of a list of gradients with an optimizer's turn; None too where anything has changed that was watched, or
  /// where `simple`, a list with one entry, has another plan by the time the turn has come, or none.
  static py::object step_if_current(const py::object& self, Turn& turn, const py::list& simple,
                                    const py::object& groups, const py::list& grads, const py::object& options) {
    const Turn::Taken taken(turn);
    if (simple.size() != 1 || item(simple, 0) != self.ptr()) return py::none();
    auto& plan = py::cast<BoundPlan&>(self);
    return plan.current(groups) ? plan.step(grads, options, nullptr, nullptr, py::list()) : py::none();
  }

  /// Whether all arrays are still what they were when they were checked; they may have become read-only.
  bool unmoved() const {
    const auto same = [&](const Checked& one) { return one.unmoved(shapes_); };
    return std::all_of(checked_.begin(), checked_.end(), same) && std::all_of(counts_.begin(), counts_.end(), same);
  }

  void restart() { plan_.restart(); }

  std::array<double, kMostSums> measured() const { return plan_.measured(); }

 private:
  /// While one lives, nobody else uses the plan, and the gradients of the step are held.
  class Use {
   public:
    explicit Use(BoundPlan& plan) : plan_(plan) {
      const std::uint32_t generation = fork_generation();
      if (plan.in_use_ == generation) throw std::runtime_error(plan.function_ + ": a step is being taken already");
      plan.let_go();  // what belongs to a thread that this forked child has not got
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

  /// Checks member i with all that belongs to it.
  void add(std::size_t i, py::handle record) {
    labels_.push_back(py::cast<std::string>(record.attr("label")));
    const auto rule = py::cast<std::string>(record.attr("rule"));
    const Entry* entry = i != 0 && rule == entries_.back()->name ? entries_.back() : find_rule(rule);
    if (entry == nullptr) throw py::value_error(function_ + ": no rule is called " + rule);
    entries_.push_back(entry);
    first_.push_back(checked_.size());

    const py::object object = record.attr("param");
    const Array param(object, name("params", i), Accepted::floats);
    params_.push_back(object.ptr());
    const Shape shape = param.shape();
    Member member;
    const Dtype dtype = is_half(param.dtype()) ? Dtype::float32 : param.dtype();
    member.kernel = &entry->kernels[dtype == Dtype::float32 ? 0 : 1];
    member.group = py::cast<std::size_t>(record.attr("group"));
    member.size = param.size();
    member.unit = shape.size() < 2 || member.size == 0 ? std::max<std::size_t>(member.size, 1)
                                                       : member.size / static_cast<std::size_t>(shape[0]);
    if (!shape.empty()) member.columns = static_cast<std::size_t>(shape.back());
    if (shape.size() > 1) member.matrix_rows = static_cast<std::size_t>(shape[shape.size() - 2]);
    member.param = written(param, param.dtype(), shape, "params", i);

    const auto [weights, moments, rounding] =
        py::cast<std::tuple<std::string, std::string, std::string>>(record.attr("formats"));
    if (is_half(param.dtype())) add_weights(member, param, weights, record.attr("rest"), i);
    if (!moments.empty() && dtype == Dtype::float64)
      throw py::type_error(name("params", i).text() + " has dtype float64; moments='" + moments +
                           "' is for float32 and 16 bits");
    const py::list states = record.attr("states"), scales = record.attr("scales"), numbers = record.attr("numbers");
    if (states.size() != entry->states.size() || scales.size() != entry->states.size() ||
        numbers.size() != entry->numbers.size())
      throw py::value_error(name("params", i).text() + " has " + std::to_string(states.size() + numbers.size()) +
                            " buffers of state and " + std::to_string(scales.size()) + " scales, expected " +
                            std::to_string(entry->states.size() + entry->numbers.size()));
    for (std::size_t s = 0; s < states.size(); ++s)
      add_state(member, shape, dtype, s, item(states, s), item(scales, s), moments, i);
    member.storage.random_state = rounding != "nearest";
    for (std::size_t n = 0; n < numbers.size(); ++n) {
      const std::string argument = plural(entry->numbers[n]);
      const Array array(item(numbers, n), name(argument, i));
      member.numbers[n] = static_cast<double*>(written(array, Dtype::float64, {}, argument, i));
    }
    if (const py::object initial = record.attr("initial"); !initial.is_none())  // read only; an overlap is found now
      member.initial = written(Array(initial, name("initial_params", i)), dtype, shape, "initial_params", i, false);
    if (const py::object average = record.attr("average"); !average.is_none())
      member.average = written(Array(average, name("ema_params", i)), dtype, shape, "ema_params", i);
    const py::object step = record.attr("step");
    member.step = counter(step, name("step", i));
    written_.add(step, "step" + labels_[i]);
    counts_.emplace_back(step, true, shapes_.size());
    plan_.members.push_back(member);
  }

  /// Checks what belongs to a parameter of 16 bits.
  void add_weights(Member& member, const Array& param, const std::string& weights, const py::object& object,
                   std::size_t i) {
    Storage& storage = member.storage;
    storage.param = {format_of(param.dtype()), member.param};
    storage.random_param = weights != "nearest";
    member.packed = true;
    const auto rest = [&](Rest kind, Dtype dtype, std::string_view argument) {
      if (object.is_none()) throw py::type_error(name(argument, i).text() + " is missing");
      const Array array(object, name(argument, i), Accepted::all);
      storage.param.rest = kind;
      storage.param.more = written(array, dtype, param.shape(), argument, i);
      if (kind == Rest::master) storage.master = array.data<float>();
    };
    if (weights == "master")
      rest(Rest::master, Dtype::float32, "master_params");
    else if (weights == "kahan")
      rest(Rest::compensation, param.dtype(), "compensations");
    else if (weights == "correction")
      rest(Rest::correction, Dtype::int8, "corrections");
    else if (weights != "nearest" && weights != "stochastic")
      throw py::value_error(function_ + ": no weights are called " + weights);
    if (storage.param.rest == Rest::correction && param.dtype() != Dtype::bfloat16)
      throw py::type_error(name("params", i).text() + " has dtype float16; weights='correction' is for bfloat16");
  }

  /// Checks state s of member i.
  void add_state(Member& member, Shape shape, Dtype computed, std::size_t s, py::handle object, py::handle scale_object,
                 const std::string& moments, std::size_t i) {
    const State& state = entries_[i]->states[s];
    const std::string argument = plural(state.name);
    const auto blocks = static_cast<std::ptrdiff_t>((member.size + kScaleBlock - 1) / kScaleBlock);
    if (member.kernel->factored()) {  // of rows and of columns
      if (shape.size() < 2) throw py::value_error(name("params", i).text() + " must have rows and columns");
      shape[shape.size() - (s == 0 ? 1 : 2)] = 1;
    }
    const bool packed = state.kind != State::exact && !moments.empty(), in_blocks = packed && moments == "8bit";
    const Dtype dtype = in_blocks ? Dtype::uint8 : packed ? Dtype::bfloat16 : computed;
    const Array array(object, name(argument, i), packed ? Accepted::all : Accepted::computed);
    member.state[s] = written(array, dtype, shape, argument, i);
    if (!packed) return;
    if (!in_blocks && moments != "bfloat16") throw py::value_error(function_ + ": no moments are called " + moments);
    member.packed = true;
    StoredArray& kept = member.storage.state[s];
    kept.numbers = member.state[s];
    kept.format = !in_blocks ? Format::bfloat16 : state.kind == State::square ? Format::square8 : Format::moment8;
    if (!in_blocks) return;
    const std::string scale = std::string(state.name) + "_scales";
    if (scale_object.is_none()) throw py::type_error(name(scale, i).text() + " is missing");
    kept.scales = static_cast<std::uint8_t*>(
        written(Array(scale_object, name(scale, i), Accepted::all), Dtype::uint8, {blocks}, scale, i));
  }

  /// The memory of an array that belongs to member i, which steps will write, or only read.
  void* written(const Array& array, Dtype dtype, const Shape& shape, std::string_view argument, std::size_t i,
                bool writes = true) {
    expect_dtype(array, dtype, name(argument, i));
    expect_shape(array, shape, name(argument, i));
    expect_contiguous(array, name(argument, i));
    if (writes) expect_writeable(array, name(argument, i));
    written_.add(array, std::string(argument) + labels_[i], true);
    checked_.emplace_back(array.object(), writes, place_of(shape, i));
    return array.data<void>();
  }

  /// Where a shape stands among the numbers of shapes_.  Most arrays of a member have that of its parameter.
  std::size_t place_of(const Shape& shape, std::size_t i) {
    if (checked_.size() > first_[i]) {
      const Checked& param = checked_[first_[i]];
      if (std::equal(shape.begin(), shape.end(), param.shape(shapes_), param.shape(shapes_) + param.ndim()))
        return param.shape();
    }
    shapes_.insert(shapes_.end(), shape.begin(), shape.end());
    return shapes_.size() - shape.size();
  }

  static std::int64_t* counter(const py::object& object, const Name& name) {
    if (!py::isinstance<py::array_t<std::int64_t>>(object))
      throw py::type_error(name.text() + " must be an int64 array without axes");
    auto array = py::reinterpret_borrow<py::array_t<std::int64_t>>(object);
    if (array.ndim() != 0 || !array.writeable())
      throw py::type_error(name.text() + " must be a writeable int64 array without axes");
    return array.mutable_data();
  }

  /// Whether member i's arrays, those that somebody else has, are still as they were when they were checked.
  bool unchanged(std::size_t i) const { return unchanged(i, last(i)); }
  bool unchanged(std::size_t i, std::size_t end) const {
    return std::all_of(checked_.begin() + static_cast<std::ptrdiff_t>(first_[i]),
                       checked_.begin() + static_cast<std::ptrdiff_t>(end),
                       [&](const Checked& one) { return one.unchanged(shapes_); });
  }

  /// Behind the last of member i's arrays that steps look at.
  std::size_t last(std::size_t i) const { return state_is_shared() ? first_[i + 1] : first_[i] + 1; }
  bool state_is_shared() const { return shared_.size() != 1 || item(shared_, 0) == Py_True; }

  /// Brings what member i's checks look at closer: objects that lie anywhere.
  void prefetch(std::size_t i, const py::list& grads) const {
    if (i < grads.size()) __builtin_prefetch(item(grads, i));
    const std::size_t sooner = i - kAhead / 2;  // whose objects are there by now, so that their shapes can be found
    __builtin_prefetch(py::detail::array_proxy(params_[sooner])->dimensions);
    for (std::size_t c = first_[i]; c < last(i); ++c) checked_[c].prefetch();
  }

  /// Checks the gradients; false where an array of a member that has one is not what it was.  Not to `hold` them is
  /// safe as long as nothing runs that may take them away; so whatever needs Python's help to be checked is held all
  /// the same.
  bool collect(const py::list& grads, const StepOptions& wish, bool hold) {
    hold = hold || wish.zero_grads;
    const std::size_t count = plan_.members.size();
    if (grads.size() != count)
      throw py::value_error(function_ + ": grads has " + std::to_string(grads.size()) + " entries, expected " +
                            std::to_string(count) + ", one for each parameter");
    plan_.begin();
    let_go();
    rows_.clear();
    rows_.reserve(count);
    std::vector<std::size_t> zeroed;
    const bool shared = state_is_shared();
    bool others_ran = false;  // whether Python's code or other threads may have run meanwhile
    for (std::size_t i = 0; i < count; ++i) {
      if (i + kAhead < count) prefetch(i + kAhead, grads);
      if (grads.size() != count) return false;  // changed by whatever ran meanwhile
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
        object = held_.emplace_back(exact ? std::move(held) : array(std::move(held), i, wish));
        others_ran = others_ran || !exact || !is_simple(object);
      }
      const Array grad(object, name("grads", i), Accepted::floats, Alignment::any);
      const Dtype computed = member.kernel->itemsize == sizeof(double) ? Dtype::float64 : Dtype::float32;
      if (grad.dtype() != computed && (computed != Dtype::float32 || !is_half(grad.dtype())))
        throw py::type_error(name("grads", i).text() + " has dtype " + name_of(grad.dtype()) + ", expected " +
                             name_of(computed) + ", as its parameter has: pass grads" + labels_[i] + ".astype(np." +
                             name_of(computed) + ")");
      const std::ptrdiff_t* const shape = checked_[first_[i]].shape(shapes_);
      const std::size_t ndim = checked_[first_[i]].ndim();
      if (!grad.has_shape(shape, ndim)) expect_shape(grad, Shape(shape, shape + ndim), name("grads", i));
      const Rows* rows = nullptr;
      const void* data = grad.data<void>();
      if (!grad.aligned())
        data = py::detail::array_proxy(copies_.emplace_back(copy_of(grad)).ptr())->data;
      else if (in_rows(grad, i))
        rows = &rows_.emplace_back(elements_of(grad));
      plan_.add(i, data, format_of(grad.dtype()), rows, wish);
      if (hold) grads_.emplace_back(grad.object(), wish.zero_grads, checked_[first_[i]].shape());
      if (member.size == 0) continue;
      written_.expect_apart(grad, name("grads", i), hints_[i]);
      if (!wish.zero_grads) continue;
      if (!grad.writeable()) throw py::type_error(name("grads", i).text() + " is read-only, but would be zeroed");
      if (grad.may_overlap_itself())
        throw py::value_error(name("grads", i).text() +
                              " has elements that share memory, and would be zeroed; give a copy, or zero_grads=False");
      zeroed.push_back(held_.size() - 1);
      if (!grad.aligned()) emptied_.push_back(held_.back());
    }
    if (!zeroed.empty()) expect_disjoint(zeroed);
    return !others_ran || nothing_moved();
  }

  /// Whether the arrays of the step that is being taken are still as they were found to be.
  bool nothing_moved() const {
    auto rows = rows_.begin();
    for (std::size_t k = 0; k < held_.size(); ++k) {
      const std::size_t i = plan_.which()[k];
      if (!unchanged(i) || !grads_[k].unchanged(shapes_)) return false;
      const Array grad(held_[k], name("grads", i), Accepted::floats, Alignment::any);
      if (in_rows(grad, i) && !(rows != rows_.end() && *rows++ == elements_of(grad))) return false;
    }
    return true;
  }

  /// Whether a gradient is read in rows, and neither as it lies nor from a copy.
  bool in_rows(const Array& grad, std::size_t i) const {
    return plan_.members[i].size != 0 && grad.aligned() && !grad.contiguous();
  }

  /// That no two of these gradients share memory.
  void expect_disjoint(const std::vector<std::size_t>& which) const {
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
          throw py::value_error(name("grads", plan_.which()[part.index]).text() +
                                " would be zeroed, but overlaps grads" + labels_[plan_.which()[other.index]]);
      open.push_back(part);
    }
  }

  static bool is_simple(py::handle array) {
    constexpr int kSimple = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    return (py::detail::array_proxy(array.ptr())->flags & kSimple) == kSimple;
  }

  void let_go() {
    grads_.clear();
    held_.clear();
    copies_.clear();
    emptied_.clear();
  }

  /// One of NumPy's scalars as an array without axes; anything else as it is.
  py::object array(py::object object, std::size_t i, const StepOptions& wish) const {
    const py::module_ numpy = py::module_::import("numpy");
    if (!py::isinstance(object, numpy.attr("generic"))) return object;
    if (wish.zero_grads)
      throw py::type_error(name("grads", i).text() +
                           " is a scalar, which cannot be zeroed; give an array, or zero_grads=False");
    return numpy.attr("asarray")(object);
  }

  static constexpr std::size_t kAhead = 8;  // members between a prefetch and the one that is checked
  static constexpr std::int64_t kMostSteps = std::int64_t{1} << 53;  // a double holds them exactly

  std::string function_;  // for errors: "AdamW"
  py::list records_;      // which hold all arrays
  py::object count_;
  std::vector<std::string> labels_;  // for errors, of each member: "[0]" or "['bias']"
  std::vector<PyObject*> params_;
  std::vector<const Entry*> entries_;
  std::vector<Checked> checked_;        // of all members, the parameter's first
  std::vector<Checked> counts_;         // of steps, which only their owner changes, unless the state is shared
  std::vector<std::size_t> first_;      // those of each member
  std::vector<std::ptrdiff_t> shapes_;  // of what was checked
  std::vector<std::size_t> hints_;      // where each gradient lay among what is written
  Spans written_;
  Plan plan_;
  double nanoseconds_ = 0;  // that a step takes, roughly

  std::vector<Seen> seen_;
  py::tuple names_;
  py::list changed_, shared_;

  // Of the step that is being taken; they keep their memory.
  std::optional<std::uint32_t> in_use_;  // since which fork
  std::vector<Rows> rows_;
  std::vector<py::object> held_;     // gradients
  std::vector<Checked> grads_;       // as they were when they were checked
  std::vector<py::object> copies_;   // of those that are not aligned
  std::vector<py::object> emptied_;  // those of these that become zero
};

py::tuple described(const Entry& entry) {
  std::vector<std::string> states, kinds;
  for (const State& state : entry.states) {
    states.emplace_back(state.name);
    kinds.emplace_back(state.kind == State::exact ? "exact" : state.kind == State::moment ? "moment" : "square");
  }
  return py::make_tuple(py::cast(states), py::cast(entry.numbers), py::cast(entry.options), py::cast(kinds));
}

double square_sum(py::handle object) {
  const Array array(object, {"square_sum", "array"});
  expect_contiguous(array, {"square_sum", "array"});
  Tensor tensor{};
  tensor.kernel = &find_rule("sgd")->kernels[array.dtype() == Dtype::float32 ? 0 : 1];
  tensor.size = array.size();
  tensor.grad = array.data<void>();
  const py::gil_scoped_release release;
  return squared_norms({tensor})[0];
}

}  // namespace

void bind_optim(py::module_& m) {
  py::class_<Turn>(m, "Turn", "The lock of one optimizer; an error where its owner takes it again.")
      .def(py::init<std::string>(), py::arg("name"))
      .def("__enter__", &Turn::enter)
      .def("__exit__", [](Turn& turn, const py::args&) { turn.exit(); });
  py::class_<BoundPlan>(m, "Plan", "Parameters with their rules and state: checked once, stepped often.")
      .def(py::init<std::string, py::list, py::object>(), py::arg("function"), py::arg("members"),
           py::arg("count") = py::none())
      .def("set_options", &BoundPlan::set_options, py::arg("options"),
           "For each group a tuple of floats, in the order that `rules` gives.")
      .def("watch", &BoundPlan::watch, py::arg("groups"), py::arg("names"), py::arg("values"), py::arg("changed"),
           py::arg("shared"), "Says what current() compares.")
      .def("current", &BoundPlan::current, py::arg("groups"), "Whether nothing has changed that was watched.")
      .def(
          "step", &BoundPlan::step, py::arg("grads"), py::arg("options") = py::none(),
          py::arg("emptied").none(true) = py::none(), py::arg("then").none(true) = py::none(),
          py::arg("then_grads") = py::list(),
          "Checks the gradients, and takes and counts a step: (count, norm, skipped), or None if an array has changed.")
      .def("same_members", &BoundPlan::same_members, py::arg("groups"),
           "Whether nothing has changed but values of hyperparameters.")
      .def("step_if_current", &BoundPlan::step_if_current, py::arg("turn"), py::arg("simple"), py::arg("groups"),
           py::arg("grads"), py::arg("options") = py::none(), "step() with the turn, if current().")
      .def("check", &BoundPlan::check, py::arg("grads"), py::arg("options") = py::none(),
           "Raises what is wrong with gradients; changes nothing.")
      .def("unmoved", &BoundPlan::unmoved,
           "Whether all arrays are still where, and what, they were when they were checked; they may be read-only now.")
      .def("restart", &BoundPlan::restart, "Sets all counts to 0.")
      .def("measured", &BoundPlan::measured, "The sums over all parameters that the rules took in the last step.");
  m.def("square_sum", &square_sum, py::arg("array"), "The sum of the squares of an array's elements, in double.");
  m.def(
      "expect_disjoint",
      [](const std::string& function, const py::list& params, const std::vector<std::string>& labels) {
        if (params.size() != labels.size())
          throw py::value_error(function + ": labels must have one entry for each parameter");
        Spans spans;
        for (std::size_t i = 0; i < labels.size(); ++i)
          spans.add(Array(params[i], {function, "params", labels[i]}, Accepted::floats), "params" + labels[i], true);
        spans.expect_disjoint(function);
      },
      py::arg("function"), py::arg("params"), py::arg("labels"), "Raises where two parameters share memory.");
  py::dict table;
  for (const Entry& entry : rules()) table[entry.name] = described(entry);
  m.attr("rules") = table;
}

}  // namespace fastopt
