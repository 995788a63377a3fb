"""Schedule-free learning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._update import exact, rule, square


def _averaged(
    y: Any,
    z: Any,
    u: Any,
    weight_sum: float,
    lr_max: float,
    t: int,
    lr: float,
    beta: float,
    warmup_steps: int,
    r: float,
    weight_lr_power: float,
) -> tuple[Any, Any, float, float]:
    """y, z, weight_sum and lr_max after a step along u; each z has the weight tʳ·lr_maxᵖ in the average."""
    T = y.dtype.type
    lr = lr * (t / warmup_steps) if t < warmup_steps else lr
    if t == 1:
        z, weight_sum, lr_max = y, 0.0, 0.0
    lr_max = max(lr, lr_max)
    with np.errstate(all="ignore"):  # Python's own power raises OverflowError
        weight = float(np.float64(t) ** r * np.float64(lr_max) ** weight_lr_power)
    weight_sum += weight
    c = weight / weight_sum if weight_sum else 0.0
    return y + T(c) * (z - y) + T(lr * (beta * (1 - c) - 1)) * u, z - T(lr) * u, weight_sum, lr_max


@rule(
    exact("z"),
    numbers=("weight_sum", "lr_max"),
    momentum=0.9,
    weight_decay=0.0,
    warmup_steps=0,
    r=0.0,
    weight_lr_power=2.0,
)
def schedule_free_sgd(
    y: Any,
    g: Any,
    z: Any,
    weight_sum: float,
    lr_max: float,
    *,
    t: int,
    lr: float,
    momentum: float,
    warmup_steps: int,
    r: float,
    weight_lr_power: float,
) -> Any:
    """Schedule-free SGD."""
    return *_averaged(y, z, g, weight_sum, lr_max, t, lr, momentum, warmup_steps, r, weight_lr_power), None


@rule(
    exact("z"),
    square("exp_avg_sq"),
    numbers=("weight_sum", "lr_max"),
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    warmup_steps=0,
    r=0.0,
    weight_lr_power=2.0,
    decoupled_weight_decay=None,
)
def schedule_free_adamw(
    y: Any,
    g: Any,
    z: Any,
    v: Any,
    weight_sum: float,
    lr_max: float,
    *,
    t: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    warmup_steps: int,
    r: float,
    weight_lr_power: float,
) -> Any:
    """Schedule-free AdamW."""
    T, (beta1, beta2) = y.dtype.type, betas
    v = T(beta2) * v + T(1 - beta2) * g * g
    u = g / (np.sqrt(v) * T(1 / math.sqrt(1 - beta2**t)) + T(eps)) + T(weight_decay) * y
    y, z, *numbers = _averaged(y, z, u, weight_sum, lr_max, t, lr, beta1, warmup_steps, r, weight_lr_power)
    return y, z, v, *numbers, None
