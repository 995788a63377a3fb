"""Batch normalization, its fused forms, and batch renormalization."""

from __future__ import annotations

from .._core import kernels
from ._arrays import Array, Statistics

__all__ = [
    "batch_norm",
    "batch_norm_add_relu",
    "batch_norm_add_relu_backward",
    "batch_norm_backward",
    "batch_norm_relu",
    "batch_norm_relu_backward",
    "batch_renorm",
    "batch_renorm_backward",
]


def batch_norm(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None = None,
) -> tuple[Array, Statistics, Statistics]:
    """Batch normalization: each channel over all other axes.

    .. code-block:: text

        y = (x − mean)·rstd·weight + bias,   rstd = 1/√(var + eps)
        training:    mean and biased var of this batch;  running ← (1 − momentum)·running + momentum·statistic, the variance unbiased
        evaluation:  the running statistics

    It is fast where the channels come before contiguous axes, (N, C, H, W), or are innermost in memory: (N, C), (N, H, W, C)
    with ``channel_axis=-1``, and a transposed view of such an array.  Inputs in another memory layout are copied piece by
    piece.

    Args:
        x: At least two axes, any memory layout, float32, float64, float16 or bfloat16.
        running_mean: Shape ``(C,)``, dtype of x; float32 where x has 16 bits; updated in training, where it may be ``None``.
        running_var: As running_mean.
        weight: Shape ``(C,)``, dtype of x; float32 where x has 16 bits.
        bias: Shape ``(C,)``, dtype of x; float32 where x has 16 bits.
        training: Whether to use and record the statistics of this batch.
        momentum: The part of the running statistics that is replaced, in [0, 1].
        eps: Added to the variance, at least 0.
        channel_axis: The axis of the C channels.
        out: Arrays for ``(y, mean, rstd)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y, like x, channels last in memory where x has them there, otherwise C-contiguous; mean and rstd, float64, shape
        ``(C,)``: those that were used.

    Raises:
        TypeError: A dtype or the memory layout of an array that is written is wrong, or evaluation has no running statistics.
        ValueError: A shape or range is wrong, arrays overlap, or a batch in training has a single value per channel.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> running_mean, running_var = np.zeros(1), np.ones(1)
        >>> y, mean, rstd = F.batch_norm(np.array([[1.0], [3.0]]), running_mean, running_var, training=True, eps=0.0)
        >>> y.ravel(), running_mean.round(6), running_var.round(6)
        (array([-1.,  1.]), array([0.2]), array([1.1]))

    References:
        Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.
    """
    return kernels.batch_norm(
        x, running_mean, running_var, weight, bias, training, momentum, eps, channel_axis, out, None
    )


