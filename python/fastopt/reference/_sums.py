"""Sums in the order of the kernels, which is the same for any number of threads and any instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arithmetic import flushed

LANES, BLOCK, FOLDS = 64, 16, 16


def _padded(x: Any, axis: int, multiple: int) -> Any:
    """x, padded with zeros to a multiple of ``multiple``; the zeros change no sum that starts from +0."""
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, -x.shape[axis] % multiple)
    return np.pad(np.asarray(x), pad)


def blocks_of(x: Any) -> list[Any]:
    """Σ over the first axis in blocks of 16, in x's own type."""
    blocks = []
    for first in range(0, len(x), BLOCK):
        block = flushed(np.zeros(x.shape[1:], x.dtype))
        for row in x[first : first + BLOCK]:
            block = block + row
        blocks.append(block)
    return blocks


def block_sums(x: Any) -> Any:
    """Σ over the first axis: blocks of 16 in x's own type, and blocks in order in float64."""
    total = flushed(np.zeros(x.shape[1:]))
    for block in blocks_of(x):
        total = total + block.to(np.float64)
    return total


def fold(lanes: Any, to: int = 1) -> Any:
    """Σ over the lanes of the last axis: each step adds the upper half to the lower one, until ``lanes`` are left."""
    while (half := lanes.shape[-1] // 2) >= to:
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes if to > 1 else lanes[..., 0]


def in_tiles(x: Any) -> Any:
    """The last axis in tiles of 64 numbers, one for each lane; tiles come first."""
    x = _padded(x, -1, LANES)
    return np.moveaxis(x.reshape(*x.shape[:-1], x.shape[-1] // LANES, LANES), -2, 0)


def row_sums(x: Any) -> Any:
    """Σ over the last axis, which is one plane."""
    return plane_sums(x[None])


def plane_sums(x: Any) -> Any:
    """Σ over the first and the last axis: planes one after the other.

    Number i of a plane goes to lane i mod 64.  A block has 16 tiles.  Planes with fewer tiles share a block, which contains
    first their full tiles, then their incomplete ones.  The lanes of a block are folded to 16, which are added to those of the
    other blocks in float64.
    """
    rest = x.shape[-1] % LANES
    full, rests = (
        in_tiles(x[..., : x.shape[-1] - rest]),
        in_tiles(x[..., x.shape[-1] - rest :]),
    )  # (tile, plane, channel, lane)
    together = max(1, BLOCK // max(1, len(full) + len(rests)))
    blocks = []
    for plane in range(0, len(x), together):
        group = slice(plane, plane + together)
        tiles = [tile for part in (full, rests) for of_plane in np.moveaxis(part[:, group], 1, 0) for tile in of_plane]
        blocks += [fold(block, FOLDS).to(np.float64) for block in blocks_of(flushed(tiles))]
    return fold(in_order(flushed(np.reshape(blocks, (len(blocks), *x.shape[1:-1], FOLDS)))))


def in_order(parts: Any) -> Any:
    """Σ over the first axis, one after the other."""
    total = flushed(np.zeros(parts.shape[1:], parts.dtype))
    for part in parts:
        total = total + part
    return total
