"""Dropout, Gaussian dropout and dropout of channels; random numbers are a function of seed, step and position."""

from __future__ import annotations

from collections.abc import Sequence

from .._core import kernels
from ._arrays import Array

__all__ = [
    "channel_dropout",
    "channel_dropout_backward",
    "dropout",
    "dropout_backward",
    "gaussian_dropout",
    "gaussian_dropout_backward",
]


def dropout(
    x: Array,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int,
    step: int = 0,
    order: Sequence[int] | None = None,
    out: Array | None = None,
) -> Array:
    """Dropout: sets random elements to zero and scales the others so that the mean stays.

    .. code-block:: text

        y = x/(1 − p) with probability 1 − p, otherwise 0;   without training y = x

    The dropped elements depend on seed, step and the element's position alone, not on x, the number of threads or the
    instruction set.  So no mask needs to be kept, and a resumed run continues as it would have.  Elements are counted in the
    order of memory: in C order of the axes sorted by the sizes of their strides, for a slice or a flipped array too; in plain C
    order of a broadcast array, which has a stride of 0.  ``order`` chooses another order.

    Dropped elements are +0, even where x is NaN or infinite.  The probability is p up to an error of 2⁻³³.

    Args:
        x: Any shape and memory layout, float32, float64, float16 or bfloat16.
        p: The probability that an element is dropped, in [0, 1].
        training: Whether to drop; otherwise y is a copy of x.
        seed: The seed of the random numbers, in [0, 2⁶⁴); give each layer its own.
        step: The step of the training, in [0, 2³²); each step draws other numbers.
        order: All axes of x, outermost first: elements are counted in C order of these, and y has this order in memory;
            ``None`` for the order that x has in memory.
        out: An array for y, in that order and without gaps: x itself, or one that does not overlap it.

    Returns:
        y, like x, in that order without gaps.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> x = np.arange(1.0, 9.0)
        >>> F.dropout(x, 0.5, seed=1)
        array([ 2.,  0.,  6.,  8.,  0.,  0.,  0., 16.])
        >>> F.dropout_backward(np.ones(8), 0.5, seed=1)
        array([2., 0., 2., 2., 0., 0., 0., 2.])

    References:
        Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, "Dropout: a simple way to prevent neural networks from
        overfitting", JMLR 15.  There the weights shrink after training; here, as in all libraries, the elements that are kept
        grow.
    """
    return kernels.dropout(x, p, training, seed, step, order, out)


def dropout_backward(
    dy: Array,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int,
    step: int = 0,
    order: Sequence[int] | None = None,
    out: Array | None = None,
) -> Array:
    """The gradient of :func:`dropout`, which is the same function of dy.

    Args:
        dy: The gradient with respect to y, shape and dtype of x; any memory layout, but see order.
        p: As in forward.
        training: As in forward.
        seed: As in forward.
        step: As in forward.
        order: All axes of dy, outermost first: elements are counted in C order of these, and dx has this order in memory;
            ``None`` for the order that dy has in memory.  Give it if that differs from the order that x had.
        out: An array for dx, in that order and without gaps: dy itself, or one that does not overlap it.

    Returns:
        dx, like dy, in that order without gaps.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> F.dropout_backward(np.arange(1.0, 9.0), 0.5, seed=1)
        array([ 2.,  0.,  6.,  8.,  0.,  0.,  0., 16.])
        >>> dy = np.asfortranarray(np.ones((2, 4)))  # where x was C-contiguous
        >>> F.dropout_backward(dy, 0.5, seed=1, order=(0, 1))
        array([[2., 0., 2., 2.],
               [0., 0., 0., 2.]])
    """
    return kernels.dropout_backward(dy, p, training, seed, step, order, out)


