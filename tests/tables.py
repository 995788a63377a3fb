"""What there is to test: one table of optimizers, one of normalizations.

Every property test runs over a whole table, so whatever is new needs one entry here; ``test_house.py`` finds what is missing.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fastopt import functional, nn, optim

Array: TypeAlias = NDArray[Any]
Options: TypeAlias = dict[str, Any]
Place: TypeAlias = Callable[[Array], Array]

DTYPES = ("float32", "float64")


# Numbers


def ordinary(rng: Generator, shape: int | Sequence[int], dtype: str) -> Array:
    """Normally distributed numbers."""
    return np.asarray(rng.standard_normal(shape), dtype)


def extreme(rng: Generator, shape: int | Sequence[int], dtype: str) -> Array:
    """Numbers of every magnitude, subnormal ones too, with zeros of both signs, infinities and NaN among them."""
    low, high = (-45, 38) if dtype == "float32" else (-323, 308)
    x = (rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(low, high, shape)).astype(dtype)
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(dtype).tiny, -np.finfo(dtype).smallest_subnormal], dtype
    )
    return np.where(rng.random(shape) < 0.2, rng.choice(special, shape), x)


def mixed(rng: Generator, shape: int | Sequence[int], dtype: str) -> Array:
    """Three ordinary numbers to each extreme one."""
    return np.where(rng.random(shape) < 0.75, ordinary(rng, shape, dtype), extreme(rng, shape, dtype))


# Optimizers


@dataclass(frozen=True)
class Rule:
    """An optimizer: its function, its class, and the values of its options that are worth combining."""

    function: str
    optimizer: type[optim.Optimizer]
    always: Options
    values: dict[str, tuple[Any, ...]]
    states: Callable[[Options], tuple[str, ...]]  # the keys of its state, in the order of the function's arguments
    legal: Callable[[Options], bool] = lambda _: True

    def grid(self) -> Iterator[Options]:
        """Every legal combination of the values."""
        for combination in itertools.product(*self.values.values()):
            options = dict(zip(self.values, combination, strict=True))
            if self.legal(options):
                yield self.always | options

    def sample(self, rng: Generator) -> Options:
        """A combination with numbers drawn at random."""
        grid = list(self.grid())
        options = dict(grid[rng.integers(len(grid))])
        for name, value in options.items():
            if isinstance(value, float):
                options[name] = value * rng.uniform(0.5, 1)
            if isinstance(value, tuple):
                options[name] = tuple(value * rng.uniform(0.5, 1, len(value)))
        return options

    def new_states(self, options: Options, params: Sequence[Array]) -> list[list[Array]]:
        return [[np.zeros_like(p) for p in params] for _ in self.states(options)]

    def update(self, module: ModuleType, params: Any, grads: Any, states: Any, step: Any, options: Options) -> None:
        """One stateless step; whether there is a maximum in ``states`` says what ``amsgrad`` says to the class."""
        options = {name: value for name, value in options.items() if name != "amsgrad"}
        getattr(module, self.function)(params, grads, *states, step=step, **options)

    def run(
        self, module: ModuleType, params: Any, grads: Any, options: Options, place: Place = np.copy
    ) -> dict[str, Array]:
        """Parameters and state after a step with each of the lists of gradients, in buffers that ``place`` chooses."""
        params = [place(p) for p in params]
        states = [[place(s) for s in state] for state in self.new_states(options, params)]
        for step, some in enumerate(grads, 1):
            self.update(module, params, [place(g) for g in some], states, step, options)
        named = dict(zip(("params", *self.states(options)), (params, *states), strict=True))
        return {f"{name}[{i}]": array for name, arrays in named.items() for i, array in enumerate(arrays)}


def _sgd_states(options: Options) -> tuple[str, ...]:
    return ("velocity" if options.get("velocity") else "momentum_buffer",) if options.get("momentum") else ()


def _sgd_is_legal(options: Options) -> bool:
    undampened = options["momentum"] and not options["dampening"]
    return undampened or not (
        options["nesterov"] or options["velocity"] or (options["dampening"] and not options["momentum"])
    )


def _adam_states(options: Options) -> tuple[str, ...]:
    return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if options.get("amsgrad") else ("exp_avg", "exp_avg_sq")


_lr = {"lr": 0.7}
_moments = {"lr": 0.7, "betas": (0.9, 0.999), "eps": 1e-8}
_around = {"weight_decay": (0.0, 0.1), "l1": (0.0, 0.01), "maximize": (False, True)}
_sgd = {"momentum": (0.0, 0.9), "dampening": (0.0, 0.3), "nesterov": (False, True), "velocity": (False, True)}
_adam = {"amsgrad": (False, True), "eps_hat": (False, True)}

RULES = {
    "sgd": Rule("sgd", optim.SGD, _lr, _sgd | _around, _sgd_states, _sgd_is_legal),
    "adam": Rule("adam", optim.Adam, _moments, _adam | _around, _adam_states),
    "adamw": Rule("adamw", optim.AdamW, _moments, _adam | _around, _adam_states),
}


def rules_and_options() -> Iterator[tuple[str, Options]]:
    return ((name, options) for name, rule in RULES.items() for options in rule.grid())


def label(options: Options) -> str:
    """Options for the name of a test."""
    switched = {name: value for name, value in options.items() if value and name not in _moments}
    return "-".join(name if value is True else f"{name}={value}" for name, value in switched.items()) or "plain"


# Normalizations


@dataclass
class Call:
    """A forward pass and its backward pass."""

    norm: str
    x: Array
    dy: Array
    arguments: Options = field(default_factory=dict)  # of forward, beside x

    def placed(self, place: Place) -> Call:
        """The same call with other buffers."""
        arguments = {
            name: place(value) if isinstance(value, np.ndarray) else value for name, value in self.arguments.items()
        }
        return Call(self.norm, place(self.x), place(self.dy), arguments)

    def forward(self, module: ModuleType, **more: Any) -> tuple[Array, ...]:
        results: tuple[Array, ...] = getattr(module, self.norm)(self.x, **self.arguments, **more)
        return results

    def backward_arguments(self, mean: Array, rstd: Array) -> Options:
        known = {**self.arguments, "dy": self.dy, "x": self.x, "mean": mean, "rstd": rstd}
        wanted = inspect.signature(getattr(functional, f"{self.norm}_backward")).parameters
        return {name: known[name] for name in wanted if name in known}

    def backward(self, module: ModuleType, mean: Array, rstd: Array, **more: Any) -> tuple[Array, ...]:
        arguments = self.backward_arguments(mean, rstd)
        results: tuple[Array, ...] = getattr(module, f"{self.norm}_backward")(**arguments, **more)
        return results

    def run(self, module: ModuleType) -> dict[str, Array]:
        """All results of both passes, and what they have updated; the call itself stays as it is."""
        running = {
            name: np.copy(value)
            for name, value in self.arguments.items()
            if name.startswith("running") and value is not None
        }
        fresh = Call(self.norm, self.x, self.dy, self.arguments | running)
        y, mean, rstd = fresh.forward(module)
        dx, dweight, dbias = fresh.backward(module, mean, rstd)
        results = {"y": y, "mean": mean, "rstd": rstd, "dx": dx, "dweight": dweight, "dbias": dbias, **running}
        return {name: array for name, array in results.items() if array is not None}


@dataclass(frozen=True)
class Norm:
    """A normalization in one layout of ``rows`` times ``width`` numbers: ``width`` weights, sums over ``rows``."""

    norm: str
    layer: type[nn.Layer]
    view: Callable[[Array], Array]  # of (rows, width): x in that layout
    options: tuple[Options, ...]
    keywords: Callable[[Array], Options]  # the arguments that say what is normalized

    def call(
        self, rng: Generator, dtype: str, rows: int, width: int, *, numbers: Any = ordinary, **options: Any
    ) -> Call:
        """A call with random numbers; weight, bias, running: whether they are given."""
        weight, bias, running = (options.pop(name, True) for name in ("weight", "bias", "running"))
        x, dy = (self.view(numbers(rng, (rows, width), dtype)) for _ in range(2))
        arguments = self.keywords(x) | options
        shape = arguments.get("normalized_shape", width)
        arguments["weight"] = ordinary(rng, shape, dtype) if weight else None
        arguments["bias"] = ordinary(rng, shape, dtype) if bias else None
        if self.norm == "batch_norm":
            arguments["running_mean"] = ordinary(rng, width, dtype) if running else None
            arguments["running_var"] = ordinary(rng, width, dtype) ** 2 if running else None
        return Call(self.norm, x, dy, arguments)


def _gapped(x: Array) -> Array:
    """The same numbers in rows that lie apart."""
    return np.concatenate([x, np.full_like(x, np.nan)], axis=-1)[..., : x.shape[-1]]


def _parts(rows: int) -> tuple[int, int, int, int]:
    """rows as a product, for samples and three axes of space."""
    factors = []
    for most in (4, 3, 2):
        factors.append(math.gcd(rows, most))
        rows //= factors[-1]
    return factors[0], factors[1], factors[2], rows


def _samples(x: Array) -> Array:
    return x.reshape(*_parts(len(x)), x.shape[1])


def _planes(axes: int) -> Callable[[Array], Array]:
    """(N, C, and so many axes of space), contiguous."""

    def view(x: Array) -> Array:
        a, b, c, d = _parts(len(x))
        shape = {1: (a, b * c * d), 2: (b * d, c, a), 3: (a, b, c, d)}[axes]
        return np.ascontiguousarray(np.moveaxis(x.reshape(*shape, x.shape[1]), -1, 1))

    return view


def _gapped_planes(x: Array) -> Array:
    """(N, C, L) out of a larger array: samples lie apart, and planes too if they are longer than one number."""
    room = np.full((x.shape[0], x.shape[1] + 1, x.shape[2] + (x.shape[2] > 1)), np.nan, x.dtype)
    room[:, :-1, : x.shape[2]] = x
    return room[:, :-1, : x.shape[2]]


def _layer_norm(view: Callable[[Array], Array] = lambda x: x, axes: int = 1) -> Norm:
    options = tuple({"weight": weight, "bias": bias} for weight in (True, False) for bias in (True, False))
    return Norm("layer_norm", nn.LayerNorm, view, options, lambda x: {"normalized_shape": x.shape[x.ndim - axes :]})


def _batch_norm(view: Callable[[Array], Array] = lambda x: x, channel_axis: int = 1) -> Norm:
    options = (
        {"training": True},
        {"training": True, "weight": False, "running": False, "momentum": 0.3},
        {"training": True, "bias": False, "momentum": 1.0, "eps": 1e-3},
        {"training": False},
        {"training": False, "weight": False, "bias": False, "eps": 1e-3},
    )
    return Norm("batch_norm", nn.BatchNorm, view, options, lambda _: {"channel_axis": channel_axis})


NORMS = {
    "layer_norm": _layer_norm(),
    "layer_norm of two axes": _layer_norm(lambda x: x.reshape(len(x), math.gcd(x.shape[1], 6), -1), 2),
    "layer_norm with two axes of rows": _layer_norm(lambda x: x.reshape(math.gcd(len(x), 4), -1, x.shape[1])),
    "layer_norm of a slice": _layer_norm(_gapped),
    "batch_norm NC": _batch_norm(),
    "batch_norm NCL": _batch_norm(_planes(1)),
    "batch_norm NCHW": _batch_norm(_planes(2)),
    "batch_norm NCDHW": _batch_norm(_planes(3)),
    "batch_norm NHWC": _batch_norm(_samples, -1),
    "batch_norm NHWC seen as NCHW": _batch_norm(lambda x: np.moveaxis(_samples(x), -1, 1)),
    "batch_norm CL": _batch_norm(lambda x: np.ascontiguousarray(x.T), 0),
    "batch_norm NC of a slice": _batch_norm(_gapped),
    "batch_norm NCL of a slice": _batch_norm(lambda x: _gapped_planes(_planes(1)(x))),
}


def norms_and_options() -> Iterator[tuple[str, Options]]:
    return ((name, options) for name, norm in NORMS.items() for options in norm.options)
