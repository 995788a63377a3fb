"""Fused normalizations beside the same work in separate steps: fastopt's norm, and NumPy or torch for the rest.

Fusing moves fewer bytes.  ``gained`` is the time that it saves, divided by the time that the saved bytes promise: the share of
the bytes that it saves times the separate steps' time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any

import numpy as np

from fastopt import functional as F

from . import norm_peers
from .case import Calls, Race, Shape
from .data import Array, Data
from .floors import floor
from .norms import BATCHES, affine, floors, in_layout, named
from .peers import NORM_EPS, NORM_MOMENTUM, Call, as_tensors, torch

# The steps ------------------------------------------------------------------------------------------------------------


def one_after_another(*steps: Call) -> Call:
    """Runs the steps and returns the result of the last one."""

    def run() -> object:
        result = None
        for step in steps:
            result = step()
        return result

    return run


def numpy_add(a: Array, b: Array, out: Array) -> Call:
    return partial(np.add, a, b, out=out)


def torch_add(a: Array, b: Array, out: Array) -> Call:
    ((first, second, result),) = as_tensors([a, b, out])
    return partial(torch().add, first, second, out=result)


def numpy_relu(y: Array) -> Call:
    """NumPy's ReLU in place."""
    return partial(np.maximum, y, 0, out=y)


def torch_relu(y: Array) -> Call:
    ((tensor,),) = as_tensors([y])
    return partial(torch().relu_, tensor)


def numpy_relu_backward(dy: Array, y: Array, out: Array) -> Call:
    positive = np.empty_like(y, bool)

    def backward() -> None:
        np.greater(y, 0, out=positive)
        np.multiply(dy, positive, out=out)

    return backward


def torch_relu_backward(dy: Array, y: Array, out: Array) -> Call:
    ((grad, result, grad_input),) = as_tensors([dy, y, out])
    return partial(torch().ops.aten.threshold_backward.grad_input, grad, result, 0, grad_input=grad_input)


STEPS: dict[str, dict[str, Callable[..., Call]]] = {
    "numpy": {"add": numpy_add, "relu": numpy_relu, "relu_backward": numpy_relu_backward},
    "torch": {"add": torch_add, "relu": torch_relu, "relu_backward": torch_relu_backward},
}


def separate(sequence: Callable[[dict[str, Callable[..., Call]]], Call]) -> dict[str, Call]:
    """The sequence with NumPy's steps, and with torch's."""
    return {f"separate/{name}": sequence(steps) for name, steps in STEPS.items() if name != "torch" or torch()}


def _race(name: str, shape: Shape, layout: str, fused: int, apart: int, data: Data, calls: Callable[[], Calls]) -> Race:
    """A race in which ``fused`` and ``apart`` arrays of the shape are moved."""
    size = prod(shape) * data.dtype.itemsize
    return Race("fused", f"{name} {named(shape, layout)}", fused * size, calls, {"separate": apart * size})


# Rows -----------------------------------------------------------------------------------------------------------------


def add_norm(kind: str, rows: int, width: int, data: Data) -> Race:
    """The addition and the norm of ``kind``, layer or rms."""

    def calls() -> Calls:
        x, residual = data.normal(rows, width), data.normal(rows, width)
        y, total = data.empty(rows, width), data.empty(rows, width)
        both = affine(width, x, data)
        weights = both if kind == "layer" else both[:1]
        statistics = [np.empty(rows) for _ in weights]  # mean and rstd, or rstd
        fused, norm = getattr(F, f"add_{kind}_norm"), getattr(F, f"{kind}_norm")
        alone: Call = partial(norm, total, (width,), *weights, NORM_EPS, out=(y, *statistics))
        found: dict[str, Call] = {
            "fastopt": partial(fused, x, residual, (width,), *weights, NORM_EPS, out=(y, total, *statistics))
        }
        found |= separate(lambda steps: one_after_another(steps["add"](x, residual, total), alone))
        if torch() and kind == "layer":
            found["torch"] = one_after_another(torch_add(x, residual, total), norm_peers.torch_layer_norm(total, *both))
        return found | floor([x, residual], [], [y, total])

    return _race(f"add_{kind}_norm", (rows, width), "", 4, 5, data, calls)


def add_norm_backward(kind: str, rows: int, width: int, data: Data) -> Race:
    """The backward pass, with a gradient from other uses of the sum."""

    def calls() -> Calls:
        dy, dsum = (data.normal(rows, width, scale=1e-3) for _ in range(2))
        total, dx = data.normal(rows, width), data.empty(rows, width)
        weight, bias = affine(width, total, data)
        fused, norm = (getattr(F, f"{prefix}{kind}_norm_backward") for prefix in ("add_", ""))
        _, *statistics = getattr(F, f"{kind}_norm")(total, (width,), weight, eps=NORM_EPS)
        out = (dx, np.empty_like(weight), np.empty_like(bias)) if kind == "layer" else (dx, np.empty_like(weight))
        alone: Call = partial(norm, dy, total, (width,), *statistics, weight, out=out)
        found: dict[str, Call] = {
            "fastopt": partial(fused, dy, dsum, total, (width,), *statistics, weight, out=out),
            **separate(lambda steps: one_after_another(alone, steps["add"](dx, dsum, dx))),
        }
        if torch() and kind == "layer":
            backward = norm_peers.torch_layer_norm_backward(dy, total, weight, bias)
            ((gradient,),) = as_tensors([dsum])
            found["torch"] = lambda: backward()[0].add_(gradient)  # type: ignore[index]
        return found | floor([dy, dsum, total], [], [dx])

    return _race(f"add_{kind}_norm_backward", (rows, width), "", 4, 6, data, calls)


