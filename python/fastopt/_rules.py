"""Checks hyperparameters and turns them into the numbers that kernels take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from typing import Any, NamedTuple, TypedDict

import numpy as np

from ._check import choice, flag, number, whole
from ._core import kernels


class Rule(NamedTuple):
    """A kernel's name, the numbers that it takes, and the companion arrays that it needs beside a parameter."""

    name: str
    options: tuple[float, ...]
    initial: bool = False
    average: bool = False
    formats: tuple[str, str, str] = ("", "", "")  # the formats of weights and of moments, and the rounding of moments
    more: Any = None

    def but(self, changes: Mapping[str, float]) -> Rule:
        """The same rule with other numbers."""
        names = kernels.rules[self.name][2]
        return self._replace(
            options=tuple(changes.get(name, value) for name, value in zip(names, self.options, strict=True))
        )

    @property
    def kind(self) -> tuple[Any, ...]:
        """Everything but the numbers: rules of the same kind need the same companion arrays."""
        return self.name, self.initial, self.average, self.formats

    @property
    def states(self) -> list[str]:
        """The names of its state buffers."""
        return list(kernels.rules[self.name][0])

    @property
    def kinds(self) -> list[str]:
        """The kinds of its state buffers: "moment", "square" or "exact"."""
        return list(kernels.rules[self.name][3])

    @property
    def numbers(self) -> list[str]:
        """The names of the numbers that it keeps per parameter."""
        return list(kernels.rules[self.name][1])


class Around(TypedDict, total=False):
    """Hyperparameters that every rule understands, see :class:`fastopt.optim.Optimizer`."""

    maximize: bool
    decoupled_weight_decay: bool | None
    fixed_decay: bool
    l1: float
    proximal_l1: bool | str
    l2_init: float
    noise: float
    temperature: float
    seed: int
    ema_decay: float | None
    ema_warmup: bool
    swa_start: int | None
    swa_freq: int
    weights: str
    moments: str | None
    moment_rounding: str


AROUND: dict[str, Any] = dict(
    maximize=False,
    decoupled_weight_decay=False,
    fixed_decay=False,
    l1=0.0,
    proximal_l1=False,
    l2_init=0.0,
    noise=0.0,
    temperature=0.0,
    seed=0,
    ema_decay=None,
    ema_warmup=False,
    swa_start=None,
    swa_freq=1,
    weights="stochastic",
    moments=None,
    moment_rounding="stochastic",
)


AROUND_TEXTS: dict[str, str] = dict(
    maximize="Negate the gradient.",
    decoupled_weight_decay="Decay p before the update instead of adding λp to the gradient; ``None`` for the rule's own way.",
    fixed_decay="Make decoupled decay p ← (1 − λ) p, whatever lr is.",
    l1="Added to the gradient as l1·sign(p), at least 0.",
    proximal_l1="Shrink weights by l1 times the rule's rate after the update instead, which makes weights exactly zero; ``lr``: by lr·l1.",
    l2_init="Like weight decay, but towards the weights before the first step with it; at least 0.",
    noise="Standard deviation of normal noise that is added to the clipped gradient.",
    temperature="T of Langevin dynamics, which adds noise with the standard deviation √(2T/lr).",
    seed="Seed of noise and of stochastic rounding, in [0, 2⁵³).",
    ema_decay="d of the moving average of the weights, in [0, 1]; ``None`` for none.",
    ema_warmup="Use min(d, (1+t)/(10+t)) in place of d.",
    swa_start="First step of the plain average of the weights, at least 1; ``None`` for none.",
    swa_freq="Number of steps from one that is averaged to the next.",
    weights="Format of 16-bit parameters: ``stochastic``, ``nearest``, ``kahan``, ``correction`` or ``master``.",
    moments="Format of moments: ``None`` for the one they are computed in, ``bfloat16`` or ``8bit``.",
    moment_rounding="Rounding of moments: ``stochastic``, or ``nearest``, which needs bfloat16.",
)


