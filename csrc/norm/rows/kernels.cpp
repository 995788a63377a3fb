/// Every normalization of rows, one line each: the only file that instantiates them.
#include "norm/rows/kernels.hpp"

#include "norm/rows/backward.hpp"
#include "norm/rows/forward.hpp"
#include "norm/rows/layer_norm.hpp"
#include "norm/rows/rms_norm.hpp"
#include "norm/rows/scale_norm.hpp"

namespace fastopt {

template <class Norm, class S> void RowKernels<Norm, S>::forward(const RowNorm<S>& arrays) { row_norm<Norm>(arrays); }
template <class Norm, class S> void RowKernels<Norm, S>::backward(const RowNormBackward<S>& arrays) {
  row_norm_backward<Norm>(arrays);
}

template struct RowKernels<LayerNorm, float>;
template struct RowKernels<LayerNorm, double>;
template struct RowKernels<LayerNorm, float16>;
template struct RowKernels<LayerNorm, bfloat16>;
template struct RowKernels<RmsNorm, float>;
template struct RowKernels<RmsNorm, double>;
template struct RowKernels<RmsNorm, float16>;
template struct RowKernels<RmsNorm, bfloat16>;
template struct RowKernels<ScaleNorm, float>;
template struct RowKernels<ScaleNorm, double>;
template struct RowKernels<ScaleNorm, float16>;
template struct RowKernels<ScaleNorm, bfloat16>;

}  // namespace fastopt