def batch_norm_backward(
    dy: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None = None,
    *,
    training: bool,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """The gradients of :func:`batch_norm`.

    .. code-block:: text

        x̂ = (x − mean)·rstd;   dweight = Σ dy·x̂,  dbias = Σ dy   over the m values of a channel
        training:    dx = rstd·weight·(dy − Σdy/m − x̂·Σ(dy x̂)/m)
        evaluation:  dx = rstd·weight·dy

    Args:
        dy: The gradient with respect to y, shape and dtype of x, any memory layout.
        x: The input of forward.
        mean: As forward returned it, float64, shape ``(C,)``.
        rstd: As forward returned it, float64, shape ``(C,)``.
        weight: As in forward.
        training: As in forward.
        bias_grad: Whether to compute dbias.
        channel_axis: As in forward.
        out: Arrays for ``(dx, dweight, dbias)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        dx, like x, channels last in memory where x has them there, otherwise C-contiguous; dweight, shape ``(C,)``, ``None``
        without a weight; dbias, shape ``(C,)``, ``None`` without ``bias_grad``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, w = np.array([[1.0], [3.0], [8.0]]), np.ones(1)
        >>> y, mean, rstd = F.batch_norm(x, None, None, w, training=True)
        >>> dx, dweight, dbias = F.batch_norm_backward(np.ones((3, 1)), x, mean, rstd, w, training=True)
        >>> dx.ravel().round(6), dbias
        (array([0., 0., 0.]), array([3.]))
    """
    return kernels.batch_norm_backward(dy, x, mean, rstd, weight, training, bias_grad, channel_axis, out)


def batch_norm_relu(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None = None,
) -> tuple[Array, Statistics, Statistics]:
    """Batch normalization and ReLU in one pass.

    .. code-block:: text

        y = max(t, 0),   t = (x − mean)·rstd·weight + bias   as in batch_norm

    Args:
        x: As in :func:`batch_norm`.
        running_mean: As in :func:`batch_norm`.
        running_var: As in :func:`batch_norm`.
        weight: As in :func:`batch_norm`.
        bias: As in :func:`batch_norm`.
        training: As in :func:`batch_norm`.
        momentum: As in :func:`batch_norm`.
        eps: As in :func:`batch_norm`.
        channel_axis: As in :func:`batch_norm`.
        out: Arrays for ``(y, mean, rstd)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y, like x, channels last in memory where x has them there, otherwise C-contiguous, NaN where t is NaN; mean and rstd,
        float64, shape ``(C,)``: those that were used.

    Raises:
        TypeError: A dtype or the memory layout of an array that is written is wrong, or evaluation has no running statistics.
        ValueError: A shape or range is wrong, arrays overlap, or a batch in training has a single value per channel.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y, mean, rstd = F.batch_norm_relu(np.array([[1.0], [3.0]]), None, None, training=True, eps=0.0)
        >>> y.ravel()
        array([0., 1.])

    References:
        Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2; in front of the nonlinearity as in section 3.2.
    """
    return kernels.batch_norm_relu(
        x, running_mean, running_var, weight, bias, training, momentum, eps, channel_axis, out, None
    )


def batch_norm_relu_backward(
    dy: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    training: bool,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """The gradients of :func:`batch_norm_relu`.

    .. code-block:: text

        dt = 0 where t ≤ 0, dy elsewhere, with t computed again from x;   then as batch_norm_backward with dt for dy

    It does not need y, which may be overwritten.

    Args:
        dy: The gradient with respect to y, shape and dtype of x, any memory layout.
        x: The input of forward.
        mean: As forward returned it, float64, shape ``(C,)``.
        rstd: As forward returned it, float64, shape ``(C,)``.
        weight: As in forward.
        bias: As in forward.
        training: As in forward.
        bias_grad: Whether to compute dbias.
        channel_axis: As in forward.
        out: Arrays for ``(dx, dweight, dbias)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        dx, like x, channels last in memory where x has them there, otherwise C-contiguous; dweight, shape ``(C,)``, ``None``
        without a weight; dbias, shape ``(C,)``, ``None`` without ``bias_grad``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, w, b = np.array([[1.0], [3.0]]), np.ones(1), np.zeros(1)
        >>> y, mean, rstd = F.batch_norm_relu(x, None, None, w, b, training=True)
        >>> F.batch_norm_relu_backward(np.ones((2, 1)), x, mean, rstd, w, b, training=True)[2]
        array([1.])
    """
    return kernels.batch_norm_relu_backward(dy, x, mean, rstd, weight, bias, training, bias_grad, channel_axis, out)


def batch_norm_add_relu(
    x: Array,
    residual: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None = None,
) -> tuple[Array, Statistics, Statistics]:
    """Batch normalization, an addition and ReLU in one pass: the end of a residual block.

    .. code-block:: text

        y = max(u, 0),   u = (x − mean)·rstd·weight + bias + residual   as in batch_norm

    Args:
        x: As in :func:`batch_norm`.
        residual: Shape and dtype of x, any memory layout.
        running_mean: As in :func:`batch_norm`.
        running_var: As in :func:`batch_norm`.
        weight: As in :func:`batch_norm`.
        bias: As in :func:`batch_norm`.
        training: As in :func:`batch_norm`.
        momentum: As in :func:`batch_norm`.
        eps: As in :func:`batch_norm`.
        channel_axis: As in :func:`batch_norm`.
        out: Arrays for ``(y, mean, rstd)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y, like x, channels last in memory where x has them there, otherwise C-contiguous, NaN where u is NaN; mean and rstd,
        float64, shape ``(C,)``: those that were used.

    Raises:
        TypeError: A dtype or the memory layout of an array that is written is wrong, or evaluation has no running statistics.
        ValueError: A shape or range is wrong, arrays overlap, or a batch in training has a single value per channel.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, residual = np.array([[1.0], [3.0]]), np.array([[4.0], [-4.0]])
        >>> y, mean, rstd = F.batch_norm_add_relu(x, residual, None, None, training=True, eps=0.0)
        >>> y.ravel()
        array([3., 0.])

    References:
        Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2; He et al. 2015, arXiv:1512.03385, eq. 1, with ReLU after the
        addition.
    """
    return kernels.batch_norm_add_relu(
        x, residual, running_mean, running_var, weight, bias, training, momentum, eps, channel_axis, out, None
    )


def batch_norm_add_relu_backward(
    dy: Array,
    y: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None = None,
    *,
    training: bool,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: tuple[Array | None, Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array, Array | None, Array | None]:
    """The gradients of :func:`batch_norm_add_relu`.

    .. code-block:: text

        dresidual = 0 where y ≤ 0, dy elsewhere;   then as batch_norm_backward with dresidual for dy

    Args:
        dy: The gradient with respect to y, shape and dtype of x, any memory layout.
        y: As forward returned it.
        x: The input of forward.
        mean: As forward returned it, float64, shape ``(C,)``.
        rstd: As forward returned it, float64, shape ``(C,)``.
        weight: As in forward.
        training: As in forward.
        bias_grad: Whether to compute dbias.
        channel_axis: As in forward.
        out: Arrays for ``(dx, dresidual, dweight, dbias)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        dx and dresidual, like x, channels last in memory where x has them there, otherwise C-contiguous; dweight, shape
        ``(C,)``, ``None`` without a weight; dbias, shape ``(C,)``, ``None`` without ``bias_grad``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, residual = np.array([[1.0], [3.0]]), np.array([[4.0], [-4.0]])
        >>> y, mean, rstd = F.batch_norm_add_relu(x, residual, None, None, training=True)
        >>> dx, dresidual, _, _ = F.batch_norm_add_relu_backward(np.ones((2, 1)), y, x, mean, rstd, training=True)
        >>> dresidual.ravel()
        array([1., 0.])
    """
    return kernels.batch_norm_add_relu_backward(dy, y, x, mean, rstd, weight, training, bias_grad, channel_axis, out)


def batch_renorm(
    x: Array,
    running_mean: Array,
    running_var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    r_max: float = 3.0,
    d_max: float = 5.0,
    *,
    channel_axis: int = 1,
    out: tuple[Array | None, Statistics | None, Statistics | None, Statistics | None, Statistics | None] | None = None,
) -> tuple[Array, Statistics, Statistics, Statistics, Statistics]:
    """Batch renormalization: training normalizes, within limits, as evaluation will.

    .. code-block:: text

        y = ((x − mean)·rstd·r + d)·weight + bias,   rstd = 1/√(var + eps)
        training:    mean and biased var of this batch,  σ = √(running_var + eps)
                     r = clip(1/(rstd·σ), 1/r_max, r_max),  d = clip((mean − running_mean)/σ, −d_max, d_max)
                     then running ← (1 − momentum)·running + momentum·statistic, the variance unbiased
        evaluation:  the running statistics, r = 1, d = 0

    With r_max = 1 and d_max = 0 it is :func:`batch_norm`; a training begins with these and raises them.

    Args:
        x: As in :func:`batch_norm`.
        running_mean: Shape ``(C,)``, dtype of x; float32 where x has 16 bits; updated in training.
        running_var: As running_mean.
        weight: As in :func:`batch_norm`.
        bias: As in :func:`batch_norm`.
        training: As in :func:`batch_norm`.
        momentum: As in :func:`batch_norm`.
        eps: As in :func:`batch_norm`.
        r_max: The limit of r, at least 1.
        d_max: The limit of d, at least 0.
        channel_axis: As in :func:`batch_norm`.
        out: Arrays for ``(y, mean, rstd, r, d)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y, like x, channels last in memory where x has them there, otherwise C-contiguous; mean, rstd, r and d, float64, shape
        ``(C,)``: those that were used.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape or range is wrong, arrays overlap, or a batch in training has a single value per channel.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> running_mean, running_var = np.zeros(1), np.ones(1)
        >>> y, _, _, r, d = F.batch_renorm(np.array([[1.0], [3.0]]), running_mean, running_var, training=True, eps=0.0)
        >>> y.ravel(), r, d
        (array([1., 3.]), array([1.]), array([2.]))

    References:
        Ioffe 2017, arXiv:1702.03275, algorithm 1.  Here the running variance is kept, unbiased, as in :func:`batch_norm`; in
        the paper it is σ.
    """
    return kernels.batch_renorm(
        x, running_mean, running_var, weight, bias, training, momentum, eps, r_max, d_max, channel_axis, out, None
    )


def batch_renorm_backward(
    dy: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    r: Statistics,
    d: Statistics,
    weight: Array | None = None,
    *,
    training: bool,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """The gradients of :func:`batch_renorm`, where r and d are constants.

    .. code-block:: text

        x̂ = (x − mean)·rstd;   dweight = Σ dy·(x̂·r + d),  dbias = Σ dy   over the m values of a channel
        training:    dx = r·rstd·weight·(dy − Σdy/m − x̂·Σ(dy x̂)/m)
        evaluation:  dx = rstd·weight·dy

    Args:
        dy: The gradient with respect to y, shape and dtype of x, any memory layout.
        x: The input of forward.
        mean: As forward returned it, float64, shape ``(C,)``.
        rstd: As forward returned it, float64, shape ``(C,)``.
        r: As forward returned it, float64, shape ``(C,)``.
        d: As forward returned it, float64, shape ``(C,)``.
        weight: As in forward.
        training: As in forward.
        bias_grad: Whether to compute dbias.
        channel_axis: As in forward.
        out: Arrays for ``(dx, dweight, dbias)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        dx, like x, channels last in memory where x has them there, otherwise C-contiguous; dweight, shape ``(C,)``, ``None``
        without a weight; dbias, shape ``(C,)``, ``None`` without ``bias_grad``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, w = np.array([[1.0], [3.0]]), np.ones(1)
        >>> y, *used = F.batch_renorm(x, np.zeros(1), np.ones(1), w, training=True, eps=0.0)
        >>> dx, dweight, dbias = F.batch_renorm_backward(np.ones((2, 1)), x, *used, w, training=True)
        >>> dx.ravel(), dweight, dbias
        (array([0., 0.]), array([4.]), array([2.]))

    References:
        Ioffe 2017, arXiv:1702.03275, section 3.
    """
    return kernels.batch_renorm_backward(dy, x, mean, rstd, r, d, weight, training, bias_grad, channel_axis, out)
