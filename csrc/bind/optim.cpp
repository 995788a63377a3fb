/// Optimizer steps for Python: `Plan`, a checked list of parameters with their state, which is stepped with gradients.
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bind/arrays.hpp"
#include "bind/module.hpp"
#include "optim/adam.hpp"
#include "optim/sgd.hpp"
#include "optim/step.hpp"

namespace fastopt {

namespace {

/// What Python calls the list of a state's arrays.
std::string plural(const char* state) { return std::string(state) + "s"; }

/// Hyperparameters, as Python hands them over: floats in a tuple.
template <std::size_t N> std::array<double, N> numbers(const py::tuple& tuple, std::size_t from) {
  std::array<double, N> values;
  for (std::size_t i = 0; i < N; ++i) {
    values[i] = PyFloat_AsDouble(PyTuple_GET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(from + i)));
    if (values[i] == -1 && PyErr_Occurred()) throw py::error_already_set();
  }
  return values;
}

/// Parameters of one dtype that follow one rule.  They and their state are checked once; a step checks the gradients
/// only.
class Plan {
 public:
  /// What the arguments of a plan have in common for all rules.
  struct Arguments {
    std::string function;             ///< for errors: "AdamW"
    std::vector<std::string> labels;  ///< for errors, one a parameter: "[0]" or "['bias']"
    py::list params;
    std::vector<py::list> states;     ///< one list of arrays for each of the rule's states
    py::array_t<std::int64_t> steps;  ///< how many steps each parameter has taken
    std::vector<std::size_t> groups;  ///< which of the tuples of options each parameter follows
  };

  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  virtual ~Plan() = default;

