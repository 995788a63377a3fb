"""Normalization, forward and backward, with its floor.

If channels are the last axis in memory, a kernel has to read everything before it can write the first result: a second floor,
``moved``, does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from fastopt import functional as F

from . import norm_peers
from .case import Calls, Race, Shape
from .data import Array, Data
from .floors import floor, twice
from .formats import BFLOAT16
from .peers import NORM_EPS, NORM_MOMENTUM, Call, torch

GROUPS = 32


def computed_with(dtype: Any) -> np.dtype[Any]:
    """The dtype of weights and of the computation for arrays of a dtype."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def named(shape: Shape, layout: str = "", dtype: Any = None) -> str:
    return " ".join(filter(None, ("×".join(map(str, shape)), layout, dtype and np.dtype(dtype).name)))


def affine(size: int, x: Array, data: Data) -> tuple[Array, Array]:
    """Weight and bias for x."""
    dtype = computed_with(x.dtype)
    return data.normal(size, mean=1, dtype=dtype), data.normal(size, dtype=dtype)


def _race(group: str, label: str, x: Shape, arrays: int, dtype: Any, data: Data, calls: Callable[[], Calls]) -> Race:
    """A race in which ``arrays`` arrays of x's shape are moved."""
    return Race(group, label, arrays * prod(x) * np.dtype(dtype or data.dtype).itemsize, calls)


# Rows -----------------------------------------------------------------------------------------------------------------


def layer_norm(rows: int, width: int, data: Data, dtype: Any = None) -> Race:
    def calls() -> Calls:
        x, y = data.normal(rows, width, dtype=dtype), data.empty(rows, width, dtype=dtype)
        weight, bias = affine(width, x, data)
        out = (y, np.empty(rows), np.empty(rows))
        found: dict[str, Call] = {"fastopt": partial(F.layer_norm, x, (width,), weight, bias, NORM_EPS, out=out)}
        if dtype is None:
            found["numpy"] = norm_peers.numpy_norm(x, weight, bias, y, (1,))
        if torch():
            found["torch"] = norm_peers.torch_layer_norm(x, weight, bias)
        return found | norm_peers.onednn_layer_norm(x, weight, bias, y) | floor([x], [], [y])

    return _race("LayerNorm forward", named((rows, width), "", dtype), (rows, width), 2, dtype, data, calls)


def layer_norm_backward(rows: int, width: int, data: Data, dtype: Any = None) -> Race:
    def calls() -> Calls:
        x, dy = data.normal(rows, width, dtype=dtype), data.normal(rows, width, scale=1e-3, dtype=dtype)
        dx, (weight, bias) = data.empty(rows, width, dtype=dtype), affine(width, x, data)
        out = (dx, np.empty_like(weight), np.empty_like(bias))
        _, mean, rstd = F.layer_norm(x, (width,), weight, bias, NORM_EPS)
        found: dict[str, Call] = {
            "fastopt": partial(F.layer_norm_backward, dy, x, (width,), mean, rstd, weight, out=out)
        }
        if dtype is None:
            found["numpy"] = norm_peers.numpy_norm_backward(dy, x, weight, dx, (1,), (0,))
        if torch():
            found["torch"] = norm_peers.torch_layer_norm_backward(dy, x, weight, bias)
        return found | norm_peers.onednn_layer_norm_backward(dy, x, weight, bias, dx) | floor([dy, x], [], [dx])

    return _race("LayerNorm backward", named((rows, width), "", dtype), (rows, width), 3, dtype, data, calls)


def rms_norm(rows: int, width: int, data: Data, dtype: Any = None) -> Race:
    def calls() -> Calls:
        x, y = data.normal(rows, width, dtype=dtype), data.empty(rows, width, dtype=dtype)
        weight, _ = affine(width, x, data)
        found: dict[str, Call] = {
            "fastopt": partial(F.rms_norm, x, (width,), weight, NORM_EPS, out=(y, np.empty(rows)))
        }
        if dtype is None:
            found["numpy"] = norm_peers.numpy_rms_norm(x, weight, y)
        if torch():
            found |= norm_peers.torch_rms_norm(x, weight)
        return found | floor([x], [], [y])

    return _race("RMSNorm forward", named((rows, width), "", dtype), (rows, width), 2, dtype, data, calls)


