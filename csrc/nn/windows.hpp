/// Windows that slide over images, for pooling and convolution, and where the elements of images lie.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace fastopt {

inline std::size_t size(std::ptrdiff_t n) { return static_cast<std::size_t>(n); }

/// Windows along one axis: element k of window o is at o·stride − padding + k·dilation, if that is in [0, in).
struct Windows {
  std::ptrdiff_t in, out;  ///< elements, windows
  std::ptrdiff_t size, stride, padding, dilation;

  std::ptrdiff_t at(std::ptrdiff_t window, std::ptrdiff_t k) const { return window * stride - padding + k * dilation; }
  bool inside(std::ptrdiff_t at) const { return at >= 0 && at < in; }

  struct Range {
    std::ptrdiff_t begin, end;
  };
  /// The windows whose element k is inside.
  Range windows(std::ptrdiff_t k) const {
    const std::ptrdiff_t first = padding - k * dilation;  // of o·stride, at least; below first + in
    const auto up = [&](std::ptrdiff_t n) { return divided_up(n, stride); };
    const std::ptrdiff_t begin = std::min(up(first), out);
    return {begin, std::max(begin, std::min(up(first + in), out))};
  }
  /// The elements of a window that are inside.
  Range elements(std::ptrdiff_t window) const {
    const std::ptrdiff_t first = at(window, 0);
    const auto up = [&](std::ptrdiff_t n) { return divided_up(n, dilation); };
    const std::ptrdiff_t begin = std::min(up(-first), size);
    return {begin, std::max(begin, std::min(up(in - first), size))};
  }
  /// The window whose element k is at `at`; -1 if there is none.
  std::ptrdiff_t window_of(std::ptrdiff_t at, std::ptrdiff_t k) const {
    const std::ptrdiff_t n = at + padding - k * dilation;
    return n >= 0 && n % stride == 0 && n / stride < out ? n / stride : -1;
  }
  /// n/by, rounded up, but at least 0; divisions take as long as a short row.
  static std::ptrdiff_t divided_up(std::ptrdiff_t n, std::ptrdiff_t by) {
    if (n <= 0) return 0;
    return by == 1 ? n : (n + by - 1) / by;
  }
  /// One more than the distance from the first to the last element of a window.
  std::ptrdiff_t reach() const { return (size - 1) * dilation + 1; }
};

/// An array of images: how many, and how far apart elements are along each axis, in elements.
struct Images {
  std::ptrdiff_t samples, channels;
  std::ptrdiff_t sample, channel, row, column;  ///< strides
  bool operator==(const Images&) const = default;

  std::ptrdiff_t offset(std::ptrdiff_t n, std::ptrdiff_t c, std::ptrdiff_t y, std::ptrdiff_t x) const {
    return n * sample + c * channel + y * row + x * column;
  }
};

/// The windows in which each element of an axis is, in ascending order, as (window, element of it).
class WindowsOf {
 public:
  struct One {
    std::ptrdiff_t window, k;
  };

  explicit WindowsOf(const Windows& axis) : begin_(static_cast<std::size_t>(axis.in) + 1) {
    for (std::ptrdiff_t at = 0; at < axis.in; ++at) {
      for (std::ptrdiff_t k = axis.size; k-- > 0;)
        if (const std::ptrdiff_t window = axis.window_of(at, k); window >= 0) all_.push_back({window, k});
      begin_[static_cast<std::size_t>(at) + 1] = all_.size();
    }
  }
  const One* begin(std::ptrdiff_t at) const { return all_.data() + begin_[static_cast<std::size_t>(at)]; }
  const One* end(std::ptrdiff_t at) const { return all_.data() + begin_[static_cast<std::size_t>(at) + 1]; }

 private:
  std::vector<std::size_t> begin_;
  std::vector<One> all_;
};

}  // namespace fastopt
