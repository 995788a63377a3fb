/// Optimizer steps for Python: `Plan`, a checked list of parameters with their state, which is stepped with gradients.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/arrays.hpp"
#include "bind/module.hpp"
#include "optim/adadelta.hpp"
#include "optim/adafactor.hpp"
#include "optim/adagrad.hpp"
#include "optim/adam.hpp"
#include "optim/adamax.hpp"
#include "optim/adan.hpp"
#include "optim/ademamix.hpp"
#include "optim/apply.hpp"
#include "optim/asgd.hpp"
#include "optim/factored.hpp"
#include "optim/lion.hpp"
#include "optim/muon.hpp"
#include "optim/nadam.hpp"
#include "optim/radam.hpp"
#include "optim/rmsprop.hpp"
#include "optim/rprop.hpp"
#include "optim/schedule_free.hpp"
#include "optim/sgd.hpp"
#include "optim/step.hpp"
#include "optim/trust.hpp"

namespace fastopt {

namespace {

/// What Python calls the list of a state's arrays.
std::string plural(const std::string& state) { return state + "s"; }

/// How a parameter's numbers are kept: what becomes of the bits that 16 do not hold, for parameters that have 16; in
/// what format moments are, and how they are rounded.  Empty: as they are computed with.
struct Formats {
  std::string weights, moments, moment_rounding;
};

Format format_of(Dtype dtype) {
  return dtype == Dtype::float16 ? Format::float16 : dtype == Dtype::bfloat16 ? Format::bfloat16 : Format::exact;
}

/// What Python needs to know of a rule, and its kernels.
struct Entry {
  const char* name;
  std::vector<State> states;
  std::vector<std::string> numbers, options;
  std::array<Kernel, 2> kernels;  ///< by dtype
};

template <template <class> class Rule, class T> Kernel kernel() {
  if constexpr (requires { Rule<T>::factored; })
    return factored_kernel<Rule<T>, T>();
  else
    return kernel_of<Rule<T>, T>();
}

template <template <class> class Rule> Entry entry(const char* name) {
  const auto strings = [](const auto& names) { return std::vector<std::string>(names.begin(), names.end()); };
  std::vector<std::string> numbers, options = strings(Around::options);
  if constexpr (requires { Rule<float>::numbers; }) numbers = strings(Rule<float>::numbers);
  for (const char* option : Rule<float>::options) options.emplace_back(option);
  const auto& state = Rule<float>::state;
  return {name, {state.begin(), state.end()}, numbers, options, {kernel<Rule, float>(), kernel<Rule, double>()}};
}

/// Every rule there is: one line each.
const std::vector<Entry>& rules() {
  static const std::vector<Entry> rules{
      entry<SGD>("sgd"),
      entry<SGDMomentum>("sgd_momentum"),
      entry<SGDVelocity>("sgd_velocity"),
      entry<Adam>("adam"),
      entry<AdamProjected>("adam_projected"),
      entry<AMSGrad>("amsgrad"),
      entry<Adagrad>("adagrad"),
      entry<RMSprop>("rmsprop"),
      entry<RMSpropMomentum>("rmsprop_momentum"),
      entry<RMSpropCentered>("rmsprop_centered"),
      entry<RMSpropCenteredMomentum>("rmsprop_centered_momentum"),
      entry<Adadelta>("adadelta"),
      entry<Adamax>("adamax"),
      entry<NAdam>("nadam"),
      entry<RAdam>("radam"),
      entry<ASGD>("asgd"),
      entry<Rprop>("rprop"),
      entry<Lion>("lion"),
      entry<LAMB>("lamb"),
      entry<LARS>("lars"),
      entry<Adan>("adan"),
      entry<AdEMAMix>("ademamix"),
      entry<ScheduleFreeSGD>("schedule_free_sgd"),
      entry<Adafactor>("adafactor"),
      entry<AdafactorFactored>("adafactor_factored"),
      entry<ScheduleFreeAdamW>("schedule_free_adamw"),
      entry<MuonMomentum>("muon_momentum"),
  };
  return rules;
}

const Entry& entry_of(const std::string& function, const std::string& rule) {
  for (const Entry& entry : rules())
    if (rule == entry.name) return entry;
  throw py::value_error(function + ": no rule is called " + rule);
}

/// A float out of a tuple.
double number(const py::tuple& tuple, std::size_t i) {
  const double value = PyFloat_AsDouble(PyTuple_GET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(i)));
  if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

py::handle item(const py::list& list, std::size_t i) { return PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i)); }

