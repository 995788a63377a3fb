"""Dropout without a mask, beside implementations with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from fastopt import functional as F

from .case import Calls, Race
from .data import Array, Data
from .floors import floor
from .norm_peers import compiled
from .peers import Call, as_tensors, keep_heap, torch

P, SEED = 0.1, 1


def numpy_dropout(x: Array, y: Array) -> tuple[Call, Array]:
    """The call, and the mask that it fills."""
    draw, mask = np.random.default_rng(SEED).random, np.empty(x.shape, bool)
    uniform = np.empty(x.shape, np.float32)

    def forward() -> None:
        draw(dtype=np.float32, out=uniform)
        np.greater_equal(uniform, P, out=mask)
        np.multiply(x, mask, out=y)
        np.multiply(y, 1 / (1 - P), out=y)

    return forward, mask


def numpy_dropout_backward(dy: Array, mask: Array, dx: Array) -> Call:
    def backward() -> None:
        np.multiply(dy, mask, out=dx)
        np.multiply(dx, 1 / (1 - P), out=dx)

    return backward


def torch_dropout(x: Array) -> dict[str, Call]:
    keep_heap()
    ((input,),) = as_tensors([x])
    functions: dict[str, Callable[..., object]] = {
        "torch/native_dropout": torch().native_dropout,
        "torch/dropout": torch().dropout,
        **compiled(torch().dropout),
    }
    return {name: partial(function, input, P, True) for name, function in functions.items()}


def torch_dropout_backward(dy: Array, mask: Array) -> Call:
    keep_heap()
    ((grad, kept),) = as_tensors([dy, mask])
    return partial(torch().ops.aten.native_dropout_backward.default, grad, kept, 1 / (1 - P))


def dropout(rows: int, width: int, data: Data) -> Race:
    def calls() -> Calls:
        x, y = data.normal(rows, width), data.empty(rows, width)
        found: dict[str, Call] = {"fastopt": partial(F.dropout, x, P, seed=SEED, out=y)}
        found["numpy"], _ = numpy_dropout(x, y)
        if torch():
            found |= torch_dropout(x)
        return found | floor([x], [], [y])

    return Race("Dropout forward", f"{rows}×{width}", 2 * rows * width * data.dtype.itemsize, calls)


def dropout_backward(rows: int, width: int, data: Data) -> Race:
    """The others read a mask with one byte per element; fastopt draws the numbers again."""

    def calls() -> Calls:
        dy, dx = data.normal(rows, width, scale=1e-3), data.empty(rows, width)
        forward, mask = numpy_dropout(dy, dx)
        forward()
        found: dict[str, Call] = {"fastopt": partial(F.dropout_backward, dy, P, seed=SEED, out=dx)}
        found["numpy"] = numpy_dropout_backward(dy, mask, dx)
        if torch():
            found["torch"] = torch_dropout_backward(dy, mask)
        return found | floor([dy], [], [dx])

    moved = 2 * rows * width * data.dtype.itemsize
    masked = moved + rows * width
    return Race("Dropout backward", f"{rows}×{width}", moved, calls, {"numpy": masked, "torch": masked})


SIZES = [(512, 768), (4096, 768), (8192, 1024)]


def dropouts(data: Data, *, quick: bool = False) -> Iterator[Race]:
    for case in (dropout, dropout_backward):
        yield from (case(*shape, data) for shape in (SIZES[1:2] if quick else SIZES))
