/// The kernels of normalizations of rows; kernels.cpp instantiates them.
#pragma once

#include "norm/rows/arrays.hpp"

namespace fastopt {

/// Forward gives y and the statistics; backward gives dx and the gradients of the weights.
template <class Norm> struct RowKernels {
  static void forward(const RowNorm<float>& arrays);
  static void forward(const RowNorm<double>& arrays);
  static void forward(const RowNorm<float16>& arrays);
  static void forward(const RowNorm<bfloat16>& arrays);
  static void backward(const RowNormBackward<float>& arrays);
  static void backward(const RowNormBackward<double>& arrays);
  static void backward(const RowNormBackward<float16>& arrays);
  static void backward(const RowNormBackward<bfloat16>& arrays);
};

}  // namespace fastopt
