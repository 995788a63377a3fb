/// Normalizations of channels: groups of channels that share a statistic, and the passes over them.
///
/// BatchNorm, GroupNorm, InstanceNorm and weight normalization differ in their groups, and in the constants that they
/// derive from sums.  The passes over memory are the same, over planes or over columns:
///
///              reduce                     done(first, end, …)     map
///   planes     each group's planes    →   its constants       →   while its planes are in cache
///   columns    all chunks, in order   →   all constants       →   the chunks in the opposite order
#pragma once

#include <cstddef>
#include <functional>

#include "core/threads/environment.hpp"
#include "norm/channels/constants.hpp"
#include "norm/channels/layout.hpp"
#include "norm/channels/planes.hpp"
#include "norm/statistics.hpp"

namespace fastopt {

/// Groups of channels.  A set is a channel of a sample; it has constants of its own.  The `done` functions get the sums
/// of the groups [first, end), beginning with group `first`, and set these constants; several threads call them, for
/// different groups.
template <class S> class ChannelGroups {
 public:
  using T = Computed<S>;
  /// Called with the mean of each group and the sum of the squares around it.
  using MomentsDone = std::function<void(std::size_t first, std::size_t end, const double* mean, const double* m2)>;
  using SquaresDone = std::function<void(std::size_t group, double squares)>;
  /// Called with Σ g and Σ g (x − high) of each set of the groups; may overwrite them.
  using GradientDone = std::function<void(std::size_t first, std::size_t end, double* sum_g, double* sum_gd)>;

  /// Every channel is a group, over all samples.
  explicit ChannelGroups(const ChannelBatch<S>& batch)
      : batch_(batch), groups_(batch.in.count), size_(1), alone_(true), constants_(batch.sets()) {}

  /// The channels of each sample form `groups` groups.
  ChannelGroups(const ChannelBatch<S>& batch, std::size_t groups)
      : batch_(batch),
        groups_(groups),
        size_(groups ? batch.in.count / groups : 0),
        alone_(false),
        constants_(batch.sets()) {}

  std::size_t count() const { return batch_.samples * groups_; }
  std::size_t size() const { return size_; }                                             ///< channels in a group
  double values() const { return static_cast<double>(size_ * batch_.values_of_set()); }  ///< in a group
  std::size_t first_set(std::size_t group) const { return group * size_; }
  std::size_t first_channel(std::size_t group) const { return group % groups_ * size_; }
  const Constants<T>& constants() const { return constants_; }

  /// Takes the moments of every group; at least eps will be added to the variance.
  void moments(double eps, const MomentsDone& done) const;

  /// Takes the moments, and then computes y.
  void normalize(double eps, After after, const MomentsDone& done) const;

  /// Computes y with constants that are set already.
  void apply(After after) const;

  /// Takes Σ x² of every group, and then computes y.
  void normalize_by_squares(const SquaresDone& done) const;

  /// Takes Σ (x − middle)² of every channel, with a number `middle` for each.
  void squares_around(const double* middle, const SquaresDone& done) const;

  /// Takes the sums of the gradient; the constants of forward are set already.
  void gradient_sums(const GradientDone& done) const;

  /// Takes the sums of the gradient, and then computes dx; without `training` the statistics are constants.
  void differentiate(After after, bool training, const GradientDone& done) const;

  /// Computes dx with constants that are set already.
  void apply_gradient() const;

 private:
  /// Calls body(group, its planes, their list) in parallel.  The list is ordered by row, and within a row by channel.
  template <class Body> void for_groups(std::size_t arrays, const Body& body) const;

  void moments_of_columns(double eps, const MomentsDone& done) const;

  void gradient_sums_of_columns(After after, const GradientDone& done) const;
  template <After after>
  void gradient_sums_of_planes(std::size_t group, const Planes<S>& planes, const GradientDone& done) const;

  void moments_of_planes(std::size_t group, const Planes<S>& planes, double eps, const MomentsDone& done) const;

  void map_forward_planes(std::size_t group, const Planes<S>& planes, bool streamed, After after) const;
  void map_forward_columns(After after) const;

  void map_backward_planes(std::size_t group, const Planes<S>& planes, bool streamed, After after, bool training) const;
  void map_backward_columns(const ChannelBatch<S>& batch, After after, bool training) const;

  const ChannelBatch<S>& batch_;
  std::size_t groups_, size_;
  bool alone_;
  Constants<T> constants_;
};

}  // namespace fastopt
