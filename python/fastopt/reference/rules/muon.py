"""Muon."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._arithmetic import flushed
from .._update import moment, rule, squared_norm


def _orthogonalized(u: Any, coefficients: tuple[float, float, float], eps: float, steps: int) -> Any:
    """A rough U Vᵀ of u = U S Vᵀ: the polynomial with a, b and c brings singular values to about 1.  Plain NumPy arithmetic."""
    T, u = u.dtype.type, np.asarray(u)
    a, b, c = map(T, coefficients)
    x = u * T(1 / max(math.sqrt(squared_norm(u)), eps))
    tall = len(x) > x.shape[1]
    if tall:
        x = np.ascontiguousarray(x.T)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return np.ascontiguousarray(x.T) if tall else x


@rule(
    moment("momentum_buffer"),
    weight_decay=0.1,
    momentum=0.95,
    nesterov=True,
    ns_coefficients=(3.4445, -4.775, 2.0315),
    eps=1e-7,
    ns_steps=5,
    adjust_lr_fn=None,
    decoupled_weight_decay=True,
)
def muon(
    p: Any,
    g: Any,
    b: Any,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    ns_coefficients: tuple[float, float, float],
    eps: float,
    ns_steps: int,
    adjust_lr_fn: str | None,
) -> Any:
    """Muon."""
    T, (rows, columns) = p.dtype.type, p.shape
    b = T(momentum) * b + T(1 - momentum) * g
    u = T(1 - momentum) * g + T(momentum) * b if nesterov else b
    x = flushed(_orthogonalized(u, ns_coefficients, eps, ns_steps))
    if adjust_lr_fn == "match_rms_adamw":
        factor = 0.2 * math.sqrt(max(rows, columns))
    else:
        factor = math.sqrt(max(1.0, rows / columns)) if columns else 1.0
    return p - T(lr * factor) * x, b, None
