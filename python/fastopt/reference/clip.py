"""Clipping of gradients by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ._arithmetic import flushed
from ._formats import from_16_bits, is_half, nearest, to_16_bits
from ._sums import in_order
from ._update import clamp, clip_factor, squared_norm


def _computed(grad: Any) -> Any:
    return flushed(from_16_bits(grad) if is_half(grad) else grad)


def _write(grad: Any, x: Any) -> None:
    x = np.asarray(x)
    grad[...] = to_16_bits(x, grad, nearest) if is_half(grad) else x


def clip_grad_norm(grads: Iterable[Any], max_norm: float, *, error_if_nonfinite: bool = False) -> float:
    """See :func:`fastopt.functional.clip_grad_norm`."""
    some = [grad for grad in grads if grad is not None]
    with np.errstate(all="ignore"):
        norm = math.sqrt(in_order(np.array([squared_norm(_computed(grad)) for grad in some])))
        if error_if_nonfinite and not math.isfinite(norm):
            raise ValueError(f"clip_grad_norm: the norm of grads is {norm}")
        factor = clip_factor(max_norm, norm)
        for grad in some if factor != 1 else []:
            x = _computed(grad)
            _write(grad, x * x.dtype.type(factor))
    return norm


def clip_grad_value(grads: Iterable[Any], clip_value: float) -> None:
    """See :func:`fastopt.functional.clip_grad_value`."""
    for grad in grads:
        if grad is not None:
            x = _computed(grad)
            with np.errstate(all="ignore"):
                limit = x.dtype.type(clip_value)
                limit = limit if limit >= np.finfo(x.dtype).tiny else limit * 0
                _write(grad, clamp(x * x.dtype.type(1), -limit, limit))  # the product makes subnormals zero
