/// An array whose numbers are stored with fewer bits than they are computed with.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastopt {

inline constexpr std::size_t kScaleBlock = 64;  ///< elements that share an exponent in formats of 8 bits

/// How an array stores its numbers; `exact` means in the type in which they are computed.
enum class Format : std::uint8_t { exact, float16, bfloat16, moment8, square8 };

/// The residual of a weight of 16 bits.
enum class Rest : std::uint8_t {
  none,
  master,        ///< the weight itself as float32; the 16 bits are a copy of it
  compensation,  ///< the rounding error of the 16 bits, also in 16 bits.  Kahan 1965
  correction,    ///< the next 8 bits of a bfloat16, as an int8 that is added to its bits
};

/// An array and its format.
struct StoredArray {
  Format format = Format::exact;
  void* numbers = nullptr;
  std::uint8_t* scales = nullptr;  ///< b of each block, for 8 bits
  Rest rest = Rest::none;
  void* more = nullptr;  ///< the residual, unless it is a master
};

}  // namespace fastopt
