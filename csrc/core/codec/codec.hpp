/// Codecs: decode() and encode() convert parts of arrays of any format to float32 and back.
///
/// All of it is arithmetic with the bits of float32, the same on every instruction set.  Subnormal float32 numbers count
/// as 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/codec/block8.hpp"
#include "core/codec/half.hpp"
#include "core/codec/rest.hpp"
#include "core/codec/rounding.hpp"
#include "core/codec/stored.hpp"

namespace fastopt {

// A layout reads and writes n elements from number `at` on; n is a multiple of kScaleBlock.

template <class Code> struct InHalves {
  [[gnu::always_inline]] static void decode(const StoredArray& stored, std::size_t at, std::size_t n, float* to) {
    const auto* from = static_cast<const std::uint16_t*>(stored.numbers) + at;
    for (std::size_t i = 0; i < n; i += kPair) store_pair(to + i, Code::decode(load<Halves>(from + i)));
  }

  template <class How>
  [[gnu::always_inline]] static void encode(const StoredArray& stored, std::size_t at, std::size_t n, const float* from,
                                            How how) {
    auto* to = static_cast<std::uint16_t*>(stored.numbers) + at;
    for (std::size_t i = 0; i < n; i += kPair) store(to + i, Code::encode(load_pair(from + i), i, how));
  }
};

template <class Code> struct InBlocks {
  [[gnu::always_inline]] static void decode(const StoredArray& stored, std::size_t at, std::size_t n, float* to) {
    const auto* codes = static_cast<const std::uint8_t*>(stored.numbers) + at;
    const std::uint8_t* scales = stored.scales + at / kScaleBlock;
    for (std::size_t i = 0; i < n; i += kScaleBlock) decode_block<Code>(codes + i, scales[i / kScaleBlock], to + i);
  }

  template <class How>
  [[gnu::always_inline]] static void encode(const StoredArray& stored, std::size_t at, std::size_t n, const float* from,
                                            How how) {
    auto* codes = static_cast<std::uint8_t*>(stored.numbers) + at;
    std::uint8_t* scales = stored.scales + at / kScaleBlock;
    for (std::size_t i = 0; i < n; i += kScaleBlock)
      encode_block<Code>(from + i, i, codes + i, scales + i / kScaleBlock, how);
  }
};

/// An array with the functions that read and write it.
class Codec {
 public:
  Codec() = default;
  Codec(const StoredArray& stored, Rounding rounding);

  /// Writes elements [at, at + n) to `to` as float32, and up to 63 more numbers behind them.  In formats of 8 bits
  /// at % kScaleBlock must be 0.
  void decode(std::size_t at, std::size_t n, float* to) const { decode_(stored_, at, n, to); }

  /// Writes elements [at, at + n), within one segment, from float32; `random` has the thresholds from `at` on.
  /// In formats of 8 bits at % kScaleBlock must be 0.
  void encode(std::size_t at, std::size_t n, const float* from, const Random& random) const {
    encode_(stored_, at, n, from, random);
  }

 private:
  StoredArray stored_;
  void (*decode_)(const StoredArray&, std::size_t, std::size_t, float*) = nullptr;
  void (*encode_)(const StoredArray&, std::size_t, std::size_t, const float*, const Random&) = nullptr;
};

}  // namespace fastopt
