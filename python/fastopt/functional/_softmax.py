"""Softmax and its logarithm, with the scale and the causal mask of attention."""

from __future__ import annotations

from .._core import kernels
from ._arrays import Array

__all__ = ["log_softmax", "log_softmax_backward", "softmax", "softmax_backward"]


def softmax(x: Array, dim: int = -1, *, scale: float = 1.0, causal: bool = False, out: Array | None = None) -> Array:
    """Softmax along one axis.

    .. code-block:: text

        y = e^(scale·x)/Σ e^(scale·x),   Σ over the axis

    With ``causal`` this is the masked softmax of attention, without a mask: query q of Q has only the first K − Q + q + 1 of
    K keys, and y is 0 behind these.

    Args:
        x: At least one axis, any memory layout, float32 or float64; with ``causal`` of shape ``(*, queries, keys)``, with no
            more queries than keys.
        dim: The axis.
        scale: A factor, such as 1/√(head size).
        causal: Whether a query sees only the keys up to its own.
        out: An array for y that is C-contiguous once ``dim`` is moved to the end: x itself, or one that does not overlap it.

    Returns:
        y, like x; the axis ``dim`` is innermost in memory.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> F.softmax(np.log([[1.0, 2.0, 5.0], [1.0, 1.0, 2.0]])).round(3)
        array([[0.125, 0.25 , 0.625],
               [0.25 , 0.25 , 0.5  ]])
        >>> F.softmax(np.zeros((2, 2)), causal=True)
        array([[1. , 0. ],
               [0.5, 0.5]])
    """
    return kernels.softmax(x, dim, scale, causal, out)


def softmax_backward(
    dy: Array, y: Array, dim: int = -1, *, scale: float = 1.0, causal: bool = False, out: Array | None = None
) -> Array:
    """The gradient of :func:`softmax`.

    .. code-block:: text

        dx = scale·y·(dy − Σ dy·y)

    Args:
        dy: The gradient with respect to y, float32 or float64, any memory layout.
        y: The result of forward, shape and dtype of dy, any memory layout.
        dim, scale, causal: As in forward.
        out: An array for dx, laid out as y in forward: dy or y itself, or one that does not overlap them.

    Returns:
        dx, like dy; the axis ``dim`` is innermost in memory.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y = F.softmax(np.zeros((1, 4)))
        >>> F.softmax_backward(np.array([[1.0, 0.0, 0.0, 0.0]]), y)
        array([[ 0.1875, -0.0625, -0.0625, -0.0625]])
    """
    return kernels.softmax_backward(dy, y, dim, scale, causal, out)


def log_softmax(
    x: Array, dim: int = -1, *, scale: float = 1.0, causal: bool = False, out: Array | None = None
) -> Array:
    """The logarithm of :func:`softmax`, precise where that is close to 0 or 1.

    .. code-block:: text

        y = scale·x − log Σ e^(scale·x),   Σ over the axis

    Args:
        x, dim, scale: As for :func:`softmax`.
        causal: Whether a query sees only the keys up to its own; y is −∞ behind these.
        out: As for :func:`softmax`.

    Returns:
        y, like x; the axis ``dim`` is innermost in memory.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> F.log_softmax(np.array([0.0, 0.0, 1000.0]))
        array([-1000., -1000.,     0.])
    """
    return kernels.log_softmax(x, dim, scale, causal, out)


def log_softmax_backward(
    dy: Array, y: Array, dim: int = -1, *, scale: float = 1.0, causal: bool = False, out: Array | None = None
) -> Array:
    """The gradient of :func:`log_softmax`.

    .. code-block:: text

        dx = scale·(dy − e^y·Σ dy)

    Args:
        dy, y, dim, scale, causal, out: As for :func:`softmax_backward`; y is the result of :func:`log_softmax`.

    Returns:
        dx, like dy; the axis ``dim`` is innermost in memory.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y = F.log_softmax(np.zeros((1, 4)))
        >>> F.log_softmax_backward(np.array([[1.0, 0.0, 0.0, 0.0]]), y)
        array([[ 0.75, -0.25, -0.25, -0.25]])
    """
    return kernels.log_softmax_backward(dy, y, dim, scale, causal, out)
