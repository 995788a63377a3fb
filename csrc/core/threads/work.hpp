/// The work of the threads of a team.
#pragma once

#include <type_traits>

namespace fastopt {

/// A reference to the work of one thread of a team: body(thread, threads).  It is not a template parameter, so that the
/// code around it is compiled once.
class Work {
 public:
  template <class Body>
    requires(!std::is_same_v<std::remove_cvref_t<Body>, Work>)
  Work(Body&& body)  // NOLINT: a conversion
      : body_(const_cast<void*>(static_cast<const void*>(&body))), call_([](void* of, int thread, int threads) {
          (*static_cast<std::remove_reference_t<Body>*>(of))(thread, threads);
        }) {}
  void operator()(int thread, int threads) const { call_(body_, thread, threads); }

 private:
  void* body_;
  void (*call_)(void*, int, int);
};

/// The two functions of the extension module that kernels call: it has the only team of threads (team.hpp), whatever the
/// number of instruction sets that are loaded.
struct Team {
  void (*parallel)(int threads, Work body);
  int (*size)();
};

}  // namespace fastopt
