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

/// A copy of the last elements of an array, filled up to a whole block.
class PaddedTail {
 public:
  PaddedTail(const StoredArray& whole, std::size_t at, std::size_t n) : whole_(whole), at_(at), n_(n) {
    stored = whole;
    stored.numbers = numbers_;
    stored.more = more_;
    if (whole.scales != nullptr) stored.scales = whole.scales + at / kScaleBlock;
  }

  void read() {
    std::memcpy(numbers_, static_cast<const char*>(whole_.numbers) + at_ * number_bytes(), n_ * number_bytes());
    if (more_bytes() != 0)
      std::memcpy(more_, static_cast<const char*>(whole_.more) + at_ * more_bytes(), n_ * more_bytes());
  }
  void write() const {
    std::memcpy(static_cast<char*>(whole_.numbers) + at_ * number_bytes(), numbers_, n_ * number_bytes());
    if (more_bytes() != 0) std::memcpy(static_cast<char*>(whole_.more) + at_ * more_bytes(), more_, n_ * more_bytes());
  }

  StoredArray stored;

 private:
  std::size_t number_bytes() const { return whole_.scales != nullptr ? 1 : 2; }
  std::size_t more_bytes() const {
    return whole_.rest == Rest::compensation ? 2 : whole_.rest == Rest::correction ? 1 : 0;
  }

  const StoredArray& whole_;
  std::size_t at_, n_;
  alignas(64) std::uint16_t numbers_[kScaleBlock] = {};
  alignas(64) std::uint16_t more_[kScaleBlock] = {};
};

template <class Layout> void decode_any(const StoredArray& stored, std::size_t at, std::size_t n, float* to) {
  const std::size_t whole = n - n % kScaleBlock;
  Layout::decode(stored, at, whole, to);
  if (whole == n) return;
  PaddedTail tail(stored, at + whole, n - whole);
  tail.read();
  Layout::decode(tail.stored, 0, kScaleBlock, to + whole);
}

template <class Layout, class How>
void encode_any(const StoredArray& stored, std::size_t at, std::size_t n, const float* from, const Random& random) {
  const std::size_t whole = n - n % kScaleBlock;
  Layout::encode(stored, at, whole, from, How(random));
  if (whole == n) return;
  alignas(64) float last[kScaleBlock] = {};
  std::memcpy(last, from + whole, (n - whole) * sizeof(float));
  PaddedTail tail(stored, at + whole, n - whole);
  alignas(64) std::uint32_t thresholds[kScaleBlock] = {};
  if (random.table != nullptr) std::memcpy(thresholds, random.table + whole, (n - whole) * sizeof *thresholds);
  Layout::encode(tail.stored, 0, kScaleBlock, last, How({thresholds, random.offset}));
  tail.write();
}

inline void decode_exact(const StoredArray& stored, std::size_t at, std::size_t n, float* to) {
  std::memcpy(to, static_cast<const float*>(stored.numbers) + at, n * sizeof(float));
}
inline void encode_exact(const StoredArray& stored, std::size_t at, std::size_t n, const float* from, const Random&) {
  std::memcpy(static_cast<float*>(stored.numbers) + at, from, n * sizeof(float));
}

/// An array with the functions that read and write it.
class Codec {
 public:
  Codec() = default;

  Codec(const StoredArray& stored, Rounding rounding) : stored_(stored) {
    const auto choose = [&]<class Layout>(Layout) {
      decode_ = &decode_any<Layout>;
      encode_ = rounding == Rounding::nearest ? &encode_any<Layout, Nearest>
                : rounding == Rounding::high  ? &encode_any<Layout, High>
                                              : &encode_any<Layout, Low>;
    };
    const auto halves = [&]<class Code>(Code) {
      stored.rest == Rest::compensation ? choose(Compensated<Code>{}) : choose(InHalves<Code>{});
    };
    switch (stored.format) {
      case Format::exact:
        break;
      case Format::float16:
        halves(Float16{});
        break;
      case Format::bfloat16:
        stored.rest == Rest::correction ? choose(Corrected{}) : halves(Bfloat16{});
        break;
      case Format::moment8:
        choose(InBlocks<Moment8>{});
        break;
      case Format::square8:
        choose(InBlocks<Square8>{});
        break;
    }
  }

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
  void (*decode_)(const StoredArray&, std::size_t, std::size_t, float*) = &decode_exact;
  void (*encode_)(const StoredArray&, std::size_t, std::size_t, const float*, const Random&) = &encode_exact;
};

}  // namespace fastopt
