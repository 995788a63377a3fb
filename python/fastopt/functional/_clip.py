"""Clipping of gradients by itself, for loops that clip and step separately."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .._core import kernels
from ._arrays import Array

__all__ = ["clip_grad_norm", "clip_grad_value"]


def _listed(function: str, grads: Any) -> list[Any]:
    """A new list of the gradients."""
    if not isinstance(grads, Iterable) or isinstance(grads, Mapping | np.ndarray | str | bytes):
        raise TypeError(f"{function}: grads must be a list of arrays, got {type(grads).__name__}")
    return list(grads)


def clip_grad_norm(grads: Iterable[Array | None], max_norm: float, *, error_if_nonfinite: bool = False) -> float:
    """Clips gradients in place by the norm of all of them together, and returns it.

    .. code-block:: text

        ‖g‖ = √Σ g²   over all elements of all gradients
        g ← g·min(1, max_norm / (‖g‖ + 1e-6))

    ``opt.step(grads, clip_norm=max_norm)`` clips in the pass of its step and leaves the gradients as they are; its norm and its
    scaled gradients have the same bits.  Gradients whose norm is small enough are read once and not written.

    Args:
        grads: Arrays that are written, float32, float64, float16 or bfloat16 in any mixture, each contiguous in some order of its
            axes; ``None`` for parameters without a gradient.
        max_norm: The largest norm, at least 0; ``math.inf`` to find the norm only.
        error_if_nonfinite: Whether a norm that is infinite or NaN is an error.  Otherwise gradients are multiplied by 0 or by
            NaN, as torch does.

    Returns:
        The norm before clipping, computed in float64.

    Raises:
        TypeError: A gradient is not an array, is read-only, or has a wrong dtype or gaps in its memory.
        ValueError: max_norm is out of range, gradients share memory, or their norm is not finite.  Nothing has been written.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> grads = [np.array([3.0]), None, np.array([4.0])]
        >>> F.clip_grad_norm(grads, 1.0)
        5.0
        >>> grads[0].round(3), grads[2].round(3)
        (array([0.6]), array([0.8]))

    References:
        Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063, algorithm 1, with 1e-6 added to the norm as torch does.
    """
    norm: float = kernels.clip_grad_norm(_listed("clip_grad_norm", grads), max_norm, error_if_nonfinite)
    return norm


def clip_grad_value(grads: Iterable[Array | None], clip_value: float) -> None:
    """Clips every element of gradients in place: g ← min(max(g, −clip_value), clip_value).

    NaN stays NaN.  ``opt.step(grads, clip_value=clip_value)`` does it in the pass of its step and leaves the gradients as they
    are.

    Args:
        grads: Arrays that are written, float32, float64, float16 or bfloat16 in any mixture, each contiguous in some order of its
            axes; ``None`` for parameters without a gradient.
        clip_value: The largest absolute value, at least 0.

    Raises:
        TypeError: A gradient is not an array, is read-only, or has a wrong dtype or gaps in its memory.
        ValueError: clip_value is out of range, or gradients share memory.  Nothing has been written.

    Example:
        >>> import numpy as np
        >>> from fastopt import functional as F
        >>> grad = np.array([-3.0, 0.5, 2.0])
        >>> F.clip_grad_value([grad], 1.0)
        >>> grad
        array([-1. ,  0.5,  1. ])
    """
    kernels.clip_grad_value(_listed("clip_grad_value", grads), clip_value)
