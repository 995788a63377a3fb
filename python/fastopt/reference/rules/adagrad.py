"""Rules that divide by a root of squared gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._update import exact, geometric, maximum, moment, rule, square


@rule(square("sum"), lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10, eps_in_sqrt=False)
def adagrad(p: Any, g: Any, s: Any, *, t: int, lr: float, lr_decay: float, eps: float, eps_in_sqrt: bool) -> Any:
    """Adagrad."""
    T = p.dtype.type
    s = s + g * g
    root = np.sqrt(s + T(eps)) if eps_in_sqrt else np.sqrt(s) + T(eps)
    eta = T(lr / (1 + (t - 1) * lr_decay))
    return p - eta * g / root, s, eta / root


@rule(
    square("square_avg", unless="centered"),  # the centered variance is a difference of means
    optional=(exact("grad_avg"), moment("momentum_buffer"), moment("velocity_buffer")),
    alpha=0.99,
    eps=1e-8,
    weight_decay=0.0,
    momentum=0.0,
    centered=False,
    eps_in_sqrt=False,
    velocity=False,
)
def rmsprop(
    p: Any,
    g: Any,
    v: Any,
    mean: Any,
    b: Any,
    u: Any,
    *,
    t: int,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    centered: bool,
    eps_in_sqrt: bool,
    velocity: bool,
) -> Any:
    """RMSprop, also centered, and with torch's momentum or as a velocity.  The centered variance is at least 0."""
    T = p.dtype.type
    v = T(alpha) * v + T(1 - alpha) * g * g
    variance = v
    if centered:
        mean = T(alpha) * mean + T(1 - alpha) * g
        variance = maximum(v - mean * mean, T(0))
    root = np.sqrt(variance + T(eps)) if eps_in_sqrt else np.sqrt(variance) + T(eps)
    direction, rate = g / root, T(lr * geometric(momentum, t)) / root
    if momentum and velocity:
        u = T(momentum) * u - T(lr) * direction
        return p + u, v, mean, b, u, rate
    if momentum:
        direction = b = T(momentum) * b + direction
    return p - T(lr) * direction, v, mean, b, u, rate


@rule(square("square_avg"), square("acc_delta"), rho=0.9, eps=1e-6, weight_decay=0.0)
def adadelta(p: Any, g: Any, v: Any, u: Any, *, lr: float, rho: float, eps: float) -> Any:
    """Adadelta."""
    T = p.dtype.type
    v = T(rho) * v + T(1 - rho) * g * g
    delta = np.sqrt(u + T(eps)) / np.sqrt(v + T(eps)) * g
    u = T(rho) * u + T(1 - rho) * delta * delta
    return p - T(lr) * delta, v, u, T(lr) * (np.sqrt(u + T(eps)) / np.sqrt(v + T(eps)))
