/// The floating-point environment in which all work runs.
#pragma once

#include "core/simd.hpp"

namespace fastopt {

/// While one of these lives, subnormal numbers are zero for the thread that made it, as operands and as results.
class FlushSubnormals {
 public:
  FlushSubnormals() : saved_(float_control()) { set_float_control(saved_ | kFlushSubnormals); }
  ~FlushSubnormals() { set_float_control(saved_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  FloatControl saved_;
};

}  // namespace fastopt
