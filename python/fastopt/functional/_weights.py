"""Weight normalization, and folding of batch normalization into weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._check import number, whole
from .._core import kernels
from ._arrays import Array, Statistics, array_of, results_of

__all__ = ["fold_batch_norm", "weight_norm", "weight_norm_backward"]


def weight_norm(
    v: Array,
    g: Array,
    dim: int | None = 0,
    *,
    out: tuple[Array | None, Statistics | None] | None = None,
) -> tuple[Array, Statistics]:
    """A weight by its direction and its length.

    .. code-block:: text

        w = g·v·rnorm,   rnorm = 1/‖v‖   over all axes but dim

    Where v is zero, w is NaN.

    Args:
        v: The direction, float32, float64, float16 or bfloat16; any memory layout.
        g: The length: shape of v with 1 on all axes but dim, ``()`` if dim is ``None``; dtype of v; float32 where that has 16
            bits.
        dim: The axis with one length per index; ``None`` for one length of all of v.
        out: Arrays for ``(w, rnorm)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        w, like v, with dim innermost in memory where v has it there, otherwise C-contiguous; rnorm, float64, shape
        ``(v.shape[dim],)``, ``()`` if dim is ``None``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> v, g = np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[10.0], [1.0]])
        >>> w, rnorm = F.weight_norm(v, g)
        >>> w, rnorm
        (array([[6., 8.],
               [0., 1.]]), array([0.2, 0.5]))

    References:
        Salimans & Kingma 2016, arXiv:1602.07868, eq. 2.  A dim of -1 is the last axis here; in torch it is ``None``.
    """
    if dim is not None:
        return kernels.weight_norm(v, g, dim, out)
    w_out, rnorm_out = results_of("weight_norm", out, 2)
    row = _row("weight_norm", "v", v)
    length = _single("weight_norm", "g", g, row.ndim)
    to = (
        None if w_out is None else _row("weight_norm", "out[0]", w_out, v.shape, written=True),
        None if rnorm_out is None else _single("weight_norm", "out[1]", rnorm_out, 1),
    )
    w, rnorm = kernels.weight_norm(row, length, 0, to)
    return w[0] if w_out is None else w_out, rnorm.reshape(()) if rnorm_out is None else rnorm_out


def weight_norm_backward(
    dw: Array,
    v: Array,
    g: Array,
    rnorm: Statistics,
    dim: int | None = 0,
    *,
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array]:
    """The gradients of :func:`weight_norm`.

    .. code-block:: text

        dg = Σ dw·v̂,   dv = g·rnorm·(dw − v̂·dg),   v̂ = v·rnorm   with Σ over all axes but dim

    Args:
        dw: The gradient with respect to w, shape and dtype of v; any memory layout.
        v: As in forward.
        g: As in forward.
        rnorm: As forward returned it, float64.
        dim: As in forward.
        out: Arrays for ``(dv, dg)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        dv, like v, in w's memory order; dg, like g.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> v, g = np.array([[3.0, 4.0]]), np.array([[10.0]])
        >>> w, rnorm = F.weight_norm(v, g)
        >>> dv, dg = F.weight_norm_backward(np.array([[1.0, 0.0]]), v, g, rnorm)
        >>> dv.round(6), dg.round(6)
        (array([[ 1.28, -0.96]]), array([[0.6]]))

    References:
        Salimans & Kingma 2016, arXiv:1602.07868, eq. 3.
    """
    if dim is not None:
        return kernels.weight_norm_backward(dw, v, g, rnorm, dim, out)
    function = "weight_norm_backward"
    dv_out, dg_out = results_of(function, out, 2)
    row = _row(function, "v", v)
    length, norm = _single(function, "g", g, row.ndim), _single(function, "rnorm", rnorm, 1)
    to = (
        None if dv_out is None else _row(function, "out[0]", dv_out, v.shape, written=True),
        None if dg_out is None else _single(function, "out[1]", dg_out, row.ndim),
    )
    dv, dg = kernels.weight_norm_backward(_row(function, "dw", dw, v.shape), row, length, norm, 0, to)
    return dv[0] if dv_out is None else dv_out, dg.reshape(()) if dg_out is None else dg_out


def fold_batch_norm(
    weight: Array,
    bias: Array | None,
    running_mean: Array,
    running_var: Array,
    bn_weight: Array | None = None,
    bn_bias: Array | None = None,
    eps: float = 1e-5,
    *,
    output_axis: int = 0,
) -> tuple[Array, Array]:
    """Folds batch normalization in evaluation into the linear layer or convolution before it.

    .. code-block:: text

        factor = bn_weight/√(running_var + eps)
        weight ← weight·factor   along output_axis,   bias ← (bias − running_mean)·factor + bn_bias

    Computed in float64 and then rounded.

    Args:
        weight: At least one axis, float32, float64, float16 or bfloat16.
        bias: Shape ``(C,)``, one of these dtypes; ``None`` is zero.
        running_mean: Shape ``(C,)``, one of these dtypes.
        running_var: Shape ``(C,)``, one of these dtypes.
        bn_weight: Shape ``(C,)``, one of these dtypes; ``None`` is one.
        bn_bias: Shape ``(C,)``, one of these dtypes; ``None`` is zero.
        eps: Added to the variance, at least 0.
        output_axis: The axis of weight with the C output channels.

    Returns:
        New arrays: weight, in its dtype, C-contiguous; bias, in its dtype, or in weight's if there was none.

    Raises:
        TypeError: A dtype is wrong.
        ValueError: A shape or range is wrong.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> weight, bias = F.fold_batch_norm(np.array([[1.0, 2.0]]), None, np.array([3.0]), np.array([4.0]), eps=0.0)
        >>> weight, bias
        (array([[0.5, 1. ]]), array([-1.5]))

    References:
        Jacob et al. 2018, arXiv:1712.05877, eq. 14, and the same for the bias.
    """
    function = "fold_batch_norm"
    weight = array_of(function, "weight", weight)
    axis = whole(function, "output_axis", output_axis, -(1 << 53))
    if not -weight.ndim <= axis < weight.ndim:
        raise ValueError(f"{function}: output_axis must name an axis of weight, which has {weight.ndim}, got {axis}")
    channels = (weight.shape[axis],)

    def double(name: str, array: Any, default: float | None = None) -> Any:
        if array is None and default is not None:
            return np.float64(default)
        why = f"as weight of shape {weight.shape} has {channels[0]} channels on axis {axis}, the output_axis"
        return array_of(function, name, array, channels, why=why).astype(np.float64)

    mean, variance = double("running_mean", running_mean), double("running_var", running_var)
    before, after, scale = double("bias", bias, 0), double("bn_bias", bn_bias, 0), double("bn_weight", bn_weight, 1)
    with np.errstate(all="ignore"):
        factor = 1 / np.sqrt(variance + number(function, "eps", eps, 0)) * scale
        along = factor.reshape(-1, *[1] * (weight.ndim - axis % weight.ndim - 1))
        folded = np.ascontiguousarray((weight.astype(np.float64) * along).astype(weight.dtype))
        shift = ((before - mean) * factor + after).astype(weight.dtype if bias is None else bias.dtype)
    return folded, shift


def _row(function: str, name: str, array: Any, shape: tuple[int, ...] | None = None, *, written: bool = False) -> Array:
    """An array viewed as one plane of one channel."""
    row: Array = array_of(function, name, array, shape, contiguous=written)[np.newaxis]
    return row


def _single(function: str, name: str, array: Any, axes: int) -> Array:
    """A number as an array with ``ndim`` axes."""
    return array_of(function, name, array, ()).reshape((1,) * axes)
