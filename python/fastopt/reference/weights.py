"""WeightNorm, and folding of BatchNorm into the layer before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arithmetic import flushed
from ._norm import Arrays, careful_squares, chosen, double, into, rstd_of, squares_lost
from .channels import Channels


def _channels(v: Any, dim: int | None) -> Channels:
    """An array with one norm for each index of an axis, or for all of it."""
    return Channels(v[np.newaxis], 0) if dim is None else Channels(v, dim)


def weight_norm(v: Any, g: Any, dim: int | None = 0, *, out: Arrays | None = None) -> Arrays:
    """See :func:`fastopt.functional.weight_norm`."""
    channels = _channels(v, dim)
    squares = channels.sums(channels.values * channels.values)
    lost = squares_lost(squares, np.float64(1), 0.0, channels.of_sets(), 0.0)
    if lost.any():
        squares = chosen(lost, careful_squares(channels.of_sets()[lost]), squares)
    rnorm = rstd_of(squares, 0.0)
    w = channels.array(channels.values * channels.each(double(g).ravel() * rnorm))
    return into(out, w.reshape(v.shape), rnorm.reshape(() if dim is None else -1))


def weight_norm_backward(
    dw: Any, v: Any, g: Any, rnorm: Any, dim: int | None = 0, *, out: Arrays | None = None
) -> Arrays:
    """See :func:`fastopt.functional.weight_norm_backward`."""
    channels, rnorm = _channels(v, dim), flushed(rnorm).ravel()
    dw_values = channels.of_array(dw.reshape(channels.like.shape))
    factor = double(g).ravel() * rnorm
    dg = channels.sums(dw_values * channels.values) * rnorm
    dv = dw_values * channels.each(factor) - channels.values * channels.each(factor * rnorm * dg)
    return into(out, channels.array(dv).reshape(v.shape), dg.to(g.dtype).reshape(g.shape))


def fold_batch_norm(
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    bn_weight: Any = None,
    bn_bias: Any = None,
    eps: float = 1e-5,
    *,
    output_axis: int = 0,
) -> Arrays:
    """See :func:`fastopt.functional.fold_batch_norm`."""
    mean, variance, before, after = (
        np.zeros(()) if one is None else one.astype(np.float64) for one in (running_mean, running_var, bias, bn_bias)
    )
    with np.errstate(all="ignore"):
        factor = 1 / np.sqrt(variance + eps) * (1.0 if bn_weight is None else bn_weight.astype(np.float64))
        of_outputs = [-1 if axis == output_axis % weight.ndim else 1 for axis in range(weight.ndim)]
        folded = (weight.astype(np.float64) * factor.reshape(of_outputs)).astype(weight.dtype)
        return folded, ((before - mean) * factor + after).astype((weight if bias is None else bias).dtype)
