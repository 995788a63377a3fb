"""Normalizations of rows by their length."""

from __future__ import annotations

from .._core import kernels
from ._arrays import Array, Statistics

__all__ = ["cosine_norm", "cosine_norm_backward", "scale_norm", "scale_norm_backward"]


def cosine_norm(
    x: Array, eps: float = 1e-12, *, out: tuple[Array | None, Statistics | None] | None = None
) -> tuple[Array, Statistics]:
    """Scales rows to length one, so that their products are cosines.

    .. code-block:: text

        y = x·rnorm,   rnorm = 1/√(Σx² + eps)  with Σ over the last axis

    Args:
        x: At least one axis, any memory layout, float32, float64, float16 or bfloat16.
        eps: Added to the squared length, at least 0.
        out: Arrays for ``(y, rnorm)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y, like x, C-contiguous; rnorm, float64, of the shape of the axes before the last one.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, w = (F.cosine_norm(rows)[0] for rows in (np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[0.0, 9.0]])))
        >>> x @ w.T
        array([[0.8],
               [1. ]])

    References:
        Luo, Zhan, Wang & Yang 2017, arXiv:1702.05870, in two halves: this function for the inputs, and again for the weights.
        The eps inside the root is ours.
    """
    return kernels.cosine_norm(x, eps, out)


def cosine_norm_backward(dy: Array, x: Array, rnorm: Statistics, *, out: Array | None = None) -> Array:
    """The gradient of :func:`cosine_norm`.

    .. code-block:: text

        x̂ = x·rnorm,   dx = rnorm·(dy − x̂·Σ(dy x̂))   with Σ over the last axis

    Args:
        dy: The gradient with respect to y, shape and dtype of x, any memory layout.
        x: The input of forward.
        rnorm: As forward returned it, float64.
        out: An array for dx.  It may not overlap an argument.

    Returns:
        dx, like x, C-contiguous.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x = np.array([[3.0, 4.0]])
        >>> y, rnorm = F.cosine_norm(x)
        >>> F.cosine_norm_backward(np.array([[1.0, 0.0]]), x, rnorm).round(6)
        array([[ 0.128, -0.096]])
    """
    return kernels.cosine_norm_backward(dy, x, rnorm, out)


def scale_norm(
    x: Array, g: Array, eps: float = 1e-5, *, out: tuple[Array | None, Statistics | None] | None = None
) -> tuple[Array, Statistics]:
    """Scales rows to one length, which is learned.

    .. code-block:: text

        y = g·x·rnorm,   rnorm = 1/√(Σx² + eps)  with Σ over the last axis

    Args:
        x: At least one axis, any memory layout, float32, float64, float16 or bfloat16.
        g: The length, shape ``()``, dtype of x; float32 where x has 16 bits.
        eps: Added to the squared length, at least 0.
        out: Arrays for ``(y, rnorm)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y, like x, C-contiguous; rnorm, float64, of the shape of the axes before the last one.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y, rnorm = F.scale_norm(np.array([[3.0, 4.0], [0.0, 2.0]]), np.array(10.0), eps=0.0)
        >>> y, rnorm
        (array([[ 6.,  8.],
               [ 0., 10.]]), array([0.2, 0.5]))

    References:
        Nguyen & Salazar 2019, arXiv:1910.05895, where g begins at the root of the row's size.  The authors' code
        takes max(‖x‖, eps) where we add eps inside the root.
    """
    return kernels.scale_norm(x, g, eps, out)


def scale_norm_backward(
    dy: Array, x: Array, g: Array, rnorm: Statistics, *, out: tuple[Array | None, Array | None] | None = None
) -> tuple[Array, Array]:
    """The gradients of :func:`scale_norm`.

    .. code-block:: text

        x̂ = x·rnorm,   dx = g·rnorm·(dy − x̂·Σ(dy x̂))   with Σ over the last axis
        dg = Σ dy·x̂   over all elements

    Args:
        dy: The gradient with respect to y, shape and dtype of x, any memory layout.
        x: The input of forward.
        g: As in forward.
        rnorm: As forward returned it, float64.
        out: Arrays for ``(dx, dg)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        dx, like x, C-contiguous; dg, like g.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, g = np.array([[3.0, 4.0]]), np.array(10.0)
        >>> y, rnorm = F.scale_norm(x, g)
        >>> dx, dg = F.scale_norm_backward(np.array([[1.0, 0.0]]), x, g, rnorm)
        >>> dx.round(4), round(float(dg), 4)
        (array([[ 1.28, -0.96]]), 0.6)
    """
    return kernels.scale_norm_backward(dy, x, g, rnorm, out)
