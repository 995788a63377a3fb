/// The function that a library of kernels exports.
#include "core/threads/parallel.hpp"
#include "library/functions.hpp"

namespace fastopt {
namespace {

constexpr Kernels kKernels{Kernels::filled()};

}  // namespace
}  // namespace fastopt

extern "C" [[gnu::visibility("default")]] const fastopt::Kernels* fastopt_kernels(std::uint64_t version,
                                                                                  const fastopt::Team& team) {
  if (version != fastopt::Kernels::version()) return nullptr;
  fastopt::team = team;
  return &fastopt::kKernels;
}
