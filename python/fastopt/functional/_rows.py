"""Normalizations of rows, which are over the last axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._core import kernels
from ._arrays import Array, Statistics

__all__ = [
    "add_layer_norm",
    "add_layer_norm_backward",
    "add_rms_norm",
    "add_rms_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
]

_EPSILONS = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def layer_norm(
    x: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None = None,
) -> tuple[Array, Statistics, Statistics]:
    """Layer normalization over the last axes.

    .. code-block:: text

        y = (x − mean)·rstd·weight + bias,   rstd = 1/√(var + eps),  mean and biased var over the normalized axes

    Results are as precise at a mean of a million as at zero.

    Args:
        x: Shape ``(*, *normalized_shape)``, any memory layout, float32, float64, float16 or bfloat16.
        normalized_shape: The shape of the last axes, which are normalized together; an integer for one axis.
        weight: Shape ``normalized_shape``, dtype of x; float32 where x has 16 bits.
        bias: Shape ``normalized_shape``, dtype of x; float32 where x has 16 bits.
        eps: Added to the variance, at least 0.
        out: Arrays for ``(y, mean, rstd)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y, like x, C-contiguous; mean and rstd, float64, of the shape of the axes that are not normalized.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y, mean, rstd = F.layer_norm(np.array([[1.0, 3.0], [5.0, 9.0]]), 2, eps=0.0)
        >>> y, mean, rstd
        (array([[-1.,  1.],
               [-1.,  1.]]), array([2., 7.]), array([1. , 0.5]))

    References:
        Ba, Kiros & Hinton 2016, arXiv:1607.06450, eq. 4.
    """
    return kernels.layer_norm(x, normalized_shape, weight, bias, eps, out)


def layer_norm_backward(
    dy: Array,
    x: Array,
    normalized_shape: int | Sequence[int],
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None = None,
    *,
    bias_grad: bool = True,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """The gradients of :func:`layer_norm`.

    .. code-block:: text

        g = dy·weight,   x̂ = (x − mean)·rstd
        dx = rstd·(g − Σg/n − x̂·Σ(g x̂)/n)   with Σ over the n normalized numbers;   dweight = Σ dy·x̂,  dbias = Σ dy   over rows

    Args:
        dy: The gradient with respect to y, shape and dtype of x, any memory layout.
        x: The input of forward.
        normalized_shape: As in forward.
        mean: As forward returned it, float64.
        rstd: As forward returned it, float64.
        weight: As in forward.
        bias_grad: Whether to compute dbias.
        out: Arrays for ``(dx, dweight, dbias)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        dx, like x, C-contiguous; dweight, shape ``normalized_shape``, ``None`` without a weight; dbias, of the same shape,
        ``None`` without ``bias_grad``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, w = np.array([[1.0, 3.0, 8.0]]), np.ones(3)
        >>> y, mean, rstd = F.layer_norm(x, 3, w)
        >>> dx, dweight, dbias = F.layer_norm_backward(np.ones((1, 3)), x, 3, mean, rstd, w)
        >>> dx.round(6), dbias
        (array([[0., 0., 0.]]), array([1., 1., 1.]))
    """
    return kernels.layer_norm_backward(dy, x, normalized_shape, mean, rstd, weight, bias_grad, out)


def rms_norm(
    x: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    eps: float | None = None,
    *,
    out: tuple[Array | None, Statistics | None] | None = None,
) -> tuple[Array, Statistics]:
    """Root-mean-square normalization over the last axes.

    .. code-block:: text

        y = x·rstd·weight,   rstd = 1/√(Σx²/n + eps)  with Σ over the n normalized numbers

    Args:
        x: Shape ``(*, *normalized_shape)``, any memory layout, float32, float64, float16 or bfloat16.
        normalized_shape: The shape of the last axes, which are normalized together; an integer for one axis.
        weight: Shape ``normalized_shape``, dtype of x; float32 where x has 16 bits.
        eps: Added to the mean of the squares, at least 0; ``None`` is the machine epsilon of x's dtype.
        out: Arrays for ``(y, rstd)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y, like x, C-contiguous; rstd, float64, of the shape of the axes that are not normalized.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y, rstd = F.rms_norm(np.array([[1.0, 7.0], [-5.0, 5.0]]), 2, eps=0.0)
        >>> y, rstd
        (array([[ 0.2,  1.4],
               [-1. ,  1. ]]), array([0.2, 0.2]))

    References:
        Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4, which has no eps.
    """
    return kernels.rms_norm(x, normalized_shape, weight, _epsilon(x) if eps is None else eps, out)


def rms_norm_backward(
    dy: Array,
    x: Array,
    normalized_shape: int | Sequence[int],
    rstd: Statistics,
    weight: Array | None = None,
    *,
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None]:
    """The gradients of :func:`rms_norm`.

    .. code-block:: text

        g = dy·weight,   x̂ = x·rstd
        dx = rstd·(g − x̂·Σ(g x̂)/n)   with Σ over the n normalized numbers;   dweight = Σ dy·x̂   over rows

    Args:
        dy: The gradient with respect to y, shape and dtype of x, any memory layout.
        x: The input of forward.
        normalized_shape: As in forward.
        rstd: As forward returned it, float64.
        weight: As in forward.
        out: Arrays for ``(dx, dweight)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        dx, like x, C-contiguous; dweight, like weight, ``None`` without a weight.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, w = np.array([[1.0, 7.0]]), np.ones(2)
        >>> y, rstd = F.rms_norm(x, 2, w, eps=0.0)
        >>> dx, dweight = F.rms_norm_backward(y, x, 2, rstd, w)
        >>> dx.round(6), dweight.round(6)
        (array([[0., 0.]]), array([0.04, 1.96]))
    """
    return kernels.rms_norm_backward(dy, x, normalized_shape, rstd, weight, out)


def add_layer_norm(
    x: Array,
    residual: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    out: tuple[Array | None, Array | None, Statistics | None, Statistics | None] | None = None,
) -> tuple[Array, Array, Statistics, Statistics]:
    """An addition and the layer normalization of the sum, in one pass.

    .. code-block:: text

        sum = x + residual,   y = (sum − mean)·rstd·weight + bias,   rstd = 1/√(var + eps)

    The sum is rounded to its dtype first, so that y is the result of :func:`layer_norm` for it.

    Args:
        x: As in :func:`layer_norm`.
        residual: Shape and dtype of x, any memory layout.
        normalized_shape: As in :func:`layer_norm`.
        weight: As in :func:`layer_norm`.
        bias: As in :func:`layer_norm`.
        eps: As in :func:`layer_norm`.
        out: Arrays for ``(y, sum, mean, rstd)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y and sum, like x, C-contiguous; mean and rstd, float64, of the shape of the axes that are not normalized.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y, total, mean, rstd = F.add_layer_norm(np.array([[1.0, 2.0]]), np.array([[0.0, 1.0]]), 2, eps=0.0)
        >>> y, total
        (array([[-1.,  1.]]), array([[1., 3.]]))

    References:
        Ba, Kiros & Hinton 2016, arXiv:1607.06450, eq. 4; Xiong et al. 2020, arXiv:2002.04745, table 1, for where such a sum is
        normalized.
    """
    return kernels.add_layer_norm(x, residual, normalized_shape, weight, bias, eps, out)


def add_layer_norm_backward(
    dy: Array,
    dsum: Array | None,
    sum: Array,
    normalized_shape: int | Sequence[int],
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None = None,
    *,
    bias_grad: bool = True,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """The gradients of :func:`add_layer_norm`.

    .. code-block:: text

        dx = dresidual = dsum + (the dx of layer_norm_backward at sum);   dweight and dbias as there

    Args:
        dy: The gradient with respect to y, shape and dtype of sum, any memory layout.
        dsum: The gradient with respect to sum from all other uses of it, shape and dtype of sum; ``None`` if there is none.
        sum: As forward returned it.
        normalized_shape: As in forward.
        mean: As forward returned it, float64.
        rstd: As forward returned it, float64.
        weight: As in forward.
        bias_grad: Whether to compute dbias.
        out: Arrays for ``(dx, dweight, dbias)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        dx, like sum, C-contiguous, the gradient with respect to x and with respect to residual; dweight, shape
        ``normalized_shape``, ``None`` without a weight; dbias, of the same shape, ``None`` without ``bias_grad``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y, total, mean, rstd = F.add_layer_norm(np.array([[1.0, 2.0, 4.0]]), np.ones((1, 3)), 3)
        >>> dx, *_ = F.add_layer_norm_backward(np.ones((1, 3)), np.full((1, 3), 5.0), total, 3, mean, rstd)
        >>> dx.round(6)
        array([[5., 5., 5.]])
    """
    return kernels.add_layer_norm_backward(dy, dsum, sum, normalized_shape, mean, rstd, weight, bias_grad, out)


def add_rms_norm(
    x: Array,
    residual: Array,
    normalized_shape: int | Sequence[int],
    weight: Array | None = None,
    eps: float | None = None,
    *,
    out: tuple[Array | None, Array | None, Statistics | None] | None = None,
) -> tuple[Array, Array, Statistics]:
    """An addition and the root-mean-square normalization of the sum, in one pass.

    .. code-block:: text

        sum = x + residual,   y = sum·rstd·weight,   rstd = 1/√(Σsum²/n + eps)  with Σ over the n normalized numbers

    The sum is rounded to its dtype first, so that y is the result of :func:`rms_norm` for it.

    Args:
        x: As in :func:`rms_norm`.
        residual: Shape and dtype of x, any memory layout.
        normalized_shape: As in :func:`rms_norm`.
        weight: As in :func:`rms_norm`.
        eps: As in :func:`rms_norm`.
        out: Arrays for ``(y, sum, rstd)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y and sum, like x, C-contiguous; rstd, float64, of the shape of the axes that are not normalized.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y, total, rstd = F.add_rms_norm(np.array([[1.0, 4.0]]), np.array([[0.0, 3.0]]), 2, eps=0.0)
        >>> y, total
        (array([[0.2, 1.4]]), array([[1., 7.]]))

    References:
        Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4, which has no eps.
    """
    return kernels.add_rms_norm(x, residual, normalized_shape, weight, _epsilon(x) if eps is None else eps, out)


def add_rms_norm_backward(
    dy: Array,
    dsum: Array | None,
    sum: Array,
    normalized_shape: int | Sequence[int],
    rstd: Statistics,
    weight: Array | None = None,
    *,
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None]:
    """The gradients of :func:`add_rms_norm`.

    .. code-block:: text

        dx = dresidual = dsum + (the dx of rms_norm_backward at sum);   dweight as there

    Args:
        dy: The gradient with respect to y, shape and dtype of sum, any memory layout.
        dsum: The gradient with respect to sum from all other uses of it, shape and dtype of sum; ``None`` if there is none.
        sum: As forward returned it.
        normalized_shape: As in forward.
        rstd: As forward returned it, float64.
        weight: As in forward.
        out: Arrays for ``(dx, dweight)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        dx, like sum, C-contiguous, the gradient with respect to x and with respect to residual; dweight, like weight, ``None``
        without a weight.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y, total, rstd = F.add_rms_norm(np.array([[1.0, 4.0]]), np.array([[0.0, 3.0]]), 2, eps=0.0)
        >>> dx, _ = F.add_rms_norm_backward(y, np.ones((1, 2)), total, 2, rstd)
        >>> dx.round(6)
        array([[1., 1.]])
    """
    return kernels.add_rms_norm_backward(dy, dsum, sum, normalized_shape, rstd, weight, out)


def _epsilon(x: Any) -> float:
    """The machine epsilon of x's dtype; any number if x is no array of floats, which the kernel refuses."""
    return _EPSILONS.get(getattr(getattr(x, "dtype", None), "name", ""), 0.0)
