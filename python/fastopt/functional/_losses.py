"""Losses: the value and the gradient in one call."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from .._core import kernels
from ._arrays import Array, array_of

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "huber_loss", "mse_loss"]

Reduction: TypeAlias = Literal["mean", "sum", "none"]


def _labels(target: Any, x: Any) -> Any:
    """Labels as 64-bit integers; distributions and what is neither as they are, for the kernel to judge."""
    if isinstance(target, np.ndarray) and target.dtype.kind == "f":
        if isinstance(x, np.ndarray) and target.ndim == x.ndim - 1:
            raise TypeError(
                f"cross_entropy: target has dtype {target.dtype} and the shape {target.shape} of labels, which are integers: "
                "pass target.astype(np.int64)"
            )
        return target
    if not isinstance(target, np.ndarray | list | tuple | int | np.integer) or isinstance(target, np.ma.MaskedArray):
        array_of("cross_entropy", "target", target, None, ["int64"])
    try:
        labels = np.asarray(target)
    except ValueError:
        raise ValueError("cross_entropy: target has lists of several lengths, expected an array of labels") from None
    if not labels.size and not isinstance(target, np.ndarray):  # NumPy makes [] one of float64
        labels = labels.astype(np.int64)
    if labels.dtype == np.uint64 or (labels.dtype.kind in "fO" and not isinstance(target, np.ndarray)):
        numbers = np.asarray(target, object).ravel().tolist()
        if all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in numbers):
            if large := [one for one in numbers if not -(1 << 63) <= one < 1 << 63]:
                raise ValueError(f"cross_entropy: target must have labels below the number of classes, got {large[0]}")
            labels = np.array([*map(int, numbers)], np.int64).reshape(labels.shape)
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"cross_entropy: target has dtype {labels.dtype}, expected integers for labels, or the dtype of x for distributions"
        )
    if isinstance(x, np.ndarray) and labels.ndim == x.ndim and labels.shape == x.shape and x.ndim > 1:
        raise TypeError(
            f"cross_entropy: target has the shape of x and dtype {labels.dtype}, expected {x.dtype} for distributions: pass "
            "target.astype(x.dtype)"
        )
    return np.ascontiguousarray(labels, np.int64).reshape(labels.shape)


def _broadcast(function: str, name: str, array: Any, x: Any) -> Any:
    """A view of the shape of x; what is wrong shows in the kernel."""
    if not isinstance(array, np.ndarray) or not isinstance(x, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        return array
    try:
        return np.broadcast_to(array, x.shape)
    except ValueError:
        raise ValueError(
            f"{function}: {name} has shape {array.shape}, expected one that broadcasts to {x.shape}"
        ) from None


def cross_entropy(
    x: Array,
    target: Any,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    *,
    dim: int | None = None,
    grad: bool = True,
    out: Array | None = None,
) -> tuple[Any, Array | None]:
    """The cross entropy of logits, and its gradient.

    .. code-block:: text

        L = −Σ_c q_c·w_c·log p_c,   p = softmax(x),   q = (1 − label_smoothing)·target + label_smoothing/classes
        dx = (p·Σ q w − q w)·factor

    A label is the distribution with 1 at its class.  "mean" divides the sum by the sum of the labels' weights (labels that are
    ignored have none), and with distributions by their number; all as torch does.

    Args:
        x: Logits, at least one axis, any memory layout, float32 or float64.
        target: Labels, integers of x's shape without the axis of classes; or distributions, of the shape and dtype of x.
        weight: One for each class, dtype of x.
        ignore_index: The label of places that do not count: their loss and gradient are 0.
        reduction: "mean", "sum" or "none".
        label_smoothing: In [0, 1].
        dim: The axis of classes; ``None`` for torch's, which is 1, or 0 for a single place.
        grad: Whether to compute the gradient.
        out: An array for dx that is C-contiguous once ``dim`` is moved to the end: x itself, or one that does not overlap it.

    Returns:
        The loss: a float, computed in float64; with "none" a float64 array of x's shape without the axis of classes.  NaN for the
        mean of nothing.  Then dx, like x, with ``dim`` innermost in memory: the gradient of the loss, with "none" of their sum;
        ``None`` without ``grad``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape, label or range is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> loss, dx = F.cross_entropy(np.log([[1.0, 1.0, 2.0], [1.0, 1.0, 6.0]]), np.array([2, -100]))
        >>> round(loss, 4), dx
        (0.6931, array([[ 0.25,  0.25, -0.5 ],
               [ 0.  ,  0.  ,  0.  ]]))

    References:
        Szegedy, Vanhoucke, Ioffe, Shlens & Wojna 2015, arXiv:1512.00567, section 7 (label smoothing).
    """
    return kernels.cross_entropy(
        x, _labels(target, x), weight, ignore_index, reduction, label_smoothing, dim, grad, out
    )


def mse_loss(
    x: Array,
    target: Array,
    reduction: Reduction = "mean",
    *,
    weight: Array | None = None,
    grad: bool = True,
    out: Array | None = None,
) -> tuple[Any, Array | None]:
    """The squared error, and its gradient.

    .. code-block:: text

        L = w·(x − target)²,   dx = 2w·(x − target)·factor,   factor = 1/size for "mean", otherwise 1

    Args:
        x: Any shape and memory layout, float32 or float64.
        target: Shape and dtype of x, any memory layout.
        reduction: "mean", "sum" or "none".
        weight: w, of a shape that broadcasts to x's, dtype of x.
        grad: Whether to compute the gradient.
        out: A C-contiguous array for dx: x itself, or one that overlaps no argument.

    Returns:
        The loss: a float, whose sum is taken in float64; with "none" an array like x.  Then dx, like x, C-contiguous: the gradient
        of the loss, with "none" of their sum; ``None`` without ``grad``.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or name is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> F.mse_loss(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
        (2.0, array([ 0., -2.]))
    """
    return kernels.mse_loss(x, target, reduction, _broadcast("mse_loss", "weight", weight, x), grad, out)


def huber_loss(
    x: Array,
    target: Array,
    reduction: Reduction = "mean",
    delta: float = 1.0,
    *,
    weight: Array | None = None,
    grad: bool = True,
    out: Array | None = None,
) -> tuple[Any, Array | None]:
    """Huber's loss, quadratic near zero and linear behind delta, and its gradient.

    .. code-block:: text

        z = x − target;   L = w·z²/2 where |z| ≤ delta, otherwise w·delta·(|z| − delta/2);   dx = w·clip(z, −delta, delta)·factor

    Args:
        x: Any shape and memory layout, float32 or float64.
        target: Shape and dtype of x, any memory layout.
        reduction: "mean", "sum" or "none".
        delta: Greater than 0.
        weight: w, of a shape that broadcasts to x's, dtype of x.
        grad: Whether to compute the gradient.
        out: A C-contiguous array for dx: x itself, or one that overlaps no argument.

    Returns:
        The loss and dx, as :func:`mse_loss`.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape, range or name is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> F.huber_loss(np.array([0.5, -3.0]), np.zeros(2), "sum")
        (2.625, array([ 0.5, -1. ]))

    References:
        Huber 1964, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35.
    """
    return kernels.huber_loss(x, target, reduction, delta, _broadcast("huber_loss", "weight", weight, x), grad, out)


def binary_cross_entropy_with_logits(
    x: Array,
    target: Array,
    weight: Array | None = None,
    reduction: Reduction = "mean",
    pos_weight: Array | None = None,
    *,
    grad: bool = True,
    out: Array | None = None,
) -> tuple[Any, Array | None]:
    """The cross entropy of two classes, of logits, and its gradient.

    .. code-block:: text

        L = −w·(pos_weight·t·log σ(x) + (1 − t)·log(1 − σ(x))),   σ(x) = 1/(1 + e⁻ˣ)
        dx = w·((1 − t) − (1 + (pos_weight − 1)·t)·σ(−x))·factor

    Args:
        x: Logits, any shape and memory layout, float32 or float64.
        target: t, shape and dtype of x, any memory layout.
        weight: w, of a shape that broadcasts to x's, dtype of x.
        reduction: "mean", "sum" or "none".
        pos_weight: The weight of positive targets, of a shape that broadcasts to x's, dtype of x.
        grad: Whether to compute the gradient.
        out: A C-contiguous array for dx: x itself, or one that overlaps no argument.

    Returns:
        The loss and dx, as :func:`mse_loss`.

    Raises:
        TypeError: A dtype is wrong, or the memory layout of out.
        ValueError: A shape or name is wrong, or arrays overlap.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> loss, dx = F.binary_cross_entropy_with_logits(np.array([0.0, 50.0]), np.array([1.0, 0.0]))
        >>> round(loss, 4), dx
        (25.3466, array([-0.25,  0.5 ]))
    """
    function = "binary_cross_entropy_with_logits"
    return kernels.binary_cross_entropy_with_logits(
        x,
        target,
        _broadcast(function, "weight", weight, x),
        reduction,
        _broadcast(function, "pos_weight", pos_weight, x),
        grad,
        out,
    )
