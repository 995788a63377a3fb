"""Stochastic gradient descent, its average, and resilient propagation."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arithmetic import flushed
from .._update import clamp, exact, geometric, moment, rule, where


@rule(
    optional=(moment("momentum_buffer"), moment("velocity_buffer")),
    momentum=0.0,
    dampening=0.0,
    weight_decay=0.0,
    nesterov=False,
    velocity=False,
)
def sgd(
    p: Any,
    g: Any,
    b: Any,
    v: Any,
    *,
    t: int,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    velocity: bool,
) -> Any:
    """Stochastic gradient descent, with torch's momentum or as a velocity."""
    T = p.dtype.type
    eta, mu = T(lr), T(momentum)
    if not momentum:
        return p - eta * g, b, v, float(lr)
    if velocity:
        v = mu * v - eta * g
        rate = lr * geometric(momentum, t + 1 if nesterov else t)
        return p + (mu * v - eta * g if nesterov else v), b, v, rate
    b = g if t == 1 else mu * b + T(1 - dampening) * g
    total = momentum ** (t - 1) + (1 - dampening) * geometric(momentum, t - 1)
    rate = lr * max(1 + momentum * total if nesterov else total, 0.0)
    return p - eta * (g + mu * b if nesterov else b), b, v, rate


@rule(exact("ax"), numbers=("eta", "mu"), lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0.0)
def asgd(
    p: Any, g: Any, a: Any, eta: float, mu: float, *, t: int, lr: float, lambd: float, alpha: float, t0: float
) -> Any:
    """Averaged stochastic gradient descent."""
    T = p.dtype.type
    if t == 1:
        eta, mu = lr, 1.0
    p = p * T(1 - lambd * eta) - T(eta) * g
    a = p if mu == 1 else a + T(mu) * (p - a)
    return p, a, lr / (1 + lambd * lr * t) ** alpha, 1 / max(1.0, t - t0), eta


@rule(exact("prev"), exact("step_size"), etas=(0.5, 1.2), step_size_limits=(1e-6, 50.0), weight_decay=0.0)
def rprop(
    p: Any,
    g: Any,
    previous: Any,
    size: Any,
    *,
    t: int,
    lr: float,
    etas: tuple[float, float],
    step_size_limits: tuple[float, float],
) -> Any:
    """Resilient propagation, without weight backtracking."""
    T, (shrink, grow), (least, most) = p.dtype.type, etas, step_size_limits
    agreement = np.sign(g) * np.sign(previous)
    factor = where(agreement > 0, T(grow), where(agreement < 0, T(shrink), agreement + T(1)))
    size = clamp((flushed(np.full(size.shape, lr, size.dtype)) if t == 1 else size) * factor, T(least), T(most))
    previous = where(agreement < 0, T(0), g)
    return p - np.sign(previous) * size, previous, size, None
