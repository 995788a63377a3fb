/// Rounding to fewer bits: to the nearest, or at random by thresholds.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/random.hpp"
#include "core/simd.hpp"

namespace fastopt {

inline constexpr std::size_t kSegment = 1024;  ///< elements whose thresholds share a random number

/// How numbers are rounded: to the nearest, or at random by the upper or the lower bits of a threshold.
enum class Rounding : std::uint8_t { nearest, high, low };

/// Thresholds: element i of a segment has table[i] + offset.
struct Random {
  const std::uint32_t* table = nullptr;
  std::uint32_t offset = 0;
};

// Each of these returns the summand that rounds: it is added to the bits of a number before the last Dropped bits, at
// most 20, are cut off.

struct Nearest {  // half a unit of what remains; a tie goes to the even number
  explicit Nearest(const Random&) {}
  template <std::uint32_t Dropped> Word of(Word bits, std::size_t) const {
    return ((1u << (Dropped - 1)) - 1) + (bits >> Dropped & 1);
  }
};
struct High : Random {
  explicit High(const Random& random) : Random(random) {}
  template <std::uint32_t Dropped> Word of(Word, std::size_t i) const {
    return (load<Word>(table + i) + offset) >> (32 - Dropped);
  }
};
struct Low : Random {  // the lower 20 bits
  explicit Low(const Random& random) : Random(random) {}
  template <std::uint32_t Dropped> Word of(Word, std::size_t i) const {
    const Word low = (load<Word>(table + i) + offset) & 0xfffff;
    return Dropped == 20 ? low : low >> (20 - Dropped);
  }
};

namespace detail {

/// A random word for each place in a segment, the same for all arrays and steps.
inline const std::uint32_t* threshold_table() {
  struct Table {
    alignas(64) std::array<std::uint32_t, kSegment> words;
    Table() {
      for (std::size_t block = 0; block < kSegment / kRandomWords; ++block) {
        const auto some = random_words({~std::uint64_t{0}, 0, 0}, block);
        std::memcpy(words.data() + block * kRandomWords, &some, sizeof some);
      }
    }
  };
  static const Table table;
  return table.words.data();
}

}  // namespace detail

/// The thresholds of a segment.  Over the elements they are uniform; over the steps each one follows the golden-ratio
/// sequence (Weyl 1916), which is as even as a sequence can be: a number that drifts at a constant rate moves by one
/// unit at equal intervals.
class Thresholds {
 public:
  static constexpr std::size_t kRoles = 3;  ///< each has thresholds for two arrays

  Thresholds(const Stream& stream, std::size_t segment) {
    constexpr std::uint32_t kGolden = 0x9E39E377;  // the ratio times 2³², and its last 20 bits the ratio times 2²⁰
    const auto key = random_words({stream.seed, 0, stream.member}, segment);
    for (std::size_t role = 0; role < kRoles; ++role) offsets_[role] = key[0][role] + stream.step * kGolden;
  }

  /// The thresholds from element `at` of the array on.
  Random from(std::size_t at, std::size_t role) const {
    return {detail::threshold_table() + at % kSegment, offsets_[role]};
  }

 private:
  std::uint32_t offsets_[kRoles];
};

}  // namespace fastopt
