/// The types in which numbers are stored.
#pragma once

#include <cstdint>
#include <type_traits>

namespace fastopt {

struct float16 {
  std::uint16_t bits;
};
struct bfloat16 {
  std::uint16_t bits;
};

template <class S> inline constexpr bool is_16bit = std::is_same_v<S, float16> || std::is_same_v<S, bfloat16>;

/// The type in which numbers that are stored as S are computed.
template <class S> using Computed = std::conditional_t<is_16bit<S>, float, S>;

}  // namespace fastopt