def rms_norm_backward(rows: int, width: int, data: Data, dtype: Any = None) -> Race:
    def calls() -> Calls:
        x, dy = data.normal(rows, width, dtype=dtype), data.normal(rows, width, scale=1e-3, dtype=dtype)
        dx, (weight, _) = data.empty(rows, width, dtype=dtype), affine(width, x, data)
        _, rstd = F.rms_norm(x, (width,), weight, NORM_EPS)
        out = (dx, np.empty_like(weight))
        found: dict[str, Call] = {"fastopt": partial(F.rms_norm_backward, dy, x, (width,), rstd, weight, out=out)}
        if dtype is None:
            found["numpy"] = norm_peers.numpy_rms_norm_backward(dy, x, weight, dx)
        if torch():
            found |= norm_peers.torch_rms_norm_backward(dy, x, weight)
        return found | floor([dy, x], [], [dx])

    return _race("RMSNorm backward", named((rows, width), "", dtype), (rows, width), 3, dtype, data, calls)


def weight_norm(rows: int, width: int, data: Data) -> Race:
    """Weight normalization with one length per row."""

    def calls() -> Calls:
        v, g, w = data.normal(rows, width, scale=0.02), data.normal(rows, 1, mean=1), data.empty(rows, width)
        found: dict[str, Call] = {"fastopt": partial(F.weight_norm, v, g, 0, out=(w, np.empty(rows)))}
        found["numpy"] = norm_peers.numpy_weight_norm(v, g, w)
        if torch():
            found["torch"] = norm_peers.torch_weight_norm(v, g)
        return found | floor([v], [], [w])

    return _race("WeightNorm forward", named((rows, width)), (rows, width), 2, None, data, calls)


def weight_norm_backward(rows: int, width: int, data: Data) -> Race:
    def calls() -> Calls:
        v, g = data.normal(rows, width, scale=0.02), data.normal(rows, 1, mean=1)
        dw, dv = data.normal(rows, width, scale=1e-3), data.empty(rows, width)
        _, rnorm = F.weight_norm(v, g, 0)
        found: dict[str, Call] = {
            "fastopt": partial(F.weight_norm_backward, dw, v, g, rnorm, 0, out=(dv, np.empty_like(g))),
            "numpy": norm_peers.numpy_weight_norm_backward(dw, v, g, dv),
        }
        if torch():
            found["torch"] = norm_peers.torch_weight_norm_backward(dw, v, g)
        return found | floor([dw, v], [], [dv])

    return _race("WeightNorm backward", named((rows, width)), (rows, width), 3, None, data, calls)


# Channels -------------------------------------------------------------------------------------------------------------


def in_layout(array: Callable[..., Array], shape: Shape, layout: str) -> Array:
    """An array of shape N, C, … in the memory layout ``layout``."""
    if layout != "NHWC":
        return array(*shape)
    n, c, h, w = shape
    return np.transpose(array(n, h, w, c), (0, 3, 1, 2))


def as_memory(x: Array) -> tuple[Array, tuple[int, ...], Shape]:
    """A contiguous view of x; the axes that one channel spans; the shape that makes channels broadcast."""
    if x.ndim == 2:
        return x, (0,), (1, -1)
    if x.flags.c_contiguous:
        return x.reshape(*x.shape[:2], -1), (0, 2), (1, -1, 1)
    return x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1]), (0,), (1, -1)


def floors(reads: Sequence[Array], writes: Sequence[Array], first: Sequence[Array] | None = None) -> dict[str, Call]:
    """The floor; if channels are the last axis in memory, also the floor with a pass before it that reads ``first`` (or all)."""
    every = (reads if first is None else first, reads, writes)
    plain_first, plain_reads, plain_writes = ([as_memory(array)[0] for array in arrays] for arrays in every)
    columns = plain_reads[0].ndim == 2
    found = floor(plain_reads, [], plain_writes)
    return found | twice(plain_first, plain_reads, plain_writes) if columns else found


