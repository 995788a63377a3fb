"""Convolution of images, on NumPy's product."""

from __future__ import annotations

import numpy as np

from .._check import flag
from ._arrays import Array, results_of
from ._convolve import Convolving

__all__ = ["conv2d", "conv2d_backward"]

Pair = int | tuple[int, int]


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Pair = 1,
    padding: str | Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
) -> Array:
    """Convolution of images.

    .. code-block:: text

        y[n, o, oy, ox] = bias[o] + Σ over c, ky, kx of
            weight[o, c, ky, kx]·x[n, c, oy·stride − padding + ky·dilation, ox·stride − padding + kx·dilation]

    x is 0 outside of the image.  With groups, the channels and the filters are cut into so many parts, and each filter sees the
    channels of its own part.

    The sums are a matrix product, which NumPy's BLAS computes in fastopt's threads, piece by piece: a piece is as many rows of
    windows as make a matrix of 1 MiB, so that scratch memory does not grow with the number of samples.  y has its bits given the
    product's.

    Args:
        x: Shape ``(N, C, H, W)``, or with the channels elsewhere; any memory layout; float32 or float64.
        weight: Shape ``(out_channels, C/groups, height, width)``, whatever channel_axis is; dtype of x.
        bias: Shape ``(out_channels,)``, dtype of x.
        stride: The distance from one window to the next: an integer, or one for each axis.
        padding: The rows and columns of zeros that are added on each side, likewise; ``"valid"`` for none, or ``"same"`` for as
            many as keep the size, with one more at the end if their number is odd.
        dilation: The distance from one element of a window to the next.
        groups: The number of groups of channels, which divides C and out_channels.
        channel_axis: The axis of the channels in x and y, not the first one; the other two are those of the image.
        out: An array for y, that does not overlap an argument.

    Returns:
        y, channels last in memory where x has them there, otherwise C-contiguous.

    Raises:
        TypeError: A dtype is wrong (16-bit numbers are: NumPy has no fast product of them), or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
        >>> F.conv2d(x, np.array([[[[1.0, 0.0], [0.0, -1.0]]]]), np.array([0.5]))
        array([[[[-3.5, -3.5],
                 [-3.5, -3.5]]]])

    References:
        Chellapilla, Puri & Simard 2006, "High performance convolutional neural networks for document processing".
    """
    conv = Convolving("conv2d", x, weight, stride, padding, dilation, groups, channel_axis)
    if bias is not None:
        bias = np.ascontiguousarray(conv.array("bias", bias, (conv.filters,)))
    y = conv.images("out", out, conv.shape(conv.filters, conv.out))
    conv.expect_apart({"out": out}, {"x": x, "weight": weight, "bias": bias})
    with np.errstate(all="ignore"):
        conv.forward(y, bias)
    return y


def conv2d_backward(
    dy: Array,
    x: Array,
    weight: Array,
    stride: Pair = 1,
    padding: str | Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    *,
    x_grad: bool = True,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array | None, Array, Array | None]:
    """The gradients of :func:`conv2d`.

    .. code-block:: text

        dx[n, c, y, x] = Σ weight[o, c, ky, kx]·dy[n, o, oy, ox]   over o and the windows whose element (ky, kx) is at (y, x)
        dweight[o, c, ky, kx] = Σ dy[n, o, oy, ox]·x[n, c, …]      over n and all windows
        dbias[o] = Σ dy[n, o, oy, ox]

    All are matrix products, piece by piece as in forward; dx adds those of its windows in the order of ky and kx, dweight and dbias
    those of the pieces in order.

    Args:
        dy: The gradient with respect to y, shape and dtype of y; any memory layout.
        x: As in forward.
        weight: As in forward.
        stride: As in forward.
        padding: As in forward.
        dilation: As in forward.
        groups: As in forward.
        x_grad: Whether dx is wanted; a network's first layer has no use for it, and it is a third of the work.
        bias_grad: Whether dbias is wanted.
        channel_axis: As in forward.
        out: Arrays for ``(dx, dweight, dbias)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        dx, like x, channels last in memory where x has them there, otherwise C-contiguous, or ``None``; dweight, like weight,
        C-contiguous; dbias, shape ``(out_channels,)``, or ``None``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array in out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
        >>> weight = np.array([[[[1.0, 0.0], [0.0, -1.0]]]])
        >>> dx, dweight, dbias = F.conv2d_backward(np.ones((1, 1, 2, 2)), x, weight)
        >>> dweight, dbias
        (array([[[[ 8., 12.],
                 [20., 24.]]]]), array([4.]))
        >>> dx
        array([[[[ 1.,  1.,  0.],
                 [ 1.,  0., -1.],
                 [ 0., -1., -1.]]]])
    """
    function = "conv2d_backward"
    conv = Convolving(function, x, weight, stride, padding, dilation, groups, channel_axis)
    conv.array("dy", dy, conv.shape(conv.filters, conv.out))
    given = results_of(function, out, 3)
    wanted = flag(function, "x_grad", x_grad), True, flag(function, "bias_grad", bias_grad)
    for i, name in ((0, "x_grad"), (2, "bias_grad")):
        if not wanted[i] and given[i] is not None:
            raise ValueError(f"{function}: out[{i}] is given, but {name} is False")
    dx = conv.images("out[0]", given[0], x.shape) if x_grad else None
    dweight = conv.parameter("out[1]", given[1], weight.shape)
    dbias = conv.parameter("out[2]", given[2], (conv.filters,)) if bias_grad else None
    conv.expect_apart({f"out[{i}]": array for i, array in enumerate(given)}, {"dy": dy, "x": x, "weight": weight})
    with np.errstate(all="ignore"):
        conv.backward(dy, dx, dweight, dbias)
    return dx, dweight, dbias
