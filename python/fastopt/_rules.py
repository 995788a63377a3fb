"""What a rule's hyperparameters mean: checked, and as the numbers that its kernel takes.

One function a rule, for :mod:`fastopt.functional` and :mod:`fastopt.optim` alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ._core import kernels


class Rule(NamedTuple):
    """A kernel's name and the numbers it takes."""

    name: str
    options: tuple[float, ...]

    @property
    def states(self) -> list[str]:
        """The names of its state buffers."""
        return list(kernels.rules[self.name][0])


def number(
    function: str, name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, below: bool = False
) -> float:
    """A finite number in [low, high], or in [low, high) if ``below``."""
    if isinstance(value, str | bytes):
        raise TypeError(f"{function}: {name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{function}: {name} must be a number, got {value!r}") from None
    if math.isfinite(number) and low <= number <= high and not (below and number == high):
        return number
    if math.isinf(low):
        constraint = "finite"
    elif math.isinf(high):
        constraint = f"finite and >= {low:g}"
    else:
        constraint = f"in [{low:g}, {high:g}" + (")" if below else "]")
    raise ValueError(f"{function}: {name} must be {constraint}, got {value}")


def _flag(function: str, name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_ | int):
        raise TypeError(f"{function}: {name} must be a bool, got {value!r}")
    return bool(value)


def _make(name: str, **values: float) -> Rule:
    return Rule(name, tuple(float(values[option]) for option in kernels.rules[name][1]))


def _around(function: str, lr: float, weight_decay: Any, l1: Any, maximize: bool, decoupled: bool) -> dict[str, float]:
    """What every rule understands beside its own hyperparameters."""
    decay = number(function, "weight_decay", weight_decay, 0)
    return {
        "scale": -1.0 if _flag(function, "maximize", maximize) else 1.0,
        "l2": 0.0 if decoupled else decay,
        "l1": number(function, "l1", l1, 0),
        "decay": 1.0 - lr * decay if decoupled else 1.0,
    }


def sgd(
    function: str,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    l1: float,
    velocity: bool,
) -> Rule:
    """Gradient descent, with torch's momentum or as a velocity."""
    lr = number(function, "lr", lr, 0)
    momentum = number(function, "momentum", momentum, 0, 1)
    dampening = number(function, "dampening", dampening)
    nesterov, velocity = _flag(function, "nesterov", nesterov), _flag(function, "velocity", velocity)
    around = _around(function, lr, weight_decay, l1, maximize, decoupled=False)
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError(
            f"{function}: nesterov needs momentum > 0 and dampening = 0, got {momentum:g} and {dampening:g}"
        )
    if velocity and dampening != 0:
        raise ValueError(f"{function}: velocity has no dampening, got {dampening:g}")
    if momentum == 0:
        return _make("sgd", lr=lr, **around)
    if velocity:
        return _make("sgd_velocity", lr=lr, momentum=momentum, nesterov=nesterov, **around)
    return _make("sgd_momentum", lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov, **around)


def adam(
    function: str,
    *,
    lr: float,
    betas: Sequence[float],
    eps: float,
    weight_decay: float,
    amsgrad: bool,
    maximize: bool,
    l1: float,
    eps_hat: bool,
    decoupled: bool = False,
) -> Rule:
    """Adam and AMSGrad, with coupled or decoupled weight decay."""
    lr = number(function, "lr", lr, 0)
    try:
        beta1, beta2 = betas
        if isinstance(betas, str):
            raise TypeError
    except (TypeError, ValueError):
        raise TypeError(f"{function}: betas must be two numbers, got {betas!r}") from None
    return _make(
        "amsgrad" if _flag(function, "amsgrad", amsgrad) else "adam",
        lr=lr,
        beta1=number(function, "beta1", beta1, 0, 1, below=True),
        beta2=number(function, "beta2", beta2, 0, 1, below=True),
        eps=number(function, "eps", eps, 0),
        eps_hat=_flag(function, "eps_hat", eps_hat),
        **_around(function, lr, weight_decay, l1, maximize, decoupled),
    )