def batch_norm(shape: Shape, layout: str, data: Data, dtype: Any = None) -> Race:
    def calls() -> Calls:
        x, y = (in_layout(partial(make, dtype=dtype), shape, layout) for make in (data.normal, data.empty))
        channels, wide = shape[1], computed_with(x.dtype)
        running = np.zeros(channels, wide), np.ones(channels, wide)
        weight, bias = affine(channels, x, data)
        out = (y, np.empty(channels), np.empty(channels))
        found: dict[str, Call] = {
            "fastopt": partial(F.batch_norm, x, *running, weight, bias, True, NORM_MOMENTUM, NORM_EPS, out=out)
        }
        plain_x, axes, broadcast = as_memory(x)
        mean, var, w, b = (array.reshape(broadcast) for array in (*running, weight, bias))
        if dtype is None:
            found["numpy"] = norm_peers.numpy_batch_norm(plain_x, mean, var, w, b, as_memory(y)[0], axes)
        if torch():
            found["torch"] = norm_peers.torch_batch_norm(x, *running, weight, bias, y)
        return found | norm_peers.onednn_batch_norm(x, weight, bias, y) | floors([x], [y])

    return _race("BatchNorm forward", named(shape, layout, dtype), shape, 2, dtype, data, calls)


def batch_norm_backward(shape: Shape, layout: str, data: Data, dtype: Any = None) -> Race:
    def calls() -> Calls:
        x, dx = (in_layout(partial(make, dtype=dtype), shape, layout) for make in (data.normal, data.empty))
        dy = in_layout(partial(data.normal, scale=1e-3, dtype=dtype), shape, layout)
        weight, bias = affine(shape[1], x, data)
        out = (dx, np.empty_like(weight), np.empty_like(bias))
        _, mean, rstd = F.batch_norm(x, None, None, weight, bias, True, NORM_MOMENTUM, NORM_EPS)
        found: dict[str, Call] = {
            "fastopt": partial(F.batch_norm_backward, dy, x, mean, rstd, weight, training=True, out=out)
        }
        plain_dy, axes, broadcast = as_memory(dy)
        if dtype is None:
            found["numpy"] = norm_peers.numpy_batch_norm_backward(
                plain_dy, as_memory(x)[0], weight.reshape(broadcast), as_memory(dx)[0], axes
            )
        if torch():
            found["torch"] = norm_peers.torch_batch_norm_backward(dy, x, weight, bias)
        return found | norm_peers.onednn_batch_norm_backward(dy, x, weight, bias, dx) | floors([dy, x], [dx])

    return _race("BatchNorm backward", named(shape, layout, dtype), shape, 3, dtype, data, calls)