  virtual void check(const py::list& grads) const = 0;
  virtual void expect_apart(const py::list& grads, const std::vector<std::string>& labels) const = 0;
  virtual void step(const py::list& grads, const std::vector<py::tuple>& options) = 0;
};

template <class Rule, class T> class PlanOf final : public Plan {
  static constexpr std::size_t S = Rule::state.size();

 public:
  explicit PlanOf(Arguments arguments) : a_(std::move(arguments)) {
    const std::size_t count = a_.params.size();
    if (a_.labels.size() != count || a_.groups.size() != count || static_cast<std::size_t>(a_.steps.size()) != count)
      throw py::value_error(a_.function + ": labels, groups and steps must have one entry a parameter");
    if (a_.states.size() != S)
      throw py::value_error(a_.function + ": expected " + std::to_string(S) + " lists of state");
    for (std::size_t s = 0; s < S; ++s)
      if (a_.states[s].size() != count)
        throw py::value_error(a_.function + ": " + plural(Rule::state[s]) + " has " +
                              std::to_string(a_.states[s].size()) + " entries, expected " + std::to_string(count) +
                              ", one a parameter");
    for (std::size_t i = 0; i < count; ++i) {
      const Array param(a_.params[i], {a_.function, "params", a_.labels[i]});
      auto& piece = params_.emplace_back();
      piece.size = param.size();
      piece.param = written(param, param, "params", i);
      for (std::size_t s = 0; s < S; ++s) {
        const std::string argument = plural(Rule::state[s]);
        piece.state[s] = written(Array(a_.states[s][i], {a_.function, argument, a_.labels[i]}), param, argument, i);
      }
    }
    written_.expect_disjoint(a_.function);
  }

  void check(const py::list& grads) const override { pieces(grads); }

  void expect_apart(const py::list& grads, const std::vector<std::string>& labels) const override {
    if (grads.size() != labels.size()) throw py::value_error(a_.function + ": labels must have one entry a gradient");
    for (std::size_t i = 0; i < labels.size(); ++i) {
      const py::handle object = grad_of(grads, i);
      if (object.is_none()) continue;
      const Name name{a_.function, "grads", labels[i]};
      const Array grad(object, name);
      if (grad.size() != 0) written_.expect_apart(grad, name);
    }
  }

  void step(const py::list& grads, const std::vector<py::tuple>& options) override {
    constexpr std::size_t kAround = Around<T>::options.size(), kRule = Rule::options.size();
    std::vector<std::pair<std::array<double, kAround>, std::array<double, kRule>>> values;
    for (const py::tuple& group : options) {
      if (group.size() != kAround + kRule)
        throw py::value_error(a_.function + ": expected " + std::to_string(kAround + kRule) + " options a group");
      values.emplace_back(numbers<kAround>(group, 0), numbers<kRule>(group, kAround));
    }
    for (const std::size_t group : a_.groups)
      if (group >= options.size())
        throw py::value_error(a_.function + ": there are options for " + std::to_string(options.size()) +
                              " groups only");

    auto todo = pieces(grads);
    std::vector<Setting<Rule, T>> settings;
    std::int64_t* steps = a_.steps.mutable_data();
    std::size_t group = 0;
    std::int64_t number = 0;
    auto piece = todo.begin();
    for (std::size_t i = 0; i < params_.size(); ++i) {
      if (grad_of(grads, i).is_none()) continue;
      if (settings.empty() || steps[i] + 1 != number || a_.groups[i] != group) {
        number = steps[i] + 1;
        group = a_.groups[i];
        settings.push_back({Rule(values[group].second, static_cast<double>(number)), Around<T>(values[group].first)});
      }
      ++steps[i];
      for (; piece != todo.end() && piece->setting == i; ++piece) piece->setting = settings.size() - 1;
    }
    const py::gil_scoped_release release;
    fastopt::step(settings, todo);
  }

 private:
  static py::handle grad_of(const py::list& grads, std::size_t i) {
    return PyList_GET_ITEM(grads.ptr(), static_cast<Py_ssize_t>(i));
  }

  /// The memory of an array that steps will write.
  T* written(const Array& array, const Array& param, std::string_view argument, std::size_t i) {
    const Name name{a_.function, argument, a_.labels[i]};
    expect_dtype(array, dtype_of<T>, name);
    if (!array.has_shape_of(param)) expect_shape(array, param.shape(), name);
    expect_contiguous(array, name);
    expect_writeable(array, name);
    written_.add(array, std::string(argument) + a_.labels[i], true);
    return array.data<T>();
  }

  /// What there is to do, after all checks; `setting` is the number of the parameter for now.
  std::vector<Piece<T, S>> pieces(const py::list& grads) const {
    if (grads.size() != params_.size())
      throw py::value_error(a_.function + ": grads has " + std::to_string(grads.size()) + " entries, expected " +
                            std::to_string(params_.size()) + ", one a parameter");
    std::vector<Piece<T, S>> todo;
    todo.reserve(params_.size());
    for (std::size_t i = 0; i < params_.size(); ++i) {
      const py::handle object = grad_of(grads, i);
      if (object.is_none()) continue;
      const Array param(PyList_GET_ITEM(a_.params.ptr(), static_cast<Py_ssize_t>(i)),
                        {a_.function, "params", a_.labels[i]});
      if (param.data<T>() != params_[i].param || param.size() != params_[i].size)
        throw py::value_error(a_.function + ": params" + a_.labels[i] +
                              " has other memory than when it was handed over");
      expect_writeable(param, {a_.function, "params", a_.labels[i]});
      const Name name{a_.function, "grads", a_.labels[i]};
      const Array grad(object, name);
      expect_dtype(grad, dtype_of<T>, name);
      if (!grad.has_shape_of(param)) expect_shape(grad, param.shape(), name);
      if (param.size() == 0) continue;
      written_.expect_apart(grad, name);

      auto add = [&](std::size_t from, std::size_t size, std::size_t grad_from) {
        auto& piece = todo.emplace_back(params_[i]);
        piece.size = size;
        piece.setting = i;
        piece.param += from;
        piece.grad = grad.data<T>() + grad_from;
        for (T*& state : piece.state) state += from;
      };
      if (grad.contiguous()) {
        add(0, param.size(), 0);
      } else {  // a slice: row by row
        const Rows rows = longest_rows_of(grad, name);
        for (std::size_t row = 0, count = rows.count(); row < count; ++row)
          add(row * rows.width, rows.width, rows.offset(row));
      }
    }
    return todo;
  }

  Arguments a_;
  std::vector<Piece<T, S>> params_;  // without gradients
  Spans written_;
};

/// What Python needs to know of a rule, and how plans for it are made.
struct Entry {
  const char* name;
  std::vector<std::string> states, options;
  std::unique_ptr<Plan> (*make)(Dtype, Plan::Arguments);
};

template <template <class> class Rule> Entry entry(const char* name) {
  const auto strings = [](const auto& names) { return std::vector<std::string>(names.begin(), names.end()); };
  std::vector<std::string> options = strings(Around<float>::options);
  for (const char* option : Rule<float>::options) options.emplace_back(option);
  return {name, strings(Rule<float>::state), options,
          [](Dtype dtype, Plan::Arguments arguments) -> std::unique_ptr<Plan> {
            if (dtype == Dtype::float32) return std::make_unique<PlanOf<Rule<float>, float>>(std::move(arguments));
            return std::make_unique<PlanOf<Rule<double>, double>>(std::move(arguments));
          }};
}

/// Every rule there is: one line each.
const std::vector<Entry>& rules() {
  static const std::vector<Entry> rules{
      entry<SGD>("sgd"),   entry<SGDMomentum>("sgd_momentum"), entry<SGDVelocity>("sgd_velocity"),
      entry<Adam>("adam"), entry<AMSGrad>("amsgrad"),
  };
  return rules;
}

std::unique_ptr<Plan> make_plan(const std::string& rule, const std::string& function, const py::list& params,
                                const std::vector<py::list>& states, const py::array_t<std::int64_t>& steps,
                                const std::vector<std::size_t>& groups, const std::vector<std::string>& labels) {
  if (params.empty() || labels.empty()) throw py::value_error(function + ": params is empty");
  for (const Entry& entry : rules())
    if (rule == entry.name)
      return entry.make(Array(params[0], {function, "params", labels[0]}).dtype(),
                        {function, labels, params, states, steps, groups});
  throw py::value_error(function + ": no rule is called " + rule);
}

}  // namespace

