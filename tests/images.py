"""Convolutions, pooling and embeddings: which functions and layers there are, and with what they are tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from tables import Array

FUNCTIONS = {
    name for forward in ("avg_pool2d", "conv2d", "embedding", "max_pool2d") for name in (forward, f"{forward}_backward")
}
LAYERS = {"AvgPool2d", "Conv2d", "Embedding", "Flatten", "MaxPool2d"}


class Pooling(NamedTuple):
    shape: tuple[int, int, int, int]
    kernel_size: Any = 2
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1
    ceil_mode: bool = False

    @property
    def of_max(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if name != "shape"}

    @property
    def of_mean(self) -> dict[str, Any]:
        return {name: value for name, value in self.of_max.items() if name != "dilation"}


# Pairs of neighbours have a path of their own, and so has each stride up to 2; rows are longer and shorter than vectors.
POOLINGS = (
    Pooling((2, 3, 8, 8)),
    Pooling((1, 2, 40, 70)),
    Pooling((3, 5, 7, 35)),
    Pooling((2, 19, 6, 9), ceil_mode=True),
    Pooling((1, 2, 9, 9), (3, 2), 2),
    Pooling((2, 3, 9, 11), 3, 2, 1, 1, True),
    Pooling((2, 19, 7, 9), 3, 1, 1, 2),
    Pooling((1, 5, 12, 30), (2, 3), (3, 2), (1, 0), (2, 3), True),
    Pooling((2, 9, 33, 33), 3, 3, 1, 1, True),
    Pooling((1, 2, 5, 71), 5, 2, 2),
    Pooling((2, 4, 5, 6), (5, 6)),
    Pooling((2, 3, 4, 5), 1),
    Pooling((2, 1, 4, 5), 1, 3),
    Pooling((2, 4, 16, 1), (3, 1), 2),
    Pooling((2, 4, 1, 9), (1, 3), (2, 1)),
    Pooling((1, 3, 1, 1), 1),
    Pooling((0, 3, 4, 4)),
    Pooling((2, 0, 4, 4)),
)


class Convolution(NamedTuple):
    shape: tuple[int, int, int, int]
    weight: tuple[int, int, int, int]
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1

    @property
    def options(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if name not in ("shape", "weight")}


# Padding that keeps the size has a path of its own; the fifth to eighth have several pieces, one of them within images.
CONVOLUTIONS = (
    Convolution((2, 3, 8, 8), (5, 3, 3, 3), 1, 1),
    Convolution((2, 3, 8, 9), (5, 3, 3, 2)),
    Convolution((3, 4, 9, 11), (6, 2, 3, 3), 2, 1, 1, 2),
    Convolution((2, 6, 7, 9), (6, 1, 1, 3), (1, 2), (0, 2), (2, 1), 6),
    Convolution((5, 3, 40, 50), (8, 3, 3, 3), 1, "same", 2),
    Convolution((4, 64, 20, 20), (32, 64, 3, 3), 1, 1),
    Convolution((7, 96, 9, 9), (33, 32, 3, 3), 1, 1, 1, 3),
    Convolution((9, 256, 6, 7), (12, 256, 3, 3), 1, (2, 0)),
    Convolution((2, 8, 5, 5), (4, 8, 1, 1)),
    Convolution((2, 8, 5, 5), (4, 4, 1, 1), 2, 0, 1, 2),
    Convolution((2, 3, 6, 6), (4, 3, 4, 4), 1, "same"),
    Convolution((1, 2, 3, 30), (3, 2, 3, 5), (2, 3), (4, 6), (2, 3)),
    Convolution((2, 4, 9, 1), (3, 4, 3, 1), (2, 1), (1, 0)),
    Convolution((3, 1, 1, 8), (2, 1, 1, 3)),
    Convolution((0, 3, 5, 5), (2, 3, 3, 3)),
)


def layouts(images: Array) -> Iterator[tuple[Array, int]]:
    """The images in several memory orders, each with the axis of its channels.

    These are planes, columns, columns with their axes as planes, both with gaps and backwards, and Fortran order.
    """
    yield images, 1
    last = np.ascontiguousarray(np.moveaxis(images, 1, -1))
    yield last, -1
    yield np.moveaxis(last, -1, 1), 1
    room = np.zeros([2 * n for n in images.shape], images.dtype)
    with_gaps = room[::-2, ::2, ::-2, ::-2]
    with_gaps[...] = images
    yield with_gaps, 1
    yield np.moveaxis(with_gaps, 1, -1), 3
    yield np.asfortranarray(images), 1
    yield np.asfortranarray(last), 3


def some_indices(rng: Generator, rows: int, shape: tuple[int, ...]) -> Array:
    """Indices of which some come up often."""
    indices: Array = np.asarray(np.minimum(rng.integers(0, rows, shape), rng.integers(0, rows, shape)))
    return indices
