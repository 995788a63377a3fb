/// The functions of codecs: the only file that instantiates them.
#include "core/codec/codec.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fastopt {

namespace {

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

void decode_exact(const StoredArray& stored, std::size_t at, std::size_t n, float* to) {
  std::memcpy(to, static_cast<const float*>(stored.numbers) + at, n * sizeof(float));
}
void encode_exact(const StoredArray& stored, std::size_t at, std::size_t n, const float* from, const Random&) {
  std::memcpy(static_cast<float*>(stored.numbers) + at, from, n * sizeof(float));
}

}  // namespace

Codec::Codec(const StoredArray& stored, Rounding rounding)
    : stored_(stored), decode_(&decode_exact), encode_(&encode_exact) {
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

}  // namespace fastopt
