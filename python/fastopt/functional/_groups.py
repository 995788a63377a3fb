"""Normalizations of each sample by itself: group and instance normalization."""

from __future__ import annotations

from .._core import kernels
from ._arrays import Array, Statistics

__all__ = ["group_norm", "group_norm_backward", "instance_norm", "instance_norm_backward"]


def group_norm(
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None = None,
) -> tuple[Array, Statistics, Statistics]:
    """Group normalization: each sample's channels in groups.

    .. code-block:: text

        y = (x − mean)·rstd·weight + bias,   rstd = 1/√(var + eps)
        mean and biased var of each sample and group, over its channels and all other axes

    One group normalizes each sample as a whole; as many groups as channels are :func:`instance_norm`.

    Args:
        x: At least two axes, the first one that of the N samples, any memory layout, float32, float64, float16 or bfloat16.
        num_groups: The number of groups of equal size.
        weight: Shape ``(C,)``, dtype of x; float32 where x has 16 bits.
        bias: Shape ``(C,)``, dtype of x; float32 where x has 16 bits.
        eps: Added to the variance, at least 0.
        channel_axis: The axis of the C channels, not the first one.
        out: Arrays for ``(y, mean, rstd)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y, like x, channels last in memory where x has them there, otherwise C-contiguous; mean and rstd, float64, shape ``(N,
        num_groups)``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y, mean, rstd = F.group_norm(np.array([[1.0, 3.0, 5.0, 9.0]]), 2, eps=0.0)
        >>> y, mean, rstd
        (array([[-1.,  1., -1.,  1.]]), array([[2., 7.]]), array([[1. , 0.5]]))

    References:
        Wu & He 2018, arXiv:1803.08494, eq. 7.
    """
    return kernels.group_norm(x, num_groups, weight, bias, eps, channel_axis, out)


def group_norm_backward(
    dy: Array,
    x: Array,
    num_groups: int,
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None = None,
    *,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """The gradients of :func:`group_norm`.

    .. code-block:: text

        g = dy·weight,   x̂ = (x − mean)·rstd
        dx = rstd·(g − Σg/m − x̂·Σ(g x̂)/m)   with Σ over the m values of a sample's group
        dweight = Σ dy·x̂,  dbias = Σ dy   over the samples and all other axes

    Args:
        dy: The gradient with respect to y, shape and dtype of x, any memory layout.
        x: The input of forward.
        num_groups: As in forward.
        mean: As forward returned it, float64, shape ``(N, num_groups)``.
        rstd: As forward returned it, float64, shape ``(N, num_groups)``.
        weight: As in forward.
        bias_grad: Whether to compute dbias.
        channel_axis: As in forward.
        out: Arrays for ``(dx, dweight, dbias)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        dx, like x, channels last in memory where x has them there, otherwise C-contiguous; dweight, shape ``(C,)``, ``None``
        without a weight; dbias, shape ``(C,)``, ``None`` without ``bias_grad``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of an array that is written.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, w = np.array([[1.0, 3.0, 5.0, 9.0]]), np.ones(4)
        >>> y, mean, rstd = F.group_norm(x, 2, w)
        >>> dx, dweight, dbias = F.group_norm_backward(np.ones((1, 4)), x, 2, mean, rstd, w)
        >>> dx.round(6), dbias
        (array([[0., 0., 0., 0.]]), array([1., 1., 1., 1.]))
    """
    return kernels.group_norm_backward(dy, x, num_groups, mean, rstd, weight, bias_grad, channel_axis, out)


def instance_norm(
    x: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None = None,
) -> tuple[Array, Statistics, Statistics]:
    """Instance normalization: each channel of each sample.

    .. code-block:: text

        y = (x − mean)·rstd·weight + bias,   rstd = 1/√(var + eps)
        with input statistics:  mean and biased var of each sample and channel, over all other axes
                                running ← (1 − momentum)·running + momentum·(their average over samples, of unbiased variances)
        without:                the running statistics

    Args:
        x: As in :func:`group_norm`.
        running_mean: Shape ``(C,)``, dtype of x; float32 where x has 16 bits; updated with input statistics, where it may be
            ``None``.
        running_var: As running_mean.
        weight: As in :func:`group_norm`.
        bias: As in :func:`group_norm`.
        use_input_stats: Whether to use and record the statistics of this input.
        momentum: The part of the running statistics that is replaced, in [0, 1].
        eps: As in :func:`group_norm`.
        channel_axis: As in :func:`group_norm`.
        out: Arrays for ``(y, mean, rstd)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y, like x, channels last in memory where x has them there, otherwise C-contiguous; mean and rstd, float64, shape ``(N,
        C)``: those that were used.

    Raises:
        TypeError: A dtype or the memory layout of an array that is written is wrong, or there are neither input nor running
            statistics.
        ValueError: A shape or range is wrong, arrays overlap, or there is a single value a sample and channel.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> y, mean, rstd = F.instance_norm(np.array([[[1.0, 3.0], [5.0, 9.0]]]), eps=0.0)
        >>> y, mean, rstd
        (array([[[-1.,  1.],
                [-1.,  1.]]]), array([[2., 7.]]), array([[1. , 0.5]]))

    References:
        Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022, eq. 3.  Running statistics are torch's addition.
    """
    return kernels.instance_norm(
        x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps, channel_axis, out
    )


def instance_norm_backward(
    dy: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    weight: Array | None = None,
    *,
    use_input_stats: bool = True,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """The gradients of :func:`instance_norm`.

    .. code-block:: text

        x̂ = (x − mean)·rstd;   dweight = Σ dy·x̂,  dbias = Σ dy   over the samples and all other axes
        with input statistics:  dx = rstd·weight·(dy − Σdy/m − x̂·Σ(dy x̂)/m)   with Σ over the m values of a sample's channel
        without:                dx = rstd·weight·dy

    Args:
        dy: The gradient with respect to y, shape and dtype of x, any memory layout.
        x: The input of forward.
        mean: As forward returned it, float64, shape ``(N, C)``.
        rstd: As forward returned it, float64, shape ``(N, C)``.
        weight: As in forward.
        use_input_stats: As in forward.
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
        >>> x, w = np.array([[[1.0, 3.0], [5.0, 9.0]]]), np.ones(2)
        >>> y, mean, rstd = F.instance_norm(x, weight=w)
        >>> dx, dweight, dbias = F.instance_norm_backward(np.ones((1, 2, 2)), x, mean, rstd, w)
        >>> dx.ravel().round(6), dbias
        (array([0., 0., 0., 0.]), array([2., 2.]))
    """
    return kernels.instance_norm_backward(dy, x, mean, rstd, weight, use_input_stats, bias_grad, channel_axis, out)
