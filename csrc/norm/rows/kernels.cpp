/// Every normalization of rows, one line each: the only file that instantiates them.
#include "norm/rows/kernels.hpp"

#include "norm/rows/backward.hpp"
#include "norm/rows/forward.hpp"
#include "norm/rows/layer_norm.hpp"
#include "norm/rows/rms_norm.hpp"
#include "norm/rows/scale_norm.hpp"

namespace fastopt {

template <class Norm> void RowKernels<Norm>::forward(const RowNorm<float>& arrays) { row_norm<Norm>(arrays); }
template <class Norm> void RowKernels<Norm>::forward(const RowNorm<double>& arrays) { row_norm<Norm>(arrays); }
template <class Norm> void RowKernels<Norm>::forward(const RowNorm<float16>& arrays) { row_norm<Norm>(arrays); }
template <class Norm> void RowKernels<Norm>::forward(const RowNorm<bfloat16>& arrays) { row_norm<Norm>(arrays); }
template <class Norm> void RowKernels<Norm>::backward(const RowNormBackward<float>& arrays) {
  row_norm_backward<Norm>(arrays);
}
template <class Norm> void RowKernels<Norm>::backward(const RowNormBackward<double>& arrays) {
  row_norm_backward<Norm>(arrays);
}
template <class Norm> void RowKernels<Norm>::backward(const RowNormBackward<float16>& arrays) {
  row_norm_backward<Norm>(arrays);
}
template <class Norm> void RowKernels<Norm>::backward(const RowNormBackward<bfloat16>& arrays) {
  row_norm_backward<Norm>(arrays);
}

template struct RowKernels<LayerNorm>;
template struct RowKernels<RmsNorm>;
template struct RowKernels<ScaleNorm>;

}  // namespace fastopt