/// Parameters with their rules and state.  They are checked once; a step checks the gradients only.
class Plan {
 public:
  Plan(std::string function, const std::vector<std::string>& rules, std::vector<std::size_t> groups, py::list params,
       std::vector<py::list> states, std::vector<py::list> scales, std::vector<py::list> numbers, py::list rests,
       py::list initials, py::list averages, const std::vector<std::array<std::string, 3>>& formats,
       py::array_t<std::int64_t> steps, std::vector<std::string> labels)
      : function_(std::move(function)),
        labels_(std::move(labels)),
        groups_(std::move(groups)),
        params_(std::move(params)),
        states_(std::move(states)),
        scales_(std::move(scales)),
        numbers_(std::move(numbers)),
        rests_(std::move(rests)),
        initials_(std::move(initials)),
        averages_(std::move(averages)),
        steps_(std::move(steps)) {
    const std::size_t count = params_.size();
    for (const std::size_t size :
         {rules.size(), labels_.size(), groups_.size(), states_.size(), scales_.size(), numbers_.size(), rests_.size(),
          initials_.size(), averages_.size(), formats.size(), static_cast<std::size_t>(steps_.size())})
      if (size != count) throw py::value_error(function_ + ": every list must have one entry a parameter");
    for (const std::string& rule : rules) entries_.push_back(&entry_of(function_, rule));
    members_.reserve(count);
    for (std::size_t i = 0; i < count; ++i) add(i, {formats[i][0], formats[i][1], formats[i][2]});
    written_.expect_disjoint(function_);
  }

  /// The norm of all gradients, where it was needed, and whether the step was skipped.
  std::pair<std::optional<double>, bool> step(const py::list& grads, const py::list& options,
                                              const py::object& around_step) {
    const Step wish(around_step, function_);
    std::unique_lock<std::mutex> lock(stepping_, std::try_to_lock);
    if (!lock) {  // another thread takes a step, and may need the interpreter to finish it
      const py::gil_scoped_release release;
      lock.lock();
    }
    if (!options.is(options_)) read(options);
    collect(grads, wish);
    std::optional<double> norm;
    if (!clip(wish, norm)) {
      if (wish.zero_grads) {
        const py::gil_scoped_release release;
        zero(todo_);
      }
      return {norm, true};
    }
    count_step();
    const py::gil_scoped_release release;
    factor(todo_, row_factors_);
    if (measures_) {
      const auto sums = measured(todo_);
      measured_ = {};
      for (std::size_t i = 0; i < todo_.size(); ++i) {
        const Kernel& kernel = *todo_[i].kernel;
        for (std::size_t k = 0; k < kernel.sums; ++k) measured_[k] += sums[i * kMostSums + k];
        if (kernel.sums != 0)
          kernel.conclude(const_cast<std::byte*>(todo_[i].setting->rule), &sums[i * kMostSums],
                          static_cast<double>(todo_[i].size));
      }
    }
    update(todo_);
    return {norm, false};
  }

  /// The sums that rules measured in the last step, over all parameters.
  std::array<double, kMostSums> last_measured() const { return measured_; }

 private:
  /// Takes new options over.  They are in tuples, so that the same list has the same ones until it is replaced.
  void read(const py::list& options) {
    options_ = py::none();
    values_.resize(options.size());
    for (std::size_t g = 0; g < options.size(); ++g) {
      const auto tuple = py::cast<py::tuple>(item(options, g));
      values_[g].resize(tuple.size());
      for (std::size_t o = 0; o < tuple.size(); ++o) values_[g][o] = number(tuple, o);
    }
    for (std::size_t i = 0; i < members_.size(); ++i)
      if (groups_[i] >= values_.size() || values_[groups_[i]].size() != entries_[i]->options.size())
        throw py::value_error(name("params", i).text() + " must have a group with " +
                              std::to_string(entries_[i]->options.size()) + " options");
    options_ = options;
  }

  /// What was checked of a parameter.
  struct Member {
    const Kernel* kernel;
    Dtype dtype;  ///< that is computed with
    Storage storage;
    bool packed;  ///< whether it is needed
    std::size_t size;
    void* param;
    std::array<void*, kMostStates> state;
    std::array<double*, kMostNumbers> numbers;
    const void* initial;
    void* average;
  };

