/// What surrounds the product of a convolution: the matrix of its windows, and the way back.
///   product   y[o] = Σ over k, c of weight[o, c, k]·x[c, window·stride − padding + k·dilation] + bias[o]
///   columns   the right side of the product, for some rows of windows: what each has inside, 0 outside of the image
/// Rows of windows are counted over all samples: row r is row r mod y.out of sample r div y.out.  A piece is `count` of
/// them from `first` on, and p counts its windows.
///
/// With images that lie as planes the matrix is (channels, ky, kx, p), with columns (groups, p, ky, kx, channels of a
/// group): either way what is copied is contiguous, and a group is a matrix.
///
/// Chellapilla, Puri & Simard 2006, "High performance convolutional neural networks for document processing".
#pragma once

#include <cstddef>

#include "nn/windows.hpp"

namespace fastopt {

struct Convolution {
  Windows y, x;
  bool columns;
  std::ptrdiff_t groups;

  std::ptrdiff_t elements() const { return y.size * x.size; }
};

struct Piece {
  std::ptrdiff_t first, count;
};

template <class T> struct ConvolutionKernels {
  /// x: images of any layout.
  static void unfold(const Convolution& conv, const Piece& piece, const T* x, const Images& in, T* matrix);

  /// The gradient of unfold: adds to dx, after 0 where a sample begins.  Each element gets its terms in the order of ky
  /// and kx, piece by piece.  dx: rows of planes, or columns, contiguous.  What windows have outside of the image may be
  /// 0 in the matrix then.
  static void fold(const Convolution& conv, const Piece& piece, T* matrix, T* dx, const Images& in);

  /// y = matrix + bias (may be null) for images as planes.  matrix: (channels, p); y: rows contiguous.
  static void place(const Convolution& conv, const Piece& piece, const T* matrix, const T* bias, T* y,
                    const Images& in);
  /// The opposite, without bias.  dy: images of any layout.
  static void collect(const Convolution& conv, const Piece& piece, const T* dy, const Images& in, T* matrix);

  /// y += bias; y: (rows, width) contiguous.
  static void add_bias(T* y, std::ptrdiff_t rows, std::ptrdiff_t width, const T* bias);
};

}  // namespace fastopt
