"""Arrays with values like those of a training, for every case and every candidate."""

from __future__ import annotations

import math
import mmap
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

_LINE = 64
_STEP = 100_003  # distance in the stored numbers from the beginning of one array to that of the next
_LARGE = 1 << 20  # number of bytes from which on an array has pages of its own


def _memory(size: int) -> Array:
    """A buffer; a large one comes from the system, as memory that malloc has used may have small pages."""
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
        self._offset = offset
        self._first = 0
        self._draws = np.random.default_rng(seed).standard_normal(1 << 20).astype(self.dtype)

    def empty(self, *shape: int, dtype: Any = None) -> Array:
        """An array of this shape without defined contents."""
        wanted = self.dtype if dtype is None else np.dtype(dtype)
        size = math.prod(shape) * wanted.itemsize
        memory = _memory(size + 2 * _LINE)
        start = -memory.ctypes.data % _LINE + self._offset * wanted.itemsize % _LINE
        return memory[start : start + size].view(wanted).reshape(shape)

    def normal(self, *shape: int, mean: float = 0.0, scale: float = 1.0, dtype: Any = None) -> Array:
        """Normal numbers, others in every call; they repeat after a million."""
        array = self.empty(*shape, dtype=dtype)
        flat, start, first = array.reshape(-1), 0, self._first
        while start < flat.size:
            part = flat[start : start + self._draws.size - first]
            part[...] = self._draws[first : first + part.size] * scale
            start, first = start + part.size, 0
        self._first = (self._first + _STEP) % self._draws.size
        array += mean
        return array

    def zeros(self, *shape: int) -> Array:
        array = self.empty(*shape)
        array.fill(0)
        return array
