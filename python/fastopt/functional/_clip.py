"""Clipping of gradients by itself, for loops that clip and step separately."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from .._check import not_an_array
from .._core import kernels
from .._sparse import SparseRows

Grads: TypeAlias = Iterable[Any] | Mapping[str, Any]

__all__ = ["clip_grad_norm", "clip_grad_value"]


def _listed(function: str, grads: Any) -> list[Any]:
    """A new list of the gradients, also of those in dicts and lists in one another."""
    if not isinstance(grads, Iterable) or isinstance(grads, np.ndarray | str | bytes):
        raise TypeError(f"{function}: grads must be a list or dict of arrays, got {not_an_array(grads)}")
    found: list[Any] = []
    for one in grads.values() if isinstance(grads, Mapping) else grads:
        if isinstance(one, SparseRows):
            raise TypeError(
                f"{function}: grads[{len(found)}] must be a numpy array, got SparseRows; a step clips them: opt.step(grads, "
                f"{function.replace('clip_grad', 'clip')}=...)"
            )
        found += _listed(function, one) if isinstance(one, Mapping | list | tuple) else [one]
    return found


def clip_grad_norm(grads: Grads, max_norm: float, *, error_if_nonfinite: bool = False) -> float:
    """Clips gradients in place by the norm of all of them together, and returns it.

    .. code-block:: text

        ‖g‖ = √Σ g²   over all elements of all gradients
        g ← g·min(1, max_norm / (‖g‖ + 1e-6))

    ``opt.step(grads, clip_norm=max_norm)`` clips in the pass of its step and leaves the gradients as they are; its norm and its
    scaled gradients have the same bits.  Gradients whose norm is small enough are read once and not written.

    Args:
        grads: A list or dict, nested or not, of arrays that are written: float32, float64, float16 or bfloat16 in any mixture, each
            contiguous in some order of its axes; ``None`` for parameters without a gradient.
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


def clip_grad_value(grads: Grads, clip_value: float) -> None:
    """Clips every element of gradients in place: g ← min(max(g, −clip_value), clip_value).

    NaN stays NaN.  ``opt.step(grads, clip_value=clip_value)`` does it in the pass of its step and leaves the gradients as they
    are.

    Args:
        grads: A list or dict, nested or not, of arrays that are written: float32, float64, float16 or bfloat16 in any mixture, each
            contiguous in some order of its axes; ``None`` for parameters without a gradient.
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
