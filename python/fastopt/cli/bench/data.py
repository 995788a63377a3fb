"""Arrays with the values that training has, for every case and every candidate."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

_LINE = 64


class Data:
    """Makes arrays that start ``offset`` elements after the beginning of a cache line."""

    def __init__(self, dtype: str = "float32", offset: int = 0, seed: int = 0) -> None:
        self.dtype = np.dtype(dtype)
        self.offset = offset
        self._draws = np.random.default_rng(seed).standard_normal(1 << 20).astype(self.dtype)

    def empty(self, *shape: int) -> Array:
        """An array of this shape; what is in it is undefined."""
        size, spare = math.prod(shape), _LINE // self.dtype.itemsize
        memory = np.empty(size + 2 * spare, self.dtype)
        start = -memory.ctypes.data % _LINE // self.dtype.itemsize + self.offset % spare
        return memory[start : start + size].reshape(shape)

    def normal(self, *shape: int, mean: float = 0.0, scale: float = 1.0) -> Array:
        """Normal numbers (that repeat after a million)."""
        array = self.empty(*shape)
        flat = array.reshape(-1)
        for start in range(0, flat.size, self._draws.size):
            part = flat[start : start + self._draws.size]
            np.multiply(self._draws[: part.size], scale, out=part)
        array += mean
        return array

    def zeros(self, *shape: int) -> Array:
        array = self.empty(*shape)
        array.fill(0)
        return array