def in_groups(x: Array, groups: int) -> tuple[Array, tuple[int, ...], tuple[int, ...], Shape]:
    """A contiguous view of x; the axes of a group; those of a channel; the shape that makes channels broadcast."""
    n, c, *_ = x.shape
    if x.flags.c_contiguous:
        return x.reshape(n, groups, c // groups, -1), (2, 3), (0, 3), (1, groups, c // groups, 1)
    return x.transpose(0, 2, 3, 1).reshape(n, -1, groups, c // groups), (1, 3), (0, 1), (1, 1, groups, c // groups)


def group_norm(shape: Shape, layout: str, data: Data, groups: int = GROUPS) -> Race:
    """GroupNorm, or InstanceNorm if there are as many groups as channels."""
    instance = groups == shape[1]

    def calls() -> Calls:
        x, y = (in_layout(make, shape, layout) for make in (data.normal, data.empty))
        weight, bias = affine(shape[1], x, data)
        out = (y, np.empty((shape[0], groups)), np.empty((shape[0], groups)))
        ours: Call = partial(F.group_norm, x, groups, weight, bias, NORM_EPS, out=out)
        if instance:
            ours = partial(F.instance_norm, x, None, None, weight, bias, True, NORM_MOMENTUM, NORM_EPS, out=out)
        plain_x, axes, _, broadcast = in_groups(x, groups)
        w, b = weight.reshape(broadcast), bias.reshape(broadcast)
        numpy = norm_peers.numpy_norm(plain_x, w, b, in_groups(y, groups)[0], axes)
        found: dict[str, Call] = {"fastopt": ours, "numpy": numpy}
        if torch() and instance:
            found |= norm_peers.torch_instance_norm(x, weight, bias)
        elif torch():
            found["torch"] = norm_peers.torch_group_norm(x, weight, bias, groups)
        return found | floors([x], [y])

    group = f"{'Instance' if instance else 'Group'}Norm forward"
    return _race(group, named(shape, layout), shape, 2, None, data, calls)


def group_norm_backward(shape: Shape, layout: str, data: Data, groups: int = GROUPS) -> Race:
    instance = groups == shape[1]

    def calls() -> Calls:
        x, dx = (in_layout(make, shape, layout) for make in (data.normal, data.empty))
        dy = in_layout(partial(data.normal, scale=1e-3), shape, layout)
        weight, bias = affine(shape[1], x, data)
        out = (dx, np.empty_like(weight), np.empty_like(bias))
        _, mean, rstd = F.group_norm(x, groups, weight, bias, NORM_EPS)
        ours: Call = partial(F.group_norm_backward, dy, x, groups, mean, rstd, weight, out=out)
        if instance:
            ours = partial(F.instance_norm_backward, dy, x, mean, rstd, weight, out=out)
        plain_dy, axes, over, broadcast = in_groups(dy, groups)
        plain_x, plain_dx = in_groups(x, groups)[0], in_groups(dx, groups)[0]
        numpy = norm_peers.numpy_norm_backward(plain_dy, plain_x, weight.reshape(broadcast), plain_dx, axes, over)
        found: dict[str, Call] = {"fastopt": ours, "numpy": numpy}
        if torch() and instance:
            found |= norm_peers.torch_instance_norm_backward(dy, x, weight, bias)
        elif torch():
            found["torch"] = norm_peers.torch_group_norm_backward(dy, x, weight, bias, groups)
        return found | floors([dy, x], [dx])

    group = f"{'Instance' if instance else 'Group'}Norm backward"
    return _race(group, named(shape, layout), shape, 3, None, data, calls)


# The list -------------------------------------------------------------------------------------------------------------

LAYERS = [(64, 64), (32, 768), (512, 768), (4096, 768), (8192, 1024), (4096, 4096), (128, 32768)]
BATCHES = [
    ((8, 64, 56, 56), "NCHW"),
    ((8, 64, 56, 56), "NHWC"),
    ((32, 64, 56, 56), "NCHW"),
    ((32, 64, 56, 56), "NHWC"),
    ((32, 256, 14, 14), "NCHW"),
    ((32, 256, 14, 14), "NHWC"),
    ((128, 1024), ""),
    ((256, 128), ""),
]
ROOTS = [(512, 768), (4096, 768), (4096, 4096)]
IMAGES = BATCHES[:2]
WEIGHTS = [(768, 768), (4096, 1024)]


def norms(data: Data, *, quick: bool = False) -> Iterator[Race]:
    """All cases; a few of each kind if ``quick``."""
    layers = [LAYERS[0], *LAYERS[2:4]] if quick else LAYERS
    batches = [*BATCHES[:2], BATCHES[6]] if quick else BATCHES
    halves = LAYERS[3:4] if quick else LAYERS[2:5]
    half_batches = BATCHES[1:2] if quick else BATCHES[:4]
    roots, images, weights = (ROOTS[1:2], IMAGES[:1], WEIGHTS[:1]) if quick else (ROOTS, IMAGES, WEIGHTS)
    for layer in (layer_norm, layer_norm_backward):
        yield from (layer(*shape, data) for shape in layers)
        yield from (layer(*shape, data, BFLOAT16) for shape in halves)
    for root in (rms_norm, rms_norm_backward):
        yield from (root(*shape, data) for shape in roots)
        yield from (root(*shape, data, BFLOAT16) for shape in ROOTS[1:2])
    for batch in (batch_norm, batch_norm_backward):
        yield from (batch(*shape, data) for shape in batches)
        yield from (batch(*shape, data, BFLOAT16) for shape in half_batches)
    for groups in (GROUPS, IMAGES[0][0][1]):
        for image in (group_norm, group_norm_backward):
            yield from (image(*shape, data, groups) for shape in images)
    for weight in (weight_norm, weight_norm_backward):
        yield from (weight(*shape, data) for shape in weights)
