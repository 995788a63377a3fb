/// The checks of a member, which run once: its parameter, its state, and the formats of both.
#include "bind/plan.hpp"

namespace fastopt {

void BoundPlan::add(std::size_t i, py::handle record) {
  labels_.push_back(py::cast<std::string>(record.attr("label")));
  const auto rule = py::cast<std::string>(record.attr("rule"));
  const Entry* entry = i != 0 && rule == entries_.back()->name ? entries_.back() : kernels_.run<&find_rule>(rule);
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
  if (const py::object initial = record.attr("initial"); !initial.is_none())  // only read; an overlap is found now
    member.initial = written(Array(initial, name("initial_params", i)), dtype, shape, "initial_params", i, false);
  if (const py::object average = record.attr("average"); !average.is_none())
    member.average = written(Array(average, name("ema_params", i)), dtype, shape, "ema_params", i);
  const py::object step = record.attr("step");
  member.step = counter(step, name("step", i));
  written_.add(step, "step" + labels_[i]);
  counts_.emplace_back(step, true, shapes_.size());
  plan_.members.push_back(member);
}

void BoundPlan::add_weights(Member& member, const Array& param, const std::string& weights, const py::object& object,
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

void BoundPlan::add_state(Member& member, Shape shape, Dtype computed, std::size_t s, py::handle object,
                          py::handle scale_object, const std::string& moments, std::size_t i) {
  const State& state = entries_[i]->states[s];
  const std::string argument = plural(state.name);
  const auto blocks = static_cast<std::ptrdiff_t>((member.size + kScaleBlock - 1) / kScaleBlock);
  if (member.kernel->factored()) {  // the means over rows and columns
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

void* BoundPlan::written(const Array& array, Dtype dtype, const Shape& shape, std::string_view argument, std::size_t i,
                         bool writes) {
  expect_dtype(array, dtype, name(argument, i));
  expect_shape(array, shape, name(argument, i));
  expect_contiguous(array, name(argument, i));
  if (writes) expect_writeable(array, name(argument, i));
  written_.add(array, std::string(argument) + labels_[i], true);
  checked_.emplace_back(array.object(), writes, place_of(shape, i));
  return array.data<void>();
}

std::size_t BoundPlan::place_of(const Shape& shape, std::size_t i) {
  if (checked_.size() > first_[i]) {
    const Checked& param = checked_[first_[i]];
    if (std::equal(shape.begin(), shape.end(), param.shape(shapes_), param.shape(shapes_) + param.ndim()))
      return param.shape();
  }
  shapes_.insert(shapes_.end(), shape.begin(), shape.end());
  return shapes_.size() - shape.size();
}

std::int64_t* BoundPlan::counter(const py::object& object, const Name& name) {
  if (!py::isinstance<py::array_t<std::int64_t>>(object))
    throw py::type_error(name.text() + " must be an int64 array without axes");
  auto array = py::reinterpret_borrow<py::array_t<std::int64_t>>(object);
  if (array.ndim() != 0 || !array.writeable())
    throw py::type_error(name.text() + " must be a writeable int64 array without axes");
  return array.mutable_data();
}

}  // namespace fastopt
