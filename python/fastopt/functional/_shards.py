"""Batch normalization of a batch in parts, which several processes share or which is too large for one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from .._check import whole
from .._core import kernels
from ._arrays import Array, Statistics, array_of

__all__ = [
    "batch_norm_apply",
    "batch_norm_backward_apply",
    "batch_norm_backward_stats",
    "batch_norm_stats",
    "combine_stats",
]

Stats: TypeAlias = tuple[int, Statistics, Statistics]


def batch_norm_stats(x: Array, around: Statistics | None = None, *, channel_axis: int = 1) -> Stats:
    """Computes the statistics of a part of a batch, for :func:`combine_stats` and :func:`batch_norm_apply`.

    .. code-block:: text

        mean = Σx/count,  m2 = Σ(x − mean)²   over the values of a channel
        around:  mean = around,  m2 = Σ(x − around)²

    With :func:`combine_stats` the processes need one exchange.  With ``around``, the mean of the whole batch, the m2 of the
    parts need only be added, which takes a second exchange.

    Args:
        x: At least two axes, float32, float64, float16 or bfloat16; it may have no values.
        around: Numbers from which deviations are taken, float64, shape ``(C,)``; ``None`` for this part's own mean.
        channel_axis: The axis of the C channels.

    Returns:
        The count of values in a channel; mean (or ``around``) and m2, float64, shape ``(C,)``, zeros where there are neither
        values nor ``around``.

    Raises:
        TypeError: A dtype or memory layout is wrong.
        ValueError: A shape or range is wrong.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x = np.array([[1.0], [3.0]])
        >>> F.batch_norm_stats(x)
        (2, array([2.]), array([2.]))
        >>> F.batch_norm_stats(x, np.zeros(1))
        (2, array([0.]), array([10.]))

    References:
        Peng et al. 2018, arXiv:1711.07240, with two exchanges; for one see :func:`combine_stats`.
    """
    return kernels.batch_norm_stats(x, around, channel_axis)


def combine_stats(stats: Sequence[Stats]) -> Stats:
    """Combines the statistics of parts into those of the whole.

    .. code-block:: text

        n = n₁ + n₂,  δ = mean₂ − mean₁,  mean = mean₁ + δ·n₂/n,  m2 = m2₁ + m2₂ + δ²·n₁·n₂/n

    Parts are added one after the other.  Their order decides the last bits: all processes must give them in the same order.

    Args:
        stats: The results of :func:`batch_norm_stats` without ``around``, one per part; parts without values change nothing.

    Returns:
        count, mean and m2, as :func:`batch_norm_stats` returns them.

    Raises:
        TypeError: A type or dtype is wrong.
        ValueError: A shape or count is wrong, or there are no parts.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> F.combine_stats([F.batch_norm_stats(np.array(x)) for x in ([[1.0], [3.0]], [[5.0]])])
        (3, array([3.]), array([8.]))

    References:
        Chan, Golub & LeVeque 1983, The American Statistician 37, 242-247.
    """
    parts = [_part("combine_stats", f"stats[{i}]", part) for i, part in enumerate(_listed(stats))]
    count, mean, m2 = 0, np.zeros_like(parts[0][1]), np.zeros_like(parts[0][2])
    with np.errstate(all="ignore"):
        for i, (n, its_mean, its_m2) in enumerate(parts):
            for name, array in ("mean", its_mean), ("m2", its_m2):
                array_of("combine_stats", f"{name} of stats[{i}]", array, mean.shape)
            if n:
                share = n / (count + n)
                delta = _flushed(_flushed(its_mean) - mean)
                mean = _flushed(mean + _flushed(delta * share))
                m2 = _flushed(m2 + _flushed(_flushed(its_m2) + _flushed(_flushed(delta * delta) * (count * share))))
                count += n
    return count, mean, m2


def batch_norm_apply(
    x: Array,
    stats: Stats,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: tuple[Array | None, Statistics | None, Statistics | None] | None = None,
) -> tuple[Array, Statistics, Statistics]:
    """Batch normalization of a part in training, with the statistics of the whole batch.

    .. code-block:: text

        y = (x − mean)·rstd·weight + bias,   rstd = 1/√(m2/count + eps)
        running ← (1 − momentum)·running + momentum·statistic, the variance unbiased: m2/(count − 1)

    Args:
        x: At least two axes, float32, float64, float16 or bfloat16.
        stats: count, mean and m2 of the whole batch.
        running_mean: Shape ``(C,)``, dtype of x; float32 where x has 16 bits; updated; or ``None``.
        running_var: As running_mean.
        weight: As in :func:`batch_norm`.
        bias: As in :func:`batch_norm`.
        momentum: As in :func:`batch_norm`.
        eps: As in :func:`batch_norm`.
        channel_axis: As in :func:`batch_norm`.
        out: Arrays for ``(y, mean, rstd)``, ``None`` where a new one is wanted.  None may overlap an argument.

    Returns:
        y, like x, channels last in memory where x has them there, otherwise C-contiguous; mean and rstd, float64, shape
        ``(C,)``: those that were used.

    Raises:
        TypeError: A dtype or memory layout is wrong.
        ValueError: A shape or range is wrong, arrays overlap, or the batch has a single value per channel.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x = np.array([[1.0], [3.0]])
        >>> y, mean, rstd = F.batch_norm_apply(x[:1], F.batch_norm_stats(x), eps=0.0)
        >>> y, mean, rstd
        (array([[-1.]]), array([2.]), array([1.]))

    References:
        Ioffe & Szegedy 2015, arXiv:1502.03167, algorithm 1; over processes Peng et al. 2018, arXiv:1711.07240.
    """
    count, of_batch, m2 = _part("batch_norm_apply", "stats", stats)
    if count == 1:
        raise ValueError("batch_norm_apply: count of stats must be more than 1, got 1")
    return kernels.batch_norm_apply(
        x, count, of_batch, m2, running_mean, running_var, weight, bias, momentum, eps, channel_axis, out
    )


def batch_norm_backward_stats(
    dy: Array, x: Array, mean: Statistics, rstd: Statistics, *, channel_axis: int = 1
) -> tuple[Statistics, Statistics]:
    """Computes the sums that :func:`batch_norm_backward_apply` needs, over a part of a batch.

    .. code-block:: text

        sum_dy = Σ dy,  sum_dy_xhat = Σ dy·x̂,  x̂ = (x − mean)·rstd   over the values of a channel

    Add the sums of the parts.  The sums over the whole batch are the gradients of bias and weight, in float64.

    Args:
        dy: The gradient with respect to y, shape, dtype and memory order of x.
        x: The input of forward.
        mean: As forward returned it, float64, shape ``(C,)``.
        rstd: As forward returned it, float64, shape ``(C,)``.
        channel_axis: As in forward.

    Returns:
        sum_dy and sum_dy_xhat, float64, shape ``(C,)``.

    Raises:
        TypeError: A dtype or memory layout is wrong.
        ValueError: A shape is wrong.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x = np.array([[1.0], [3.0]])
        >>> y, mean, rstd = F.batch_norm_apply(x, F.batch_norm_stats(x), eps=0.0)
        >>> F.batch_norm_backward_stats(np.array([[1.0], [2.0]]), x, mean, rstd)
        (array([3.]), array([1.]))

    References:
        Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.
    """
    return kernels.batch_norm_backward_stats(dy, x, mean, rstd, channel_axis)


def batch_norm_backward_apply(
    dy: Array,
    x: Array,
    mean: Statistics,
    rstd: Statistics,
    count: int,
    sum_dy: Statistics,
    sum_dy_xhat: Statistics,
    weight: Array | None = None,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
) -> Array:
    """The gradient of :func:`batch_norm_apply` with respect to x.

    .. code-block:: text

        dx = rstd·weight·(dy − sum_dy/count − x̂·sum_dy_xhat/count),   x̂ = (x − mean)·rstd

    Args:
        dy: The gradient with respect to y, shape, dtype and memory order of x.
        x: The input of forward.
        mean: As forward returned it, float64, shape ``(C,)``.
        rstd: As forward returned it, float64, shape ``(C,)``.
        count: The number of values of a channel in the whole batch.
        sum_dy: The sum over the whole batch, float64, shape ``(C,)``.
        sum_dy_xhat: The sum over the whole batch, float64, shape ``(C,)``.
        weight: As in forward.
        channel_axis: As in forward.
        out: An array for dx.  It may not overlap an argument.

    Returns:
        dx, like x, channels last in memory where x has them there, otherwise C-contiguous.

    Raises:
        TypeError: A dtype or memory layout is wrong.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x, dy = np.array([[1.0], [3.0], [8.0]]), np.ones((3, 1))
        >>> stats = F.batch_norm_stats(x)
        >>> y, mean, rstd = F.batch_norm_apply(x, stats)
        >>> sums = F.batch_norm_backward_stats(dy, x, mean, rstd)
        >>> F.batch_norm_backward_apply(dy, x, mean, rstd, stats[0], *sums).ravel().round(6)
        array([0., 0., 0.])

    References:
        Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.
    """
    count = whole("batch_norm_backward_apply", "count", count)
    return kernels.batch_norm_backward_apply(dy, x, mean, rstd, count, sum_dy, sum_dy_xhat, weight, channel_axis, out)


def _flushed(x: Array) -> Array:
    """x with signed zeros in place of subnormal numbers, as in kernels."""
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, np.copysign(0.0, x), x)


def _listed(stats: Any) -> Sequence[Any]:
    if not isinstance(stats, list | tuple):
        raise TypeError(f"combine_stats: stats must be a list of (count, mean, m2), got {type(stats).__name__}")
    if not stats:
        raise ValueError("combine_stats: stats must have at least one entry, got []")
    return stats


def _part(function: str, name: str, part: Any) -> tuple[int, Array, Array]:
    """A checked part: count, mean and m2."""
    if not isinstance(part, list | tuple) or len(part) != 3:
        raise TypeError(f"{function}: {name} must be (count, mean, m2), got {_text(part)}")
    count, mean, m2 = part
    count = whole(function, f"count of {name}", count)
    mean = array_of(function, f"mean of {name}", mean, None, ["float64"])
    m2 = array_of(function, f"m2 of {name}", m2, mean.shape, ["float64"])
    return count, mean, m2


def _text(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, list | tuple) else type(value).__name__
