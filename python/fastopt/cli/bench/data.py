"""Arrays with the values that training has, for every case and every candidate."""

from __future__ import annotations

import math
import mmap
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

_LINE = 64
_LARGE = 1 << 20  # bytes from which on arrays have pages of their own


def _memory(size: int) -> Array:
    """Bytes; many of them come from the system and not from malloc, whose used memory may have small pages."""
    if size < _LARGE:
        return np.empty(size, np.uint8)
    pages = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


class Data:
    """Makes arrays that start ``offset`` elements after the beginning of a cache line."""

    def __init__(self, dtype: str = "float32", offset: int = 0, seed: int = 0) -> None:
        self.dtype = np.dtype(dtype)
        self._offset = offset * self.dtype.itemsize % _LINE
        self._draws = np.random.default_rng(seed).standard_normal(1 << 20).astype(self.dtype)

    def empty(self, *shape: int) -> Array:
        """An array of this shape; what is in it is undefined."""
        size = math.prod(shape) * self.dtype.itemsize
        memory = _memory(size + 2 * _LINE)
        start = -memory.ctypes.data % _LINE + self._offset
        return memory[start : start + size].view(self.dtype).reshape(shape)

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
