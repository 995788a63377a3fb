/// The floating-point environment in which all work runs.
#pragma once

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace fastopt {

/// The thread's control register of floating-point arithmetic, and the bits in it that make subnormal numbers zero,
/// both as operands and as results.
#if defined(__SSE2__)
using FloatControl = unsigned;
inline constexpr FloatControl kFlushSubnormals = 0x8040;  // FTZ and DAZ
inline FloatControl float_control() { return _mm_getcsr(); }
inline void set_float_control(FloatControl control) { _mm_setcsr(control); }
#elif defined(__aarch64__)
using FloatControl = unsigned long;
inline constexpr FloatControl kFlushSubnormals = 1UL << 24;  // FZ
inline FloatControl float_control() {
  FloatControl control;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  return control;
}
inline void set_float_control(FloatControl control) { asm volatile("msr fpcr, %0" ::"r"(control)); }
#else
using FloatControl = unsigned;
inline constexpr FloatControl kFlushSubnormals = 0;
inline FloatControl float_control() { return 0; }
inline void set_float_control(FloatControl) {}
#endif

/// As long as an object of this class lives, subnormal numbers are zero for the thread that made it, both as operands
/// and as results.
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
