"""Steps of SGD, Adam and AdamW on one tensor and on the tensors of whole models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

import fastopt as fo
from fastopt import functional as F

from . import peers
from .case import Calls, Dead, Race, Shape, power
from .data import Array, Data
from .floors import floor
from .peers import HYPER, Call

_ADAM = {"lr": HYPER.lr, "betas": HYPER.betas, "eps": HYPER.eps}
RULES: dict[str, dict[str, Any]] = {
    "SGD": {"lr": HYPER.lr, "momentum": HYPER.momentum},
    "Adam": _ADAM,
    "AdamW": {**_ADAM, "weight_decay": HYPER.weight_decay},
}


def optimizer(rule: str, size: int, data: Data) -> Race:
    """A step with one tensor, by the optimizer object and by the function."""
    names = ["momentum_buffer"] if rule == "SGD" else ["exp_avg", "exp_avg_sq"]
    states = len(names)

    def calls() -> Calls:
        params, grads = [data.normal(size, scale=0.02)], [data.normal(size, scale=1e-3)]
        opt = getattr(fo.optim, rule)(params, **RULES[rule])
        opt.step(grads)
        # The state of all candidates, so that the caches hold it for none of them or for all.
        state = [[opt.state[0][name]] for name in names]
        for (array,) in state:
            array[...] = data.normal(size, scale=1e-3)
        if states == 2:
            state[1][0] *= state[1][0]
        function, name = getattr(F, rule.lower()), rule.lower()
        found: dict[str, Call] = {
            "fastopt/object": partial(opt.step, grads),
            "fastopt/function": partial(function, params, grads, *state, step=HYPER.step, **RULES[rule]),
            "numpy": getattr(peers, f"numpy_{name}")(params, grads, *state),
        }
        if peers.torch():
            found["torch"] = getattr(peers, f"torch_{name}")(params, grads, *state)
        return found | floor(grads, [params[0], *(arrays[0] for arrays in state)], [])

    return Race(rule, power(size), size * data.dtype.itemsize * (3 + 2 * states), calls)


def _fastopt_step(params: list[Array], grads: list[Array]) -> Call:
    return partial(fo.optim.AdamW(params, **RULES["AdamW"]).step, grads)


def _numpy_step(params: list[Array], grads: list[Array]) -> Call:
    state = [[np.zeros_like(p) for p in params] for _ in range(2)]
    return peers.numpy_adamw(params, grads, *state)


STEPS: dict[str, Callable[[list[Array], list[Array]], Call]] = {
    "fastopt": _fastopt_step,
    "numpy": _numpy_step,
    "torch": partial(peers.torch_step, fused=True),
    "torch default": partial(peers.torch_step, fused=False),
}


def _linear(inputs: int, outputs: int, norm: bool = True) -> list[Shape]:
    """The shapes of weight and bias, and those of the normalization behind them."""
    return [(outputs, inputs), (outputs,)] + ([(outputs,), (outputs,)] if norm else [])


def _resnet50() -> list[Shape]:
    def convolution(inputs: int, outputs: int, kernel: int) -> list[Shape]:
        return [(outputs, inputs, kernel, kernel), (outputs,), (outputs,)]

    shapes, inputs = convolution(3, 64, 7), 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(inputs, width, 1) + convolution(width, width, 3) + convolution(width, 4 * width, 1)
            shapes += convolution(inputs, 4 * width, 1) if block == 0 else []
            inputs = 4 * width
    return [*shapes, (1000, inputs), (1000,)]


def _gpt2() -> list[Shape]:
    width, norm = 768, [(768,), (768,)]
    attention = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    perceptron = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(50257, width), (1024, width), *(norm + attention + norm + perceptron) * 12, *norm]


MODELS: dict[str, list[Shape]] = {
    "digits MLP": [*_linear(64, 128), *_linear(128, 128), *_linear(128, 10, norm=False)],
    "LayerNorm MLP": [*_linear(2, 20), *_linear(20, 20) * 3, *_linear(20, 1, norm=False)],
    "ResNet-50": _resnet50(),
    "GPT-2 small": _gpt2(),
}


def model(name: str, data: Data) -> Race:
    """Steps of optimizer objects with all tensors of a model; the floor moves as many bytes of one tensor."""
    shapes = MODELS[name]
    size = sum(map(prod, shapes))

    def calls() -> Calls:
        params = [data.normal(*shape, scale=0.02) for shape in shapes]
        grads = [data.normal(*shape, scale=1e-3) for shape in shapes]
        found = {candidate: make(params, grads) for candidate, make in STEPS.items() if _takes_part(candidate)}
        return found | floor([data.zeros(size)], [data.zeros(size) for _ in range(3)], [])

    return Race("AdamW.step()", f"{name}, {len(shapes)} tensors", size * data.dtype.itemsize * 7, calls)


def dead(size: int, steps: int, data: Data) -> Dead:
    """Steps of optimizer objects with one tensor each, after one gradient that is not zero."""

    def calls() -> Calls:
        found = {}
        for candidate in filter(_takes_part, ("fastopt", "numpy", "torch")):
            params, grads = [data.normal(size, scale=0.02)], [data.normal(size, scale=1e-3)]
            found[candidate] = STEPS[candidate](params, grads)
            found[candidate]()
            grads[0].fill(0)
        return found

    return Dead("dead", f"AdamW {power(size)}", steps, calls)


def _takes_part(candidate: str) -> bool:
    return not candidate.startswith("torch") or peers.torch() is not None