# Channels -------------------------------------------------------------------------------------------------------------


def batch_norm(shape: Shape, layout: str, data: Data, *, add: bool = False) -> Race:
    """BatchNorm and ReLU; with ``add``, a residual is added between them."""

    def calls() -> Calls:
        x, y = (in_layout(make, shape, layout) for make in (data.normal, data.empty))
        residuals = [in_layout(data.normal, shape, layout)] if add else []
        running = data.zeros(shape[1]), data.zeros(shape[1]) + 1
        weight, bias = affine(shape[1], x, data)
        options = (*running, weight, bias, True, NORM_MOMENTUM, NORM_EPS)
        out = (y, np.empty(shape[1]), np.empty(shape[1]))
        fused = getattr(F, name)
        alone: Call = partial(F.batch_norm, x, *options, out=out)

        def after(norm: Call, steps: dict[str, Callable[..., Call]]) -> Call:
            return one_after_another(norm, *(steps["add"](y, residual, y) for residual in residuals), steps["relu"](y))

        found: dict[str, Call] = {"fastopt": partial(fused, x, *residuals, *options, out=out)}
        found |= separate(partial(after, alone))
        if torch():
            found["torch"] = after(norm_peers.torch_batch_norm(x, *running, weight, bias, y), STEPS["torch"])
        if not add:
            found |= norm_peers.onednn_batch_norm(x, weight, bias, y, relu=True)
        return found | floors([x, *residuals], [y], [x])

    name, arrays = ("batch_norm_add_relu", (3, 7)) if add else ("batch_norm_relu", (2, 4))
    return _race(name, shape, layout, *arrays, data, calls)


def batch_norm_backward(shape: Shape, layout: str, data: Data, *, add: bool = False) -> Race:
    def calls() -> Calls:
        x, dx, masked = (in_layout(make, shape, layout) for make in (data.normal, data.empty, data.empty))
        dy = in_layout(partial(data.normal, scale=1e-3), shape, layout)
        weight, bias = affine(shape[1], x, data)
        y, mean, rstd = F.batch_norm(x, None, None, weight, bias, True, NORM_MOMENTUM, NORM_EPS)
        np.maximum(y, 0, out=y)
        gradients = np.empty_like(weight), np.empty_like(bias)
        mode: dict[str, Any] = {"training": True}
        ours: Call = partial(F.batch_norm_relu_backward, dy, x, mean, rstd, weight, bias, **mode, out=(dx, *gradients))
        if add:
            out = (dx, masked, *gradients)
            ours = partial(F.batch_norm_add_relu_backward, dy, y, x, mean, rstd, weight, **mode, out=out)
        alone: Call = partial(F.batch_norm_backward, masked, x, mean, rstd, weight, **mode, out=(dx, *gradients))
        found: dict[str, Call] = {
            "fastopt": ours,
            **separate(lambda steps: one_after_another(steps["relu_backward"](dy, y, masked), alone)),
        }
        if torch():
            norm = norm_peers.torch_batch_norm_backward(masked, x, weight, bias)
            found["torch"] = one_after_another(torch_relu_backward(dy, y, masked), norm)
        if not add:
            found |= norm_peers.onednn_batch_norm_backward(dy, x, weight, bias, dx, relu=True)
        return found | (floors([dy, y, x], [dx, masked]) if add else floors([dy, x], [dx]))

    name, arrays = ("batch_norm_add_relu_backward", (5, 6)) if add else ("batch_norm_relu_backward", (3, 6))
    return _race(name, shape, layout, *arrays, data, calls)


# The list -------------------------------------------------------------------------------------------------------------

ROWS = [(512, 768), (4096, 768), (8192, 1024)]  # the arrays fit the second cache, the third, none


def pairs(data: Data, *, quick: bool = False) -> Iterator[Race]:
    """All cases, or one of each kind if ``quick``."""
    for rows, width in ROWS[1:2] if quick else ROWS:
        for kind in ("layer", "rms"):
            yield add_norm(kind, rows, width, data)
            yield add_norm_backward(kind, rows, width, data)
    for shape, layout in BATCHES[:1] if quick else BATCHES[:4]:
        for add in (False, True):
            yield batch_norm(shape, layout, data, add=add)
            yield batch_norm_backward(shape, layout, data, add=add)
