/// Optimizer steps for Python.
#include "bind/gil.hpp"
#include "bind/plan.hpp"

namespace fastopt {

namespace {

py::tuple described(const Entry& entry) {
  std::vector<std::string> states, kinds;
  for (const State& state : entry.states) {
    states.emplace_back(state.name);
    kinds.emplace_back(state.kind == State::exact ? "exact" : state.kind == State::moment ? "moment" : "square");
  }
  return py::make_tuple(py::cast(states), py::cast(entry.numbers), py::cast(entry.options), py::cast(kinds),
                        entry.kernels[0].has_rate());
}

double square_sum(const Kernels& kernels, py::handle object) {
  const Array array(object, {"square_sum", "array"});
  expect_contiguous(array, {"square_sum", "array"});
  const Kernel& kernel = kernels.run<&find_rule>("sgd")->kernels[array.dtype() == Dtype::float32 ? 0 : 1];
  const WithoutGil release;
  return kernels.run<&squared_norm>(kernel, array.data<void>(), array.size());
}

}  // namespace

void bind_plans(py::module_& m) {
  py::class_<Turn>(m, "Turn", py::module_local(), "The lock of one optimizer; an error where its owner takes it again.")
      .def(py::init<std::string>(), py::arg("name"))
      .def("__enter__", &Turn::enter)
      .def("__exit__", [](Turn& turn, const py::args&) { turn.exit(); });
  py::class_<BoundPlan>(m, "Plan", py::module_local(),
                        "Parameters with their rules and state: checked once, stepped often.")
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
}

void bind_optim(py::module_& m, const Kernels& kernels) {
  bind_subclass<BoundPlan, std::string, py::list, py::object>(m, kernels, "Plan", py::arg("function"),
                                                              py::arg("members"), py::arg("count") = py::none());
  m.def("square_sum", bound(kernels, square_sum), py::arg("array"),
        "The sum of the squares of an array's elements, in double.");
  py::dict table;
  for (const Entry& entry : kernels.run<&rules>()) table[entry.name] = described(entry);
  m.attr("rules") = table;
}

}  // namespace fastopt
