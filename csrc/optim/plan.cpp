/// One step over a list of tensors.
#include "optim/plan.hpp"

#include <algorithm>
#include <cmath>

#include "core/cost.hpp"
#include "core/threads/parallel.hpp"
#include "optim/apply.hpp"
#include "optim/clip.hpp"
#include "optim/factored.hpp"

namespace fastopt {

double squared_norm(const Kernel& kernel, const void* numbers, std::size_t size) {
  Tensor tensor{};
  tensor.kernel = &kernel;
  tensor.size = size;
  tensor.grad = numbers;
  return squared_norms({tensor})[0];
}

namespace {

/// Proximal L1 where the rule has one rate for all elements.
void set_threshold(const Kernel& kernel, Setting& setting) {
  if (setting.around.proximal != 0 && kernel.rate != nullptr)
    setting.around.threshold = setting.around.proximal * kernel.rate(setting.rule);
}

}  // namespace

template <class T> void sum_rows(const SparseRows& sparse, T* to) {
  const double bytes = static_cast<double>(2 * sparse.places.size() * sparse.width * sizeof(T));
  parallel(threads_for(bytes * kStepPerByte), [&](int thread, int threads) {
    const Range mine = share(sparse.count(), thread, threads);
    const std::size_t begin = mine.begin * sparse.width;
    RowReader<T>(sparse).copy(begin, mine.end * sparse.width - begin, to + begin);
  });
}

template void sum_rows(const SparseRows&, float*);
template void sum_rows(const SparseRows&, double*);

void Plan::add(std::size_t number, const void* data, Format format, const Rows* rows, const StepOptions& wish) {
  const std::size_t place = which_.size();
  which_.push_back(number);
  if (place == tensors_.size())
    tensors_.push_back(of_member(number));
  else if (tensors_[place].member != number)
    tensors_[place] = of_member(number);
  Tensor& tensor = tensors_[place];
  tensor.grad = data;
  tensor.grad_format = format;
  tensor.rows = rows;
  tensor.sparse = nullptr;
  tensor.scale = 1;
  tensor.unit_scale = nullptr;
  tensor.clip = wish.clip_value;
  tensor.zero = wish.zero_grads;
  tensor.row_factor = nullptr;
}

void Plan::add_rows(std::size_t number, SparseRows& sparse, const StepOptions& wish) {
  add(number, nullptr, Format::exact, nullptr, wish);
  Tensor& tensor = tensors_[which_.size() - 1];
  tensor.sparse = &sparse;
  tensor.zero = false;  // its caller's part
  sparse_.push_back(&sparse);
}

Outcome Plan::take(const StepOptions& wish) {
  tensors_.resize(which_.size());
  for (SparseRows* const sparse : sparse_) sparse->group();
  Outcome outcome;
  outcome.skipped = wish.scales() && !scale(wish, outcome.norm);
  if (outcome.skipped) {
    if (wish.zero_grads) zero(tensors_);
    return outcome;
  }
  count_step();
  factor(tensors_, row_factors_);
  if (measures_) measure();
  update(tensors_);
  return outcome;
}

void Plan::restart() {
  for (const Member& member : members) *member.step = 0;
  if (count != nullptr) *count = 0;
}

bool Plan::parallel() const {
  double bytes = 0;
  for (const std::size_t number : which_) bytes += members[number].bytes();
  return threads_for(bytes * kStepPerByte) > 1;
}

Tensor Plan::of_member(std::size_t number) const {
  const Member& member = members[number];
  Tensor tensor{};
  tensor.kernel = member.kernel;
  tensor.size = member.size;
  tensor.param = member.param;
  tensor.state = member.state;
  tensor.initial = member.initial;
  tensor.average = member.average;
  tensor.unit = member.unit;
  tensor.member = static_cast<std::uint32_t>(number);
  tensor.columns = member.columns;
  tensor.matrix_rows = member.matrix_rows;
  tensor.storage = member.packed ? &member.storage : nullptr;
  return tensor;
}

bool Plan::scale(const StepOptions& wish, std::optional<double>& norm) {
  const double size_of_scale = std::abs(wish.grad_scale);
  std::vector<double> squares;
  if (wish.needs_norms()) squares = squared_norms(tensors_);
  if (wish.clip_norm >= 0 || wish.skip_nonfinite) {
    double sum = 0;
    for (const double square : squares) sum += square;
    norm = std::sqrt(sum) / size_of_scale;
    if (wish.skip_nonfinite && !std::isfinite(*norm))
      for (std::size_t t = 0; t < tensors_.size(); ++t)
        if (!is_finite(tensors_[t], squares[t])) return false;
  }
  for (std::size_t t = 0; t < tensors_.size(); ++t) {
    double scale = 1 / wish.grad_scale;
    if (wish.clip_norm >= 0 && std::isfinite(wish.clip_norm))
      scale *= clip_factor(wish.clip_norm, *norm);
    else if (wish.clip_param_norm >= 0)
      scale *= clip_factor(wish.clip_param_norm, std::sqrt(squares[t]) / size_of_scale);
    tensors_[t].scale = scale;
  }
  if (wish.clip_adaptive >= 0) {
    const auto norms = squared_norms_of_units(tensors_);
    unit_scales_.resize(norms.size());
    std::size_t unit = 0;
    for (Tensor& tensor : tensors_) {
      tensor.unit_scale = unit_scales_.data() + unit;
      for (std::size_t u = 0; u < tensor.size / tensor.unit; ++u, ++unit) {
        const double grad = std::sqrt(norms[unit][0]) / size_of_scale;
        const double most = wish.clip_adaptive * std::max(std::sqrt(norms[unit][1]), 1e-3);
        unit_scales_[unit] = grad < most ? 1.0 : most / std::max(grad, 1e-6);
      }
    }
  }
  return true;
}

void Plan::count_step() {
  settings_.clear();
  settings_.reserve(tensors_.size());
  measures_ = false;
  measured_ = {};
  std::int64_t step = 0;
  std::size_t group = 0;
  bool shared = false;  // whether other tensors may use the last setting
  for (std::size_t t = 0; t < tensors_.size(); ++t) {
    const Member& member = members[which_[t]];
    const Kernel& kernel = *member.kernel;
    ++*member.step;
    if (!shared || *member.step != step || member.group != group || tensors_[t - 1].kernel != &kernel) {
      step = *member.step;
      group = member.group;
      shared = kernel.numbers == 0 && kernel.sums == 0;
      const double* of_group = options[group].data();
      Setting& setting = settings_.emplace_back(Setting{{}, Around(of_group, static_cast<double>(step))});
      std::array<double, kMostNumbers> numbers{};
      for (std::size_t n = 0; n < kernel.numbers; ++n) numbers[n] = *member.numbers[n];
      kernel.construct(setting.rule, of_group + Around::options.size(), static_cast<double>(step), numbers.data());
      for (std::size_t n = 0; n < kernel.numbers; ++n) *member.numbers[n] = numbers[n];
      set_threshold(kernel, setting);
    }
    measures_ = measures_ || kernel.sums != 0;
    tensors_[t].setting = &settings_.back();
    tensors_[t].scale *= settings_.back().around.sign;
  }
  if (count != nullptr) ++*count;
}

void Plan::measure() {
  const auto sums = fastopt::measured(tensors_);
  for (std::size_t t = 0; t < tensors_.size(); ++t) {
    const Kernel& kernel = *tensors_[t].kernel;
    for (std::size_t k = 0; k < kernel.sums; ++k) measured_[k] += sums[t * kMostSums + k];
    if (kernel.sums == 0) continue;
    Setting& setting = const_cast<Setting&>(*tensors_[t].setting);
    kernel.conclude(setting.rule, &sums[t * kMostSums], static_cast<double>(tensors_[t].size));
    set_threshold(kernel, setting);
  }
}

}  // namespace fastopt
