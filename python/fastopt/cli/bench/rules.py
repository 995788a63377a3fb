"""Every rule of :mod:`fastopt.optim` with its floor, and whole steps with clipping and zeroing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import fastopt as fo

from . import peers
from .case import Calls, Race, Shape, power
from .data import Array, Data
from .floors import floor, in_turn
from .peers import HYPER, Call
from .steps import MODELS

# The arrays that a rule reads once before its update.
_MEASURES = {"LAMB": ("param", "grad", "exp_avg", "exp_avg_sq"), "LARS": ("param", "grad")}
_OPTIONS: dict[str, dict[str, Any]] = {"SGD": {"momentum": HYPER.momentum}}


def rules() -> list[str]:
    """The names of all rules that work on one tensor of any shape."""
    classes = (getattr(fo.optim, name) for name in fo.optim.__all__)
    found = [c for c in classes if isinstance(c, type) and issubclass(c, fo.optim.Optimizer) and c.kernels]
    return [c.__name__ for c in found if c.function is not None and c.__name__ != "Muon"]


def rule(name: str, size: int, data: Data) -> Race:
    """A step of an optimizer object with one tensor, beside all of torch's implementations of the rule."""
    shape: Shape = (size // 1024, 1024) if name == "Adafactor" else (size,)
    options = {"lr": HYPER.lr, **_OPTIONS.get(name, {})}

    def calls() -> Calls:
        param, grad = data.normal(*shape, scale=0.02), data.normal(*shape, scale=1e-3)
        optimizer = getattr(fo.optim, name)([param], **options)
        found: dict[str, Call] = {"fastopt": partial(optimizer.step, [grad])}
        found |= peers.torch_variants(name, param, grad, options)
        state = {key: value for key, value in optimizer.state[0].items() if value.size == size}
        arrays = {"param": param, "grad": grad, **state}
        updates = [data.zeros(size) for _ in range(1 + len(state))]
        passes = [floor([arrays[key] for key in _MEASURES.get(name, ())], [], [])] if name in _MEASURES else []
        if name == "Adafactor":
            passes = [floor([grad], [], []), floor([grad, param], [], [])]
        return found | in_turn(*passes, floor([grad], updates, []))

    reads = len(_MEASURES.get(name, ())) if name != "Adafactor" else 3
    sample = getattr(fo.optim, name)([data.zeros(2, 2)], **options).state[0]
    states = sum(array.size == 4 for array in sample.values())
    bytes_moved = size * data.dtype.itemsize * (3 + reads + 2 * states)
    return Race("rule", f"{name} {power(size)}", bytes_moved, calls)


def _tensors(name: str, data: Data) -> tuple[list[Array], list[Array]]:
    shapes = MODELS[name]
    return [data.normal(*s, scale=0.02) for s in shapes], [data.normal(*s, scale=1e-3) for s in shapes]


def clipped_step(name: str, data: Data) -> Race:
    """AdamW on all tensors of a model, with gradients that are clipped by their norm before the step and set to zero after it."""
    size = sum(map(prod, MODELS[name]))

    def calls() -> Calls:
        params, grads = _tensors(name, data)
        optimizer = fo.optim.AdamW(params, lr=HYPER.lr, weight_decay=HYPER.weight_decay)
        found: dict[str, Call] = {"fastopt": partial(optimizer.step, grads, clip_norm=1.0, zero_grads=True)}
        if peers.torch():
            found["torch"] = peers.torch_clipped_step(params, grads)
        whole = [data.zeros(size) for _ in range(4)]
        return found | in_turn(floor(whole[:1], [], []), floor([], whole, []))

    return Race("clip, step, zero", f"{name}, {len(MODELS[name])} tensors", size * data.dtype.itemsize * 9, calls)


OPTIONS: dict[
    str, tuple[dict[str, Any], dict[str, Any], int]
] = {  # arguments of the optimizer, arguments of the step, bytes per element
    "plain": ({}, {}, 0),
    "clip_norm": ({}, {"clip_norm": 1.0}, 1),
    "zero_grads": ({}, {"zero_grads": True}, 1),
    "ema_decay": ({"ema_decay": 0.999}, {}, 2),
    "l1": ({"l1": 1e-5}, {}, 0),
    "proximal_l1": ({"l1": 1e-5, "proximal_l1": True}, {}, 0),
    "coupled decay": ({"decoupled_weight_decay": False}, {}, 0),
    "noise": ({"noise": 1e-4}, {}, 0),
    "clip_adaptive": ({}, {"clip_adaptive": 0.1}, 2),
}


def option(name: str, option: str, data: Data) -> Race:
    """AdamW on all tensors of a model with one option, beside the same step without it."""
    size = sum(map(prod, MODELS[name]))
    hyperparameters, of_step, moved = OPTIONS[option]

    def calls() -> Calls:
        params, grads = _tensors(name, data)
        make: Callable[..., Any] = partial(fo.optim.AdamW, params, lr=HYPER.lr, weight_decay=HYPER.weight_decay)
        return {
            "fastopt": partial(make(**hyperparameters).step, grads, **of_step),
            "plain": partial(make().step, grads),
        }

    return Race("AdamW with", f"{option}, {name}", size * data.dtype.itemsize * (7 + moved), calls)


def overhead(count: int, size: int, data: Data) -> Race:
    """``count`` tensors of ``size`` elements, beside one tensor of the total size."""

    def calls() -> Calls:
        params = [data.normal(size, scale=0.02) for _ in range(count)]
        grads = [data.normal(size, scale=1e-3) for _ in range(count)]
        one = fo.optim.AdamW([data.normal(count * size, scale=0.02)], lr=HYPER.lr)
        found: dict[str, Call] = {
            "fastopt": partial(fo.optim.AdamW(params, lr=HYPER.lr).step, grads),
            "one tensor": partial(one.step, [data.normal(count * size, scale=1e-3)]),
        }
        if peers.torch():
            found["torch"] = peers.torch_step(params, grads, fused=True)
        return found

    return Race("overhead", f"{count} × {size}", count * size * data.dtype.itemsize * 7, calls)


def whole(name: str, data: Data) -> Race:
    """All tensors of a model, beside one tensor of the same size."""
    size = sum(map(prod, MODELS[name]))

    def calls() -> Calls:
        params, grads = _tensors(name, data)
        one = fo.optim.AdamW([data.normal(size, scale=0.02)], lr=HYPER.lr)
        return {
            "fastopt": partial(fo.optim.AdamW(params, lr=HYPER.lr).step, grads),
            "one tensor": partial(one.step, [data.normal(size, scale=1e-3)]),
        }

    return Race("overhead", f"{name}, {len(MODELS[name])} tensors", size * data.dtype.itemsize * 7, calls)
