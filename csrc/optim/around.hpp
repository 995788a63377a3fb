/// The options that surround every rule, whatever its formula.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

namespace fastopt {

/// The options that every rule has in addition to its own hyperparameters, for one step.
struct Around {
  static constexpr std::array options{"maximize", "l2",    "l1",   "l2_init",   "decay",      "pull",      "threshold",
                                      "proximal", "noise", "seed", "ema_decay", "ema_warmup", "swa_start", "swa_freq"};

  double sign;       ///< −1 to maximize
  double l2;         ///< g ← g + l2·p
  double l1;         ///< g ← g + l1·sign(p)
  double l2_init;    ///< g ← g + l2_init·(p − p₀)
  double decay;      ///< p ← decay·p before the rule's own update
  double pull;       ///< p ← p + pull·(p₀ − p) after it
  double threshold;  ///< then |p| ← max(|p| − threshold, 0)
  double proximal;   ///< or |p| ← max(|p| − proximal·rate, 0), with the rule's rate for each element
  double noise;      ///< the standard deviation of the noise that is added to g
  double average;    ///< finally a ← a + average·(p − a); 0 leaves a alone
  std::uint64_t seed;
  std::uint32_t step;

  Around(const double* o, double step)
      : sign(o[0] != 0 ? -1 : 1),
        l2(o[1]),
        l1(o[2]),
        l2_init(o[3]),
        decay(o[4]),
        pull(o[5]),
        threshold(o[6]),
        proximal(o[7]),
        noise(o[8]),
        average(0),
        seed(static_cast<std::uint64_t>(o[9])),
        step(static_cast<std::uint32_t>(static_cast<std::uint64_t>(step))) {
    const double ema_decay = o[10], swa_start = o[12], swa_freq = o[13];
    const bool warmup = o[11] != 0;
    if (ema_decay >= 0) average = 1 - (warmup ? std::min(ema_decay, (1 + step) / (10 + step)) : ema_decay);
    if (swa_start > 0 && step >= swa_start && std::fmod(step - swa_start, swa_freq) == 0)
      average = 1 / ((step - swa_start) / swa_freq + 1);
  }

  bool shapes_gradient() const { return l2_init != 0 || noise != 0; }  ///< by other terms than l2 and l1
  bool finishes() const { return pull != 0 || threshold != 0 || proximal != 0 || average != 0; }
};

}  // namespace fastopt
