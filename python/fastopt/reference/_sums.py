"""Sums in the order in which the kernels take them: the same for any number of threads and any instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arithmetic import Flushed, flushed

LANES, BLOCK = 64, 16


def _padded(x: Any, axis: int, multiple: int) -> Any:
    """x with zeros behind it, up to a multiple of so many; they change no sum that starts from +0."""
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, -x.shape[axis] % multiple)
    return np.pad(np.asarray(x), pad)


def block_sums(x: Any) -> Flushed:
    """Σ over the first axis: blocks of 16 in x's own type, and blocks in order in float64."""
    total = flushed(np.zeros(x.shape[1:]))
    for first in range(0, len(x), BLOCK):
        block = flushed(np.zeros(x.shape[1:], x.dtype))
        for row in x[first : first + BLOCK]:
            block = block + row
        total = total + block.to(np.float64)
    return total


def fold(lanes: Flushed) -> Flushed:
    """Σ over the 64 lanes of the last axis: 32 apart, then 16, 8, 4, 2, 1."""
    while (half := lanes.shape[-1] // 2) > 0:
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def lane_sums(x: Any) -> Flushed:
    """Σ over the last axis in 64 lanes, not folded yet: number i goes to lane i mod 64, and lanes sum in blocks."""
    tiles = _padded(x, -1, LANES).reshape(*x.shape[:-1], -1, LANES)
    return block_sums(np.moveaxis(tiles, -2, 0))


def row_sums(x: Any) -> Flushed:
    """Σ over the last axis."""
    return fold(lane_sums(x))


def in_order(parts: Any) -> Flushed:
    """Σ over the first axis, one after the other."""
    total = flushed(np.zeros(parts.shape[1:], parts.dtype))
    for part in parts:
        total = total + part
    return total