def gaussian_dropout(
    x: Array,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int,
    step: int = 0,
    order: Sequence[int] | None = None,
    out: Array | None = None,
) -> Array:
    """Gaussian dropout: multiplies by noise with the mean 1 and the variance of dropout's factor.

    .. code-block:: text

        y = x·(1 + √(p/(1 − p))·n),   n ~ N(0, 1);   without training y = x

    As with :func:`dropout`, the noise depends on seed, step and the element's position in memory alone.  It is drawn in
    float32, also for float64.

    Args:
        x: As in :func:`dropout`.
        p: The probability p of the dropout with the same variance, in [0, 1).
        training: Whether to multiply; otherwise y is a copy of x.
        seed: As in :func:`dropout`.
        step: As in :func:`dropout`.
        order: As in :func:`dropout`.
        out: As in :func:`dropout`.

    Returns:
        y, like x, in that order without gaps.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> F.gaussian_dropout(np.ones(4), 0.1, seed=1).round(3)
        array([1.108, 1.297, 0.636, 0.91 ])

    References:
        Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, section 10.
    """
    return kernels.gaussian_dropout(x, p, training, seed, step, order, out)


def gaussian_dropout_backward(
    dy: Array,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int,
    step: int = 0,
    order: Sequence[int] | None = None,
    out: Array | None = None,
) -> Array:
    """The gradient of :func:`gaussian_dropout`, which is the same function of dy.

    Args:
        dy: As in :func:`dropout_backward`.
        p: As in forward.
        training: As in forward.
        seed: As in forward.
        step: As in forward.
        order: As in :func:`dropout_backward`.
        out: As in :func:`dropout_backward`.

    Returns:
        dx, like dy, in that order without gaps.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> F.gaussian_dropout_backward(np.ones(4), 0.1, seed=1).round(3)
        array([1.108, 1.297, 0.636, 0.91 ])
    """
    return kernels.gaussian_dropout_backward(dy, p, training, seed, step, order, out)


def channel_dropout(
    x: Array,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int,
    step: int = 0,
    channel_axis: int = 1,
    out: Array | None = None,
) -> Array:
    """Dropout of whole channels of a sample, as torch's dropout1d, dropout2d and dropout3d.

    .. code-block:: text

        y[n, c] = x[n, c]/(1 − p) with probability 1 − p, otherwise 0;   without training y = x

    Neighbouring pixels of an image are alike, so that dropping single ones hides little.  The dropped channels depend on seed,
    step, n and c alone, whatever the memory order.

    Args:
        x: At least two axes, of which the first is that of the samples; any memory layout; float32, float64, float16 or
            bfloat16.
        p: As in :func:`dropout`.
        training: As in :func:`dropout`.
        seed: As in :func:`dropout`.
        step: As in :func:`dropout`.
        channel_axis: The axis of the channels, not the first.
        out: An array for y, in x's memory order and without gaps: x itself, or one that does not overlap it.

    Returns:
        y, like x, in x's memory order without gaps.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> F.channel_dropout(np.ones((2, 3, 4)), 0.5, seed=1)[:, :, 0]
        array([[2., 0., 2.],
               [2., 2., 0.]])

    References:
        Tompson, Goroshin, Jain, LeCun & Bregler 2015, arXiv:1411.4280, section 3.2.
    """
    return kernels.channel_dropout(x, p, training, seed, step, channel_axis, out)


def channel_dropout_backward(
    dy: Array,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int,
    step: int = 0,
    channel_axis: int = 1,
    out: Array | None = None,
) -> Array:
    """The gradient of :func:`channel_dropout`, which is the same function of dy.

    Args:
        dy: The gradient with respect to y, shape and dtype of x; any memory layout.
        p: As in forward.
        training: As in forward.
        seed: As in forward.
        step: As in forward.
        channel_axis: As in forward.
        out: An array for dx, in dy's memory order and without gaps: dy itself, or one that does not overlap it.

    Returns:
        dx, like dy, in dy's memory order without gaps.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> F.channel_dropout_backward(np.ones((2, 3, 4)), 0.5, seed=1)[:, :, 0]
        array([[2., 0., 2.],
               [2., 2., 0.]])
    """
    return kernels.channel_dropout_backward(dy, p, training, seed, step, channel_axis, out)
