"""Pooling of images."""

from __future__ import annotations

from typing import Any, Literal, overload

from .._core import kernels
from ._arrays import Array

__all__ = ["avg_pool2d", "avg_pool2d_backward", "max_pool2d", "max_pool2d_backward"]

Pair = int | tuple[int, int]


@overload
def max_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair | None = ...,
    padding: Pair = ...,
    dilation: Pair = ...,
    ceil_mode: bool = ...,
    return_indices: Literal[False] = ...,
    *,
    channel_axis: int = ...,
    out: Array | None = ...,
) -> Array: ...
@overload
def max_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair | None = ...,
    padding: Pair = ...,
    dilation: Pair = ...,
    ceil_mode: bool = ...,
    *,
    return_indices: Literal[True],
    channel_axis: int = ...,
    out: tuple[Array | None, Array | None] | None = ...,
) -> tuple[Array, Array]: ...
@overload
def max_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair | None,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
    return_indices: Literal[True],
    *,
    channel_axis: int = ...,
    out: tuple[Array | None, Array | None] | None = ...,
) -> tuple[Array, Array]: ...
def max_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    channel_axis: int = 1,
    out: Any = None,
) -> Any:
    """The largest element of each window of an image.

    .. code-block:: text

        y[n, c, oy, ox] = max over ky, kx of x[n, c, oy·stride − padding + ky·dilation, ox·stride − padding + kx·dilation]
        indices[n, c, oy, ox] = row·width + column of that element

    Elements outside of the image do not count.  If an element is NaN, so is y.  Of equal elements the index is that of the first,
    of several NaNs that of the last, as in torch.

    Args:
        x: Shape ``(N, C, H, W)``, or with the channels elsewhere; any memory layout; float32, float64, float16 or bfloat16.
        kernel_size: The size of windows: an integer, or one for each axis.
        stride: The distance from one window to the next, likewise; ``None`` for kernel_size.
        padding: The rows and columns that are added on each side, at most half of kernel_size.
        dilation: The distance from one element of a window to the next.
        ceil_mode: Whether the number of windows is rounded up: the last one may reach over the end, but begins before it.
        return_indices: Whether to return the indices, which backward needs.
        channel_axis: The axis of the channels, not the first one; the other two are those of the image.
        out: An array for y, or arrays for ``(y, indices)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y, or ``(y, indices)``: channels last in memory where x has them there, otherwise C-contiguous; indices int32 (int64 in
        torch).

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, a window has no elements, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x = np.array([[[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 9.0]]]])
        >>> y, indices = F.max_pool2d(x, 2, return_indices=True)
        >>> y, indices
        (array([[[[5., 9.]]]]), array([[[[1, 7]]]], dtype=int32))
        >>> F.max_pool2d_backward(np.ones_like(y), indices, x.shape, 2)
        array([[[[0., 1., 0., 0.],
                 [0., 0., 0., 1.]]]])
    """
    return kernels.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, channel_axis, out)


def max_pool2d_backward(
    dy: Array,
    indices: Array,
    input_size: tuple[int, ...],
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
) -> Array:
    """The gradient of :func:`max_pool2d`.

    .. code-block:: text

        dx[n, c, y, x] = Σ dy[n, c, oy, ox]   over the windows whose index is y·width + x, in their order

    Sums are float32, or float64 if dy is, and begin at 0; 16-bit results are rounded once.  x itself is not needed.

    Args:
        dy: The gradient with respect to y, shape and dtype of y; any memory layout.
        indices: Those that forward returned, int32; each is checked to be in its window.
        input_size: The shape of x.
        kernel_size, stride, padding, dilation, ceil_mode, channel_axis: As in forward.
        out: An array for dx, that does not overlap an argument.

    Returns:
        dx, shape input_size, dtype of dy; channels last in memory where dy has them there, otherwise C-contiguous.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape, range or index is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> indices = np.array([[[[1, 1]]]], np.int32)  # element 1 is the largest one of two windows
        >>> F.max_pool2d_backward(np.array([[[[2.0, 3.0]]]]), indices, (1, 1, 1, 3), (1, 2), 1)
        array([[[[0., 5., 0.]]]])
    """
    return kernels.max_pool2d_backward(
        dy, indices, input_size, kernel_size, stride, padding, dilation, ceil_mode, channel_axis, out
    )


def avg_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
) -> Array:
    """The mean of each window of an image.

    .. code-block:: text

        y[n, c, oy, ox] = Σ over ky, kx of x[n, c, oy·stride − padding + ky, ox·stride − padding + kx] / divisor

    Elements outside of the image are 0.  The sum begins at 0 and takes the elements row by row, in float32, or in float64 if x is;
    16-bit results are rounded once.

    Args:
        x, kernel_size, stride, padding, ceil_mode: As in :func:`max_pool2d`.
        count_include_pad: Whether the divisor counts elements of the padding; it never counts what a last window has behind that.
        divisor_override: A divisor for all windows instead of their number of elements, not 0.
        channel_axis: As in :func:`max_pool2d`.
        out: An array for y, that does not overlap an argument.

    Returns:
        y, channels last in memory where x has them there, otherwise C-contiguous.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, a window has no elements, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x = np.array([[[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 9.0]]]])
        >>> F.avg_pool2d(x, 2)
        array([[[[3.25, 4.75]]]])
        >>> F.avg_pool2d_backward(np.array([[[[4.0, 8.0]]]]), x.shape, 2)
        array([[[[1., 1., 2., 2.],
                 [1., 1., 2., 2.]]]])
    """
    return kernels.avg_pool2d(
        x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, channel_axis, out
    )


def avg_pool2d_backward(
    dy: Array,
    input_size: tuple[int, ...],
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
) -> Array:
    """The gradient of :func:`avg_pool2d`.

    .. code-block:: text

        dx[n, c, y, x] = Σ dy[n, c, oy, ox]/divisor   over the windows that contain (y, x), in their order

    Sums are float32, or float64 if dy is, and begin at 0; 16-bit results are rounded once.

    Args:
        dy: The gradient with respect to y, shape and dtype of y; any memory layout.
        input_size: The shape of x.
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, channel_axis: As in forward.
        out: An array for dx, that does not overlap an argument.

    Returns:
        dx, shape input_size, dtype of dy; channels last in memory where dy has them there, otherwise C-contiguous.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> F.avg_pool2d_backward(np.array([[[[4.0, 8.0]]]]), (1, 1, 1, 3), (1, 2), 1)
        array([[[[2., 6., 4.]]]])
    """
    return kernels.avg_pool2d_backward(
        dy,
        input_size,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
        channel_axis,
        out,
    )