void bind_optim(py::module_& m) {
  py::class_<Plan>(m, "Plan",
                   "Parameters of one dtype that follow one rule, with their state: checked once, stepped often.")
      .def(py::init(&make_plan), py::arg("rule"), py::arg("function"), py::arg("params"), py::arg("states"),
           py::arg("steps").noconvert(), py::arg("groups"), py::arg("labels"))
      .def("check", &Plan::check, py::arg("grads"), "Raises what is wrong with the gradients; changes nothing.")
      .def("expect_apart", &Plan::expect_apart, py::arg("grads"), py::arg("labels"),
           "Raises where one of these gradients, of other plans too, overlaps what this plan writes.")
      .def("step", &Plan::step, py::arg("grads"), py::arg("options"),
           "Checks the gradients, counts one step for every parameter that has one, and takes it.\n\n"
           "options: for each group a tuple of floats, in the order that `rules` gives.");
  m.def(
      "expect_disjoint",
      [](const std::string& function, const py::list& params, const std::vector<std::string>& labels) {
        if (params.size() != labels.size())
          throw py::value_error(function + ": labels must have one entry a parameter");
        Spans spans;
        for (std::size_t i = 0; i < labels.size(); ++i)
          spans.add(Array(params[i], {function, "params", labels[i]}), "params" + labels[i], true);
        spans.expect_disjoint(function);
      },
      py::arg("function"), py::arg("params"), py::arg("labels"), "Raises where two parameters share memory.");
  py::dict table;
  for (const Entry& entry : rules())
    table[entry.name] = py::make_tuple(py::cast(entry.states), py::cast(entry.options));
  m.attr("rules") = table;
}

}  // namespace fastopt
