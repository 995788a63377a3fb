/// What surrounds the product of a convolution, for both types.
#include "nn/convolution.hpp"

#include <algorithm>
#include <vector>

#include "core/cost.hpp"
#include "core/reduce.hpp"
#include "core/threads/parallel.hpp"
#include "nn/phases.hpp"

namespace fastopt {

namespace {

template <class T> double cost(std::ptrdiff_t elements) {
  return static_cast<double>(size(elements) * sizeof(T)) * kRowCopyPerByte;
}

/// Copies and clears that are too short for a call.
template <class T> inline void move(const T* from, std::ptrdiff_t count, T* to) {
  each<T>(size(count), [&](std::size_t i, auto number) { store(to + i, load<decltype(number)>(from + i)); });
}
template <class T> inline void clear(T* to, std::ptrdiff_t count) {
  each<T>(size(count), [&](std::size_t i, auto number) { store(to + i, decltype(number){}); });
}
template <class T> inline void add(const T* from, std::ptrdiff_t count, T* to) {
  each<T>(size(count), [&](std::size_t i, auto number) {
    using V = decltype(number);
    store(to + i, load<V>(to + i) + load<V>(from + i));
  });
}

/// The columns [begin, end) that windows [first, last) have as their element kx.
struct Span {
  std::ptrdiff_t begin, end, column;
  Span(const Windows& wide, std::ptrdiff_t kx) : begin(wide.windows(kx).begin), end(wide.windows(kx).end) {
    column = wide.at(begin, kx);
  }
};

/// Calls body(n, begin, end, p) for the samples of a piece: their rows of windows [begin, end), from window p on.
template <class Body> inline void for_samples(const Convolution& conv, const Piece& piece, const Body& body) {
  for (std::ptrdiff_t row = piece.first, last = piece.first + piece.count, end; row < last; row = end) {
    const std::ptrdiff_t n = row / conv.y.out;
    end = std::min(last, (n + 1) * conv.y.out);
    body(n, row - n * conv.y.out, end - n * conv.y.out, (row - piece.first) * conv.x.out);
  }
}

/// Whether rows of windows and rows of the image follow one another in the same way, as where padding keeps the size: then
/// what windows have as one of their elements is the plane itself, shifted.
bool is_shifted(const Convolution& conv, const Images& in) {
  return conv.x.stride == 1 && conv.y.stride == 1 && conv.x.out == conv.x.in && in.column == 1 && in.row == conv.x.in;
}

/// The rows of windows of [begin, end) that have row ky of them inside.
Windows::Range rows_inside(const Windows& tall, std::ptrdiff_t ky, std::ptrdiff_t begin, std::ptrdiff_t end) {
  const auto [first, last] = tall.windows(ky);
  begin = std::clamp(first, begin, end);
  return {begin, std::clamp(last, begin, end)};
}

/// 0 for what the windows of some rows have outside of the image on its left and right.
template <class T> void clear_outside(const Span& span, std::ptrdiff_t rows, std::ptrdiff_t wide, T* to) {
  if (span.begin == 0 && span.end == wide) return;
  for (std::ptrdiff_t row = 0; row < rows; ++row, to += wide) {
    for (std::ptrdiff_t i = 0; i < span.begin; ++i) to[i] = 0;
    for (std::ptrdiff_t i = span.end; i < wide; ++i) to[i] = 0;
  }
}

template <class T>
void unfold_planes(const Convolution& conv, const Piece& piece, const T* x, const Images& in, T* matrix) {
  const std::ptrdiff_t wide = conv.x.out, length = piece.count * wide, rows = in.channels * conv.elements();
  const bool shifted = is_shifted(conv, in);
  parallel(threads_for(cost<T>(rows * length)), [&](int thread, int threads) {
    const Range mine = share(size(rows), thread, threads);
    for (auto row = static_cast<std::ptrdiff_t>(mine.begin); row < static_cast<std::ptrdiff_t>(mine.end); ++row) {
      const std::ptrdiff_t c = row / conv.elements(), ky = row % conv.elements() / conv.x.size, kx = row % conv.x.size;
      const Span span(conv.x, kx);
      for_samples(conv, piece, [&](std::ptrdiff_t n, std::ptrdiff_t begin, std::ptrdiff_t end, std::ptrdiff_t p) {
        T* to = matrix + row * length + p;
        if (shifted && span.begin < span.end) {
          const auto [first, last] = rows_inside(conv.y, ky, begin, end);
          clear(to, (first - begin) * wide);
          if (first < last) {
            T* const inside = to + (first - begin) * wide;
            move(x + in.offset(n, c, conv.y.at(first, ky), span.column),
                 (last - first) * wide - span.begin - (wide - span.end), inside + span.begin);
            clear_outside(span, last - first, wide, inside);
          }
          clear(to + (last - begin) * wide, (end - last) * wide);
          return;
        }
        for (std::ptrdiff_t oy = begin; oy < end; ++oy, to += wide) {
          const std::ptrdiff_t y = conv.y.at(oy, ky);
          if (!conv.y.inside(y)) {
            clear(to, wide);
            continue;
          }
          clear(to, span.begin);
          if (span.begin < span.end)
            take_every(x + in.offset(n, c, y, span.column), conv.x.stride * in.column, size(span.end - span.begin),
                       to + span.begin);
          clear(to + span.end, wide - span.end);
        }
      });
    }
  });
}

template <class T>
void unfold_columns(const Convolution& conv, const Piece& piece, const T* x, const Images& in, T* matrix) {
  const std::ptrdiff_t windows = piece.count * conv.x.out, channels = in.channels / conv.groups;
  const std::ptrdiff_t length = conv.elements() * channels;
  std::vector<Windows::Range> inside;
  for (std::ptrdiff_t ox = 0; ox < conv.x.out; ++ox) inside.push_back(conv.x.elements(ox));
  const bool whole = conv.groups == 1 && conv.x.dilation == 1 && in.channel == 1 && in.column == in.channels;
  parallel(threads_for(cost<T>(windows * length * conv.groups)), [&](int thread, int threads) {
    const Range mine = share(size(windows), thread, threads);
    for (auto p = static_cast<std::ptrdiff_t>(mine.begin); p < static_cast<std::ptrdiff_t>(mine.end); ++p) {
      const std::ptrdiff_t row = piece.first + p / conv.x.out, ox = p % conv.x.out;
      const std::ptrdiff_t n = row / conv.y.out, oy = row % conv.y.out;
      const auto [begin, end] = inside[size(ox)];
      for (std::ptrdiff_t g = 0; g < conv.groups; ++g) {
        T* to = matrix + (g * windows + p) * length;
        for (std::ptrdiff_t ky = 0; ky < conv.y.size; ++ky, to += conv.x.size * channels) {
          const std::ptrdiff_t y = conv.y.at(oy, ky);
          if (!conv.y.inside(y) || begin >= end) {
            clear(to, conv.x.size * channels);
            continue;
          }
          clear(to, begin * channels);
          if (whole) {
            move(x + in.offset(n, 0, y, conv.x.at(ox, begin)), (end - begin) * channels, to + begin * channels);
          } else {
            for (std::ptrdiff_t kx = begin; kx < end; ++kx)
              take_every(x + in.offset(n, g * channels, y, conv.x.at(ox, kx)), in.channel, size(channels),
                         to + kx * channels);
          }
          clear(to + end * channels, (conv.x.size - end) * channels);
        }
      }
    }
  });
}

template <class T> void fold_planes(const Convolution& conv, const Piece& piece, T* matrix, T* dx, const Images& in) {
  const bool shifted = is_shifted(conv, in);
  const std::ptrdiff_t wide = conv.x.out, length = piece.count * wide;
  const std::ptrdiff_t first = piece.first / conv.y.out,
                       samples = (piece.first + piece.count - 1) / conv.y.out - first + 1;
  parallel(threads_for(cost<T>(2 * in.channels * conv.elements() * length)), [&](int thread, int threads) {
    const Range mine = share(size(samples * in.channels), thread, threads);
    for (auto plane = static_cast<std::ptrdiff_t>(mine.begin); plane < static_cast<std::ptrdiff_t>(mine.end); ++plane) {
      const std::ptrdiff_t n = first + plane / in.channels, c = plane % in.channels;
      const std::ptrdiff_t before = n * conv.y.out - piece.first;  // rows of the piece before this sample
      const std::ptrdiff_t begin = std::max<std::ptrdiff_t>(0, -before),
                           end = std::min(conv.y.out, piece.count - before);
      if (begin == 0)
        for (std::ptrdiff_t y = 0; y < conv.y.in; ++y) clear(dx + in.offset(n, c, y, 0), conv.x.in);
      for (std::ptrdiff_t ky = 0; ky < conv.y.size; ++ky)
        for (std::ptrdiff_t kx = 0; kx < conv.x.size; ++kx) {
          const Span span(conv.x, kx);
          T* const row = matrix + ((c * conv.y.size + ky) * conv.x.size + kx) * length + before * wide;
          if (shifted && span.begin < span.end) {
            const auto [from, to] = rows_inside(conv.y, ky, begin, end);
            if (from == to) continue;
            clear_outside(span, to - from, wide, row + from * wide);
            add(row + from * wide + span.begin, (to - from) * wide - span.begin - (wide - span.end),
                dx + in.offset(n, c, conv.y.at(from, ky), span.column));
            continue;
          }
          for (std::ptrdiff_t oy = begin; oy < end; ++oy) {
            const std::ptrdiff_t y = conv.y.at(oy, ky);
            if (!conv.y.inside(y)) continue;
            const T* const from = row + oy * wide + span.begin;
            T* const to = dx + in.offset(n, c, y, span.column);
            if (conv.x.stride == 1)
              add(from, span.end - span.begin, to);
            else
              for (std::ptrdiff_t i = 0; i < span.end - span.begin; ++i) to[i * conv.x.stride] += from[i];
          }
        }
    }
  });
}

template <class T>
void fold_columns(const Convolution& conv, const Piece& piece, const T* matrix, T* dx, const Images& in) {
  const std::ptrdiff_t windows = piece.count * conv.x.out, channels = in.channels / conv.groups;
  const std::ptrdiff_t length = conv.elements() * channels;
  const std::ptrdiff_t first = piece.first / conv.y.out,
                       samples = (piece.first + piece.count - 1) / conv.y.out - first + 1;
  parallel(threads_for(cost<T>(2 * windows * length * conv.groups)), [&](int thread, int threads) {
    const Range mine = share(size(samples * conv.y.in), thread, threads);
    for (auto row = static_cast<std::ptrdiff_t>(mine.begin); row < static_cast<std::ptrdiff_t>(mine.end); ++row) {
      const std::ptrdiff_t n = first + row / conv.y.in, y = row % conv.y.in, before = n * conv.y.out - piece.first;
      if (before >= 0)
        for (std::ptrdiff_t x = 0; x < conv.x.in; ++x) clear(dx + in.offset(n, 0, y, x), in.channels);
      for (std::ptrdiff_t ky = 0; ky < conv.y.size; ++ky) {
        const std::ptrdiff_t oy = conv.y.window_of(y, ky);
        if (oy < 0 || oy + before < 0 || oy + before >= piece.count) continue;
        for (std::ptrdiff_t kx = 0; kx < conv.x.size; ++kx) {
          const auto [begin, end] = conv.x.windows(kx);
          for (std::ptrdiff_t ox = begin; ox < end; ++ox)
            for (std::ptrdiff_t g = 0; g < conv.groups; ++g)
              add(matrix + (g * windows + (oy + before) * conv.x.out + ox) * length +
                      (ky * conv.x.size + kx) * channels,
                  channels, dx + in.offset(n, g * channels, y, conv.x.at(ox, kx)));
        }
      }
    }
  });
}

/// Calls body(channel, number of a place in the matrix, n, oy, ox, count) for what is contiguous in both.
template <class T, class Body>
void for_runs(const Convolution& conv, const Piece& piece, const Images& in, const Body& body) {
  const std::ptrdiff_t length = piece.count * conv.x.out;
  const bool joined = in.row == conv.x.out * in.column;  // rows follow one another
  parallel(threads_for(cost<T>(2 * in.channels * length)), [&](int thread, int threads) {
    const Range mine = share(size(in.channels), thread, threads);
    for (auto c = static_cast<std::ptrdiff_t>(mine.begin); c < static_cast<std::ptrdiff_t>(mine.end); ++c)
      for_samples(conv, piece, [&](std::ptrdiff_t n, std::ptrdiff_t begin, std::ptrdiff_t end, std::ptrdiff_t p) {
        if (joined) return body(c, c * length + p, in.offset(n, c, begin, 0), (end - begin) * conv.x.out);
        for (std::ptrdiff_t oy = begin; oy < end; ++oy, p += conv.x.out)
          body(c, c * length + p, in.offset(n, c, oy, 0), conv.x.out);
      });
  });
}

}  // namespace

template <class T>
void ConvolutionKernels<T>::unfold(const Convolution& conv, const Piece& piece, const T* x, const Images& in,
                                   T* matrix) {
  conv.columns ? unfold_columns(conv, piece, x, in, matrix) : unfold_planes(conv, piece, x, in, matrix);
}

template <class T>
void ConvolutionKernels<T>::fold(const Convolution& conv, const Piece& piece, T* matrix, T* dx, const Images& in) {
  conv.columns ? fold_columns(conv, piece, matrix, dx, in) : fold_planes(conv, piece, matrix, dx, in);
}

template <class T>
void ConvolutionKernels<T>::place(const Convolution& conv, const Piece& piece, const T* matrix, const T* bias, T* y,
                                  const Images& in) {
  for_runs<T>(conv, piece, in, [&](std::ptrdiff_t c, std::ptrdiff_t from, std::ptrdiff_t to, std::ptrdiff_t count) {
    if (!bias) return move(matrix + from, count, y + to);
    each<T>(size(count), [&, b = bias[c]](std::size_t i, auto number) {
      store(y + to + i, load<decltype(number)>(matrix + from + i) + b);
    });
  });
}

template <class T>
void ConvolutionKernels<T>::collect(const Convolution& conv, const Piece& piece, const T* dy, const Images& in,
                                    T* matrix) {
  for_runs<T>(conv, piece, in, [&](std::ptrdiff_t, std::ptrdiff_t to, std::ptrdiff_t from, std::ptrdiff_t count) {
    take_every(dy + from, in.column, size(count), matrix + to);
  });
}

template <class T>
void ConvolutionKernels<T>::add_bias(T* y, std::ptrdiff_t rows, std::ptrdiff_t width, const T* bias) {
  parallel(threads_for(cost<T>(2 * rows * width)), [&](int thread, int threads) {
    const Range mine = share(size(rows), thread, threads);
    for (std::size_t row = mine.begin; row < mine.end; ++row) add(bias, width, y + row * size(width));
  });
}

template struct ConvolutionKernels<float>;
template struct ConvolutionKernels<double>;

}  // namespace fastopt