  /// What a step is asked for beside the rule.
  struct Step {
    double grad_scale = 1, clip_norm = -1, clip_value = -1, clip_param_norm = -1, clip_adaptive = -1;
    bool skip_nonfinite = false, zero_grads = false, plain = true;

    Step(const py::object& object, const std::string& function) {
      if (object.is_none()) return;
      plain = false;
      const auto tuple = py::cast<py::tuple>(object);
      if (tuple.size() != 7) throw py::value_error(function + ": expected 7 options of the step");
      double* const to[] = {&grad_scale, &clip_norm, &clip_value, &clip_param_norm, &clip_adaptive};
      for (std::size_t i = 0; i < 5; ++i) *to[i] = number(tuple, i);
      skip_nonfinite = number(tuple, 5) != 0;
      zero_grads = number(tuple, 6) != 0;
    }
  };

  Name name(std::string_view argument, std::size_t i) const { return {function_, argument, labels_[i]}; }

  /// Checks parameter i with all that belongs to it.
  void add(std::size_t i, const Formats& formats) {
    const Entry& entry = *entries_[i];
    const Array param(item(params_, i), name("params", i), Accepted::floats);
    Member member{};
    member.dtype = is_half(param.dtype()) ? Dtype::float32 : param.dtype();
    member.kernel = &entry.kernels[member.dtype == Dtype::float32 ? 0 : 1];
    member.size = param.size();
    member.param = written(param, param.dtype(), param.shape(), "params", i);
    if (is_half(param.dtype())) add_weights(member, param, formats.weights, i);
    if (!formats.moments.empty() && member.dtype == Dtype::float64)
      throw py::type_error(name("params", i).text() + " has dtype float64; moments='" + formats.moments +
                           "' is for float32 and 16 bits");
    if (states_[i].size() != entry.states.size() || scales_[i].size() != entry.states.size() ||
        numbers_[i].size() != entry.numbers.size())
      throw py::value_error(name("params", i).text() + " has " +
                            std::to_string(states_[i].size() + numbers_[i].size()) + " buffers of state and " +
                            std::to_string(scales_[i].size()) + " scales, expected " +
                            std::to_string(entry.states.size() + entry.numbers.size()));
    for (std::size_t s = 0; s < entry.states.size(); ++s) add_state(member, param, s, formats.moments, i);
    member.storage.random_state = formats.moment_rounding != "nearest";
    for (std::size_t n = 0; n < entry.numbers.size(); ++n) {
      const std::string argument = plural(entry.numbers[n]);
      const Array array(item(numbers_[i], n), name(argument, i));
      expect_dtype(array, Dtype::float64, name(argument, i));
      expect_shape(array, {}, name(argument, i));
      expect_writeable(array, name(argument, i));
      written_.add(array, argument + labels_[i], true);
      member.numbers[n] = array.data<double>();
    }
    if (!item(initials_, i).is_none()) {
      const Array initial(item(initials_, i), name("initial_params", i));
      expect_dtype(initial, member.dtype, name("initial_params", i));
      if (!initial.has_shape_of(param)) expect_shape(initial, param.shape(), name("initial_params", i));
      expect_contiguous(initial, name("initial_params", i));
      written_.add(initial, "initial_params" + labels_[i], true);  // which would be noticed too late otherwise
      member.initial = initial.data<void>();
    }
    if (!item(averages_, i).is_none())
      member.average =
          written(Array(item(averages_, i), name("ema_params", i)), member.dtype, param.shape(), "ema_params", i);
    members_.push_back(member);
  }

