/// Every update rule, one line each: the only file that instantiates them.
#include "optim/rules.hpp"

#include "optim/factored.hpp"
#include "optim/kernel.hpp"
#include "optim/rules/adadelta.hpp"
#include "optim/rules/adafactor.hpp"
#include "optim/rules/adagrad.hpp"
#include "optim/rules/adam.hpp"
#include "optim/rules/adamax.hpp"
#include "optim/rules/adan.hpp"
#include "optim/rules/ademamix.hpp"
#include "optim/rules/adopt.hpp"
#include "optim/rules/asgd.hpp"
#include "optim/rules/lion.hpp"
#include "optim/rules/muon.hpp"
#include "optim/rules/nadam.hpp"
#include "optim/rules/radam.hpp"
#include "optim/rules/rmsprop.hpp"
#include "optim/rules/rprop.hpp"
#include "optim/rules/schedule_free.hpp"
#include "optim/rules/sgd.hpp"
#include "optim/rules/trust.hpp"

namespace fastopt {

namespace {

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

}  // namespace

const std::vector<Entry>& rules() {
  // Never destroyed: while the process ends, other threads may still be in a step.
  static const std::vector<Entry>& rules = *new std::vector<Entry>{
      entry<SGD>("sgd"),
      entry<SGDMomentum>("sgd_momentum"),
      entry<SGDVelocity>("sgd_velocity"),
      entry<Adam>("adam"),
      entry<AdamProjected>("adam_projected"),
      entry<AMSGrad>("amsgrad"),
      entry<Adagrad>("adagrad"),
      entry<RMSprop>("rmsprop"),
      entry<RMSpropMomentum>("rmsprop_momentum"),
      entry<RMSpropVelocity>("rmsprop_velocity"),
      entry<RMSpropCentered>("rmsprop_centered"),
      entry<RMSpropCenteredMomentum>("rmsprop_centered_momentum"),
      entry<RMSpropCenteredVelocity>("rmsprop_centered_velocity"),
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
      entry<ADOPT>("adopt"),
      entry<AdEMAMix>("ademamix"),
      entry<ScheduleFreeSGD>("schedule_free_sgd"),
      entry<Adafactor>("adafactor"),
      entry<AdafactorFactored>("adafactor_factored"),
      entry<ScheduleFreeAdamW>("schedule_free_adamw"),
      entry<MuonMomentum>("muon_momentum"),
  };
  return rules;
}

const Entry* find_rule(const std::string& name) {
  for (const Entry& entry : rules())
    if (name == entry.name) return &entry;
  return nullptr;
}

}  // namespace fastopt
