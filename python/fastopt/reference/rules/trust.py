"""Rules with a trust ratio."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._update import geometric, moment, rule, square, squared_norm


def _trust_ratio(p: Any, u: Any, coefficient: float = 1.0, eps: float = 0.0) -> float:
    """‖p‖/(‖u‖ + ε), or 1 where one of the norms is zero."""
    of_p, of_u = squared_norm(p), squared_norm(u)
    return 1.0 if of_p == 0 or of_u == 0 else coefficient * math.sqrt(of_p) / (math.sqrt(of_u) + eps)


@rule(
    moment("exp_avg"), square("exp_avg_sq"), betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, decoupled_weight_decay=None
)
def lamb(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    *,
    before: Any,
    t: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Any:
    """LAMB."""
    T, (beta1, beta2) = p.dtype.type, betas
    m = T(beta1) * m + T(1 - beta1) * g
    v = T(beta2) * v + T(1 - beta2) * g * g
    root = np.sqrt(v) * T(1 / math.sqrt(1 - beta2**t)) + T(eps)
    r = T(1 / (1 - beta1**t)) * m / root
    ratio = _trust_ratio(before, r + T(weight_decay) * before)
    return p - T(lr * ratio) * (r + T(weight_decay) * p), m, v, T(lr * ratio) / root


@rule(
    moment("momentum_buffer"),
    momentum=0.9,
    weight_decay=0.0,
    trust_coefficient=1e-3,
    eps=0.0,
    nesterov=False,
    decoupled_weight_decay=None,
)
def lars(
    p: Any,
    g: Any,
    b: Any,
    *,
    before: Any,
    t: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
    eps: float,
    nesterov: bool,
) -> Any:
    """LARS."""
    T = p.dtype.type
    ratio = _trust_ratio(before, g + T(weight_decay) * before, trust_coefficient, eps)
    u = T(lr * ratio) * (g + T(weight_decay) * p)
    b = T(momentum) * b + u
    rate = lr * ratio * geometric(momentum, t + 1 if nesterov else t)
    return p - (u + T(momentum) * b if nesterov else b), b, rate