class Hyperparameters:
    """The hyperparameters of a group; the methods check each one when they read it, and make a rule of all."""

    def __init__(self, function: str, values: Mapping[str, Any]) -> None:
        self.function = function
        self.values = values

    def number(self, name: str, low: float = 0.0, high: float = math.inf, *, below: bool = False) -> float:
        """The hyperparameter as a number, by default at least 0."""
        return number(self.function, name, self.values[name], low, high, below=below)

    def whole(self, name: str, low: int = 0) -> int:
        """The hyperparameter as an integer, at least ``low``."""
        return whole(self.function, name, self.values[name], low)

    def flag(self, name: str) -> bool:
        """The hyperparameter as a bool."""
        return flag(self.function, name, self.values[name])

    def proximal(self) -> bool | str:
        """``proximal_l1``: a bool or ``"lr"``."""
        value = self.values["proximal_l1"]
        if isinstance(value, str) and value == "lr":
            return "lr"
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{self.function}: proximal_l1 must be a bool or 'lr', got {value!r}")
        return bool(value)

    def several(self, name: str, count: int) -> tuple[Any, ...]:
        """The hyperparameter as a tuple of ``count`` values of any type."""
        value = self.values[name]
        if type(value) is tuple and len(value) == count:
            return value
        words = {2: "two", 3: "three"}[count]
        try:
            several = tuple(value)
            if isinstance(value, str | bytes | Set | Mapping | Iterator) or len(several) != count:
                raise TypeError
        except TypeError:
            raise TypeError(f"{self.function}: {name} must be {words} numbers, got {value!r}") from None
        return several

    def betas(self, count: int) -> dict[str, float]:
        """beta1, beta2, ..., each in [0, 1)."""
        return {
            f"beta{i}": number(self.function, f"beta{i}", beta, 0, 1, below=True)
            for i, beta in enumerate(self.several("betas", count), 1)
        }

    def rule(self, name: str, **values: float) -> Rule:
        """The rule whose kernel is called ``name``, with its own values and with the hyperparameters that every rule has.

        A kernel that takes ``weight_decay`` decays in its own way, unless the group sets ``decoupled_weight_decay``.
        """
        options, has_rate = kernels.rules[name][2], kernels.rules[name][4]
        own_decay = "weight_decay" in options
        lr = values["lr"] if "lr" in values else self.number("lr")
        around = self._around(lr, own_decay, has_rate)
        numbers = {"lr": lr, **values, **around}
        return Rule(
            name,
            tuple(map(float, map(numbers.__getitem__, options))),
            initial=self.values["l2_init"] != 0,
            average=around["ema_decay"] >= 0 or around["swa_start"] > 0,
            formats=self._formats(kernels.rules[name][0], kernels.rules[name][3]),
        )

    def _formats(self, states: list[str], kinds: list[str]) -> tuple[str, str, str]:
        """The formats of weights and of moments, and the rounding of moments; empty where moments are kept as they are computed."""
        weights = choice(
            self.function, "weights", self.values["weights"], ("stochastic", "nearest", "kahan", "correction", "master")
        )
        rounding = choice(self.function, "moment_rounding", self.values["moment_rounding"], ("stochastic", "nearest"))
        moments = self.values["moments"]
        if moments is None:
            return weights, "", ""
        choice(self.function, "moments", moments, ("bfloat16", "8bit"))
        if states and not {*kinds} & {"moment", "square"}:
            raise ValueError(
                f"{self.function}: moments must be None, got {moments!r}: {' and '.join(states)} must be kept exactly"
            )
        if moments == "8bit" and rounding == "nearest":
            raise ValueError(
                f"{self.function}: moments='8bit' needs moment_rounding='stochastic': rounded to the nearest, means of squares would stop changing"
            )
        return weights, moments, rounding

    def _around(self, lr: float, own_decay: bool, has_rate: bool) -> dict[str, float]:
        decoupled, fixed = self.values["decoupled_weight_decay"], self.flag("fixed_decay")
        if decoupled is not None:
            decoupled = self.flag("decoupled_weight_decay")
        elif not own_decay:
            raise TypeError(f"{self.function}: decoupled_weight_decay must be a bool, got None")
        if fixed and not decoupled:
            raise ValueError(f"{self.function}: fixed_decay needs decoupled_weight_decay")
        per_step = 1.0 if fixed else lr
        weight_decay, l2_init, l1 = self.number("weight_decay"), self.number("l2_init"), self.number("l1")
        proximal = self.proximal()
        if proximal is True and not has_rate:
            raise ValueError(
                f"{self.function}: proximal_l1=True needs a rule whose step is a rate times the gradient, and this one's is not; "
                "proximal_l1='lr' shrinks |p| by lr·l1, which is not the penalty l1·|p|"
            )

        noise, temperature = self.number("noise"), self.number("temperature")
        if temperature != 0 and lr != 0:  # without a learning rate it has no effect
            noise = math.hypot(noise, math.sqrt(2 * temperature / lr))

        ema_decay, swa_start = self.values["ema_decay"], self.values["swa_start"]
        if ema_decay is not None and swa_start is not None:
            raise ValueError(f"{self.function}: ema_decay and swa_start exclude each other")
        around = {
            "maximize": self.flag("maximize"),
            "l2": weight_decay if decoupled is False else 0.0,
            "l1": 0.0 if proximal else l1,
            "l2_init": 0.0 if decoupled else l2_init,
            "decay": 1.0 - per_step * weight_decay if decoupled else 1.0,
            "pull": per_step * l2_init if decoupled else 0.0,
            "threshold": lr * l1 if proximal == "lr" else 0.0,
            "proximal": l1 if proximal is True else 0.0,
            "noise": noise,
            "seed": self.whole("seed"),
            "ema_decay": -1.0 if ema_decay is None else self.number("ema_decay", 0, 1),
            "ema_warmup": self.flag("ema_warmup"),
            "swa_start": 0.0 if swa_start is None else self.whole("swa_start", 1),
            "swa_freq": self.whole("swa_freq", 1),
        }
        if own_decay:
            around["weight_decay"] = weight_decay if decoupled is None else 0.0
        return around
