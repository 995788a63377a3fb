"""What the normalizations share: numbers in and out, moments, constants in double."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arithmetic import flushed
from ._formats import is_half, nearest, read, to_16_bits
from ._sums import BLOCK, fold, plane_sums

Arrays = tuple[Any, ...]


def numbers(x: Any) -> Any:
    """An array as it is computed with: those of 16 bits in float32."""
    return flushed(read(x))


def stored(x: Any, like: Any) -> Any:
    """Numbers as an array like that keeps them: with 16 bits, the nearest ones."""
    with np.errstate(all="ignore"):
        return to_16_bits(np.asarray(x), like, nearest) if is_half(like) else np.asarray(x)


def double(x: Any) -> Any:
    """Parameters or running statistics in double; 0 where there are none."""
    return flushed(np.zeros(1)) if x is None else flushed(x).to(np.float64)


def into(out: Arrays | None, *results: Any) -> Arrays:
    """The results as plain arrays, in the arrays that ``out`` gives for them."""
    filled = []
    for result, given in zip(results, out or (None,) * len(results), strict=True):
        if given is not None:
            given[...] = result
        filled.append(given if given is not None else None if result is None else np.asarray(result))
    return tuple(filled)


def split(mean: Any, dtype: Any) -> tuple[Any, Any]:
    """A mean as the nearest number of a type and the rest: x - high is exact for x near the mean."""
    high = mean.to(dtype)
    return high, (mean - high.to(np.float64)).to(dtype)


def rstd_of(variance: Any, eps: float) -> Any:
    return np.float64(1) / np.sqrt(variance + np.float64(eps))


def average(total: Any, n: np.float64) -> Any:
    """Σ/n; 0 without numbers."""
    return total / n if n else flushed(np.zeros(total.shape))


def moments_around(near: Any, total: Any, squares: Any, n: np.float64) -> tuple[Any, Any]:
    """Mean and Σ(x - mean)² from Σ(x - near) and Σ(x - near)²; zeros without numbers."""
    if not n:
        return flushed(np.zeros(total.shape)), flushed(np.zeros(total.shape))
    shift = total / n
    m2 = squares - total * shift
    return near.to(np.float64) + shift, flushed(np.where(m2 < 0, 0.0, m2))


def moments(planes: Any) -> tuple[Any, Any]:
    """Mean and Σ(x - mean)² of each set of planes, which are (plane, *sets, place).

    In one pass around the mean of the first 16 numbers; once more around the mean itself where that turns out to be so far
    away that it costs precision.
    """
    n, few = np.float64(len(planes) * planes.shape[-1]), planes[:1, ..., :BLOCK]
    lanes = flushed(np.zeros((*planes.shape[1:-1], BLOCK)))
    for plane in few:
        lanes[..., : few.shape[-1]] = plane.to(np.float64)

    def around(near: Any) -> tuple[Any, Any, Any]:
        d = planes - near[..., None]
        squares = plane_sums(d * d)
        return *moments_around(near, plane_sums(d), squares, n), squares

    mean, m2, squares = around(average(fold(lanes), np.float64(few.shape[-1])).to(planes.dtype))
    far = np.asarray(squares > np.float64(4) * m2)
    if far.any():
        nearer, less, _ = around(mean.to(planes.dtype))
        mean, m2 = flushed(np.where(far, nearer, mean)), flushed(np.where(far, less, m2))
    return mean, m2
