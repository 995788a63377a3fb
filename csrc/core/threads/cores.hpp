/// Which cores threads may run on.
#pragma once

#include <omp.h>

#if defined(__linux__)
#include <dirent.h>
#include <sched.h>

#include <cstdlib>
#endif

namespace fastopt {

/// A set of cores.  It is unknown where the system does not say.
class Cores {
 public:
#if defined(__linux__)
  /// The cores that a thread of this process may run on; without an id, the calling thread.
  static Cores of_thread(int id = 0) {
    Cores cores;
    cores.known_ = sched_getaffinity(id, sizeof cores.set_, &cores.set_) == 0;
    return cores;
  }

  /// The cores that at least one thread of this process may run on.
  static Cores of_process() {
    Cores all;
    DIR* const tasks = opendir("/proc/self/task");
    if (tasks == nullptr) return all;
    while (const dirent* const entry = readdir(tasks)) {
      const int id = std::atoi(entry->d_name);  // 0: "." and ".."
      const Cores some = id > 0 ? of_thread(id) : Cores();
      if (some.known_) CPU_OR(&all.set_, &all.set_, &some.set_);
    }
    closedir(tasks);
    all.known_ = CPU_COUNT(&all.set_) > 0;
    return all;
  }

  /// The cores of the place that OpenMP has given to the calling thread; unknown where it has none.
  static Cores of_place() {
    Cores cores;
    const int place = omp_get_place_num();
    if (place < 0 || omp_get_place_num_procs(place) > CPU_SETSIZE) return cores;
    int ids[CPU_SETSIZE];
    omp_get_place_proc_ids(place, ids);
    for (int i = 0; i < omp_get_place_num_procs(place); ++i)
      if (ids[i] < CPU_SETSIZE) CPU_SET(static_cast<unsigned>(ids[i]), &cores.set_);
    cores.known_ = true;
    return cores;
  }

  static int current() { return sched_getcpu(); }

  int count() const { return CPU_COUNT(&set_); }
  Cores without(int core) const {
    Cores others = *this;
    if (core >= 0) CPU_CLR(static_cast<unsigned>(core), &others.set_);
    return others;
  }
  Cores operator&(const Cores& other) const {
    Cores both;
    both.known_ = known_ && other.known_;
    CPU_AND(&both.set_, &set_, &other.set_);
    return both;
  }
  bool operator==(const Cores& other) const { return known_ == other.known_ && CPU_EQUAL(&set_, &other.set_); }

  /// Lets the calling thread run on these cores and no others.
  bool confine() const { return known_ && sched_setaffinity(0, sizeof set_, &set_) == 0; }
  const cpu_set_t* set() const { return &set_; }
#else
  static Cores of_thread() { return {}; }
  static Cores of_place() { return {}; }
  static int current() { return -1; }
  int count() const { return 0; }
  Cores without(int) const { return {}; }
  Cores operator&(const Cores&) const { return {}; }
  bool operator==(const Cores&) const { return true; }
  bool confine() const { return false; }
#endif

  bool known() const { return known_; }

  /// Moves the calling thread to one of these cores, which must be a part of `all`, the cores on which it may run.  It
  /// may go back at once.
  bool move_within(const Cores& all) const {
    if (!known_ || count() == 0 || !confine()) return false;
    all.confine();
    return true;
  }

 private:
#if defined(__linux__)
  cpu_set_t set_{};
#endif
  bool known_ = false;
};

}  // namespace fastopt