  /// Checks what belongs to a parameter of 16 bits.
  void add_weights(Member& member, const Array& param, const std::string& weights, std::size_t i) {
    Storage& storage = member.storage;
    storage.param = {format_of(param.dtype()), member.param};
    storage.random_param = weights != "nearest";
    member.packed = true;
    const auto rest = [&](Rest kind, Dtype dtype, std::string_view argument) {
      if (item(rests_, i).is_none()) throw py::type_error(name(argument, i).text() + " is missing");
      const Array array(item(rests_, i), name(argument, i), Accepted::all);
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

  /// Checks state s of parameter i.
  void add_state(Member& member, const Array& param, std::size_t s, const std::string& moments, std::size_t i) {
    const State& state = entries_[i]->states[s];
    const std::string argument = plural(state.name);
    auto shape = param.shape();
    if (member.kernel->sum_factors != nullptr) {  // of rows and of columns
      if (shape.size() < 2) throw py::value_error(name("params", i).text() + " must have rows and columns");
      shape[shape.size() - (s == 0 ? 1 : 2)] = 1;
    }
    const bool packed = state.kind != State::exact && !moments.empty(), in_blocks = packed && moments == "8bit";
    const Dtype dtype = in_blocks ? Dtype::uint8 : packed ? Dtype::bfloat16 : member.dtype;
    const Array array(item(states_[i], s), name(argument, i), packed ? Accepted::all : Accepted::computed);
    member.state[s] = written(array, dtype, shape, argument, i);
    if (!packed) return;
    if (!in_blocks && moments != "bfloat16") throw py::value_error(function_ + ": no moments are called " + moments);
    member.packed = true;
    Kept& kept = member.storage.state[s];
    kept.numbers = member.state[s];
    kept.format = !in_blocks ? Format::bfloat16 : state.kind == State::square ? Format::square8 : Format::moment8;
    if (!in_blocks) return;
    const std::string scale = std::string(state.name) + "_scales";
    if (item(scales_[i], s).is_none()) throw py::type_error(name(scale, i).text() + " is missing");
    const auto blocks = static_cast<std::ptrdiff_t>((param.size() + kShare - 1) / kShare);
    kept.scales = static_cast<std::uint8_t*>(
        written(Array(item(scales_[i], s), name(scale, i), Accepted::all), Dtype::uint8, {blocks}, scale, i));
  }

  /// The memory of an array that steps will write.
  void* written(const Array& array, Dtype dtype, const std::vector<std::ptrdiff_t>& shape, std::string_view argument,
                std::size_t i) {
    expect_dtype(array, dtype, name(argument, i));
    expect_shape(array, shape, name(argument, i));
    expect_contiguous(array, name(argument, i));
    expect_writeable(array, name(argument, i));
    written_.add(array, std::string(argument) + labels_[i], true);
    return array.data<void>();
  }

  /// What there is to do, after all checks: todo_, whose parameters' numbers are which_.
  void collect(const py::list& grads, const Step& wish) {
    if (grads.size() != members_.size())
      throw py::value_error(function_ + ": grads has " + std::to_string(grads.size()) + " entries, expected " +
                            std::to_string(members_.size()) + ", one a parameter");
    todo_.clear();
    which_.clear();
    rows_.clear();
    unit_scales_.clear();
    rows_.reserve(members_.size());
    std::vector<std::pair<Spans::Extent, std::size_t>> zeroed;
    for (std::size_t i = 0; i < members_.size(); ++i) {
      const py::handle object = item(grads, i);
      if (object.is_none()) continue;
      const Member& member = members_[i];
      const Array param(item(params_, i), name("params", i), Accepted::floats);
      if (param.data<void>() != member.param || param.size() != member.size)
        throw py::value_error(name("params", i).text() + " has other memory than when it was handed over");
      expect_writeable(param, name("params", i));
      const Array grad(object, name("grads", i), Accepted::floats);
      if (member.dtype != Dtype::float32 || !is_half(grad.dtype())) expect_dtype(grad, member.dtype, name("grads", i));
      if (!grad.has_shape_of(param)) expect_shape(grad, param.shape(), name("grads", i));
      which_.push_back(i);
      Tensor& tensor = todo_.emplace_back();
      tensor.kernel = member.kernel;
      tensor.setting = nullptr;
      tensor.size = member.size;
      tensor.param = member.param;
      tensor.grad = grad.data<void>();
      tensor.state = member.state;
      tensor.initial = member.initial;
      tensor.average = member.average;
      tensor.rows = nullptr;
      tensor.scale = 1;
      tensor.unit_scale = nullptr;
      tensor.unit = param.ndim() < 2 || member.size == 0 ? std::max<std::size_t>(member.size, 1)
                                                         : member.size / static_cast<std::size_t>(param.shape(0));
      tensor.clip = wish.clip_value;
      tensor.zero = wish.zero_grads;
      tensor.member = static_cast<std::uint32_t>(i);
      tensor.columns = param.ndim() < 1 ? 1 : static_cast<std::size_t>(param.shape(param.ndim() - 1));
      tensor.matrix_rows = param.ndim() < 2 ? 1 : static_cast<std::size_t>(param.shape(param.ndim() - 2));
      tensor.row_factor = nullptr;
      tensor.storage = member.packed ? &member.storage : nullptr;
      tensor.grad_format = format_of(grad.dtype());
      if (member.size == 0) continue;
      written_.expect_apart(grad, name("grads", i));
      if (wish.zero_grads) {
        if (!grad.writeable()) throw py::type_error(name("grads", i).text() + " is read-only, but would be zeroed");
        zeroed.emplace_back(Spans::extent(grad), i);
      }
      if (!grad.contiguous()) tensor.rows = &rows_.emplace_back(longest_rows_of(grad, name("grads", i)));
    }
    std::sort(zeroed.begin(), zeroed.end(), [](const auto& a, const auto& b) { return a.first.begin < b.first.begin; });
    for (std::size_t k = 1; k < zeroed.size(); ++k)
      if (zeroed[k - 1].first.end > zeroed[k].first.begin)
        throw py::value_error(name("grads", zeroed[k].second).text() + " would be zeroed, but overlaps grads" +
                              labels_[zeroed[k - 1].second]);
  }

  /// Sets the scales of gradients; false where the step is to be skipped.
  bool clip(const Step& wish, std::optional<double>& norm) {
    if (wish.plain) return true;
    const py::gil_scoped_release release;
    std::vector<double> squares;
    if (wish.clip_norm >= 0 || wish.clip_param_norm >= 0 || wish.skip_nonfinite) squares = squared_norms(todo_);
    if (wish.clip_norm >= 0 || wish.skip_nonfinite) {
      double sum = 0;
      for (const double square : squares) sum += square;
      norm = std::sqrt(sum) / std::abs(wish.grad_scale);
      if (wish.skip_nonfinite && !std::isfinite(*norm))
        for (std::size_t t = 0; t < todo_.size(); ++t)
          if (!is_finite(todo_[t], squares[t])) return false;
    }
    const auto factor = [&](double of) {  // NaN stays NaN
      const double ratio = wish.clip_norm >= 0 ? wish.clip_norm / (of + 1e-6) : wish.clip_param_norm / (of + 1e-6);
      return ratio > 1 ? 1.0 : ratio;
    };
    for (std::size_t t = 0; t < todo_.size(); ++t) {
      double scale = 1 / wish.grad_scale;
      if (wish.clip_norm >= 0)
        scale *= factor(*norm);
      else if (wish.clip_param_norm >= 0)
        scale *= factor(std::sqrt(squares[t]) / std::abs(wish.grad_scale));
      todo_[t].scale = scale;
    }
    if (wish.clip_adaptive >= 0) {
      const auto norms = squared_norms_of_units(todo_);
      unit_scales_.resize(norms.size());
      std::size_t unit = 0;
      for (Tensor& tensor : todo_) {
        tensor.unit_scale = unit_scales_.data() + unit;
        for (std::size_t u = 0; u < tensor.size / tensor.unit; ++u, ++unit) {
          const double grad = std::sqrt(norms[unit][0]) / std::abs(wish.grad_scale);
          const double most = wish.clip_adaptive * std::max(std::sqrt(norms[unit][1]), 1e-3);
          unit_scales_[unit] = grad < most ? 1.0 : most / std::max(grad, 1e-6);
        }
      }
    }
    return true;
  }

  /// Counts the step and gives every tensor its setting.
  void count_step() {
    settings_.clear();
    settings_.reserve(todo_.size());
    measures_ = false;
    std::int64_t* steps = steps_.mutable_data();
    std::int64_t step = 0;
    std::size_t group = 0;
    bool shared = false;  // whether others may use the last setting
    for (std::size_t t = 0; t < todo_.size(); ++t) {
      const std::size_t i = which_[t];
      const Kernel& kernel = *todo_[t].kernel;
      ++steps[i];
      if (!shared || steps[i] != step || groups_[i] != group || todo_[t - 1].kernel != &kernel) {
        step = steps[i];
        group = groups_[i];
        shared = kernel.numbers == 0 && kernel.sums == 0;
        const double* options = values_[group].data();
        Setting& setting = settings_.emplace_back(Setting{{}, Around(options, static_cast<double>(step))});
        std::array<double, kMostNumbers> numbers{};
        for (std::size_t n = 0; n < kernel.numbers; ++n) numbers[n] = *members_[i].numbers[n];
        kernel.construct(setting.rule, options + Around::options.size(), static_cast<double>(step), numbers.data());
        for (std::size_t n = 0; n < kernel.numbers; ++n) *members_[i].numbers[n] = numbers[n];
      }
      measures_ = measures_ || kernel.sums != 0;
      todo_[t].setting = &settings_.back();
      todo_[t].scale *= settings_.back().around.sign;
    }
  }

  std::string function_;             // for errors: "AdamW"
  std::vector<std::string> labels_;  // for errors, one a parameter: "[0]" or "['bias']"
  std::vector<std::size_t> groups_;  // which of the tuples of options each parameter follows
  py::list params_;
  std::vector<py::list> states_, scales_, numbers_;  // of each parameter
  py::list rests_, initials_, averages_;             // of each parameter, or None
  py::array_t<std::int64_t> steps_;                  // how many steps each parameter has taken
  std::vector<const Entry*> entries_;                // of each parameter
  std::vector<Member> members_;
  Spans written_;
  std::array<double, kMostSums> measured_{};

  std::mutex stepping_;
  py::object options_ = py::none();  // those of the last step, and what they say
  std::vector<std::vector<double>> values_;

  // Of the step that is being taken; kept to keep their memory.
  std::vector<Tensor> todo_;
  std::vector<std::size_t> which_;
  std::vector<Rows> rows_;
  std::vector<double> unit_scales_, row_factors_;
  std::vector<Setting> settings_;
  bool measures_ = false;
};

}  // namespace

void bind_optim(py::module_& m) {
  py::class_<Plan>(m, "Plan", "Parameters with their rules and state: checked once, stepped often.")
      .def(py::init<std::string, const std::vector<std::string>&, std::vector<std::size_t>, py::list,
                    std::vector<py::list>, std::vector<py::list>, std::vector<py::list>, py::list, py::list, py::list,
                    const std::vector<std::array<std::string, 3>>&, py::array_t<std::int64_t>,
                    std::vector<std::string>>(),
           py::arg("function"), py::arg("rules"), py::arg("groups"), py::arg("params"), py::arg("states"),
           py::arg("scales"), py::arg("numbers"), py::arg("rests"), py::arg("initials"), py::arg("averages"),
           py::arg("formats"), py::arg("steps").noconvert(), py::arg("labels"))
      .def("step", &Plan::step, py::arg("grads"), py::arg("options"), py::arg("around") = py::none(),
           "Checks the gradients, counts one step for every parameter that has one, and takes it.\n\n"
           "options: for each group a tuple of floats, in the order that `rules` gives.  around: (grad_scale, "
           "clip_norm, "
           "clip_value, clip_param_norm, clip_adaptive, skip_nonfinite, zero_grads); a negative clip is none.")
      .def("measured", &Plan::last_measured, "The sums over all parameters that the rules took in the last step.");
  m.def(
      "square_sum",
      [](const py::handle& object) {
        const Array array(object, {"square_sum", "array"});
        expect_contiguous(array, {"square_sum", "array"});
        Tensor tensor{};
        const Kernel of_float = kernel<SGD, float>(), of_double = kernel<SGD, double>();
        tensor.kernel = array.dtype() == Dtype::float32 ? &of_float : &of_double;
        tensor.size = array.size();
        tensor.grad = array.data<void>();
        const py::gil_scoped_release release;
        return squared_norms({tensor})[0];
      },
      py::arg("array"), "The sum of the squares of an array's elements, in double.");
  m.def(
      "expect_disjoint",
      [](const std::string& function, const py::list& params, const std::vector<std::string>& labels) {
        if (params.size() != labels.size())
          throw py::value_error(function + ": labels must have one entry a parameter");
        Spans spans;
        for (std::size_t i = 0; i < labels.size(); ++i)
          spans.add(Array(params[i], {function, "params", labels[i]}, Accepted::floats), "params" + labels[i], true);
        spans.expect_disjoint(function);
      },
      py::arg("function"), py::arg("params"), py::arg("labels"), "Raises where two parameters share memory.");
  py::dict table;
  for (const Entry& entry : rules()) {
    std::vector<std::string> states, kinds;
    for (const State& state : entry.states) {
      states.emplace_back(state.name);
      kinds.emplace_back(state.kind == State::exact ? "exact" : state.kind == State::moment ? "moment" : "square");
    }
    table[entry.name] =
        py::make_tuple(py::cast(states), py::cast(entry.numbers), py::cast(entry.options), py::cast(kinds));
  }
  m.attr("rules") = table;
}

}  // namespace fastopt
