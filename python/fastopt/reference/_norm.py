"""Common parts of the normalizations: conversion of inputs and results, moments, constants in double."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arithmetic import flushed
from ._formats import is_half, nearest, read, to_16_bits
from ._sums import BLOCK, fold, plane_sums

Arrays = tuple[Any, ...]


def numbers(x: Any) -> Any:
    """An array in the precision of the computation, which is float32 for 16-bit arrays."""
    return flushed(read(x))


def readable(x: Any) -> Any:
    """The array whose memory kernels read: a copy, with the axes in the same order, where elements are not aligned."""
    return x if x.flags.aligned else np.array(x, order="K")


def stored(x: Any, like: Any) -> Any:
    """Numbers in the dtype of an array, rounded to the nearest if it has 16 bits."""
    with np.errstate(all="ignore"):
        return to_16_bits(np.asarray(x), like, nearest) if is_half(like) else np.asarray(x)


def double(x: Any) -> Any:
    """Parameters or running statistics in double; ``default`` if there are none."""
    return flushed(np.zeros(1)) if x is None else flushed(x).to(np.float64)


def into(out: Arrays | None, *results: Any) -> Arrays:
    """The results as plain arrays, copied to the arrays in ``out``."""
    filled = []
    for result, given in zip(results, out or (None,) * len(results), strict=True):
        if given is not None:
            given[...] = result
        filled.append(given if given is not None else None if result is None else np.asarray(result))
    return tuple(filled)


def split(mean: Any, dtype: Any) -> tuple[Any, Any]:
    """Splits a mean into the nearest number of a type and the rest, so that x - high is exact for x near the mean."""
    high = mean.to(dtype)
    return high, (mean - high.to(np.float64)).to(dtype)


def rstd_of(variance: Any, eps: float) -> Any:
    return np.float64(1) / np.sqrt(variance + np.float64(eps))


def average(total: Any, n: np.float64) -> Any:
    """Σ/n; 0 without numbers."""
    return total / n if n else flushed(np.zeros(total.shape))


def shifted_moments(shift: Any, total: Any, squares: Any, n: np.float64) -> tuple[Any, Any]:
    """Mean and Σ(x - mean)² from Σ(x - shift) and Σ(x - shift)²; zeros without numbers."""
    if not n:
        return flushed(np.zeros(total.shape)), flushed(np.zeros(total.shape))
    mean = total / n
    m2 = squares - total * mean
    return shift.to(np.float64) + mean, flushed(np.where(m2 < 0, 0.0, m2))


def squares_lost(squares: Any, n: np.float64, eps: float, x: Any, shift: Any) -> Any:
    """Whether Σ(x - shift)² over the last axis, n numbers, may be wrong because squares left float32's range.

    Large squares overflow.  Squares below 2⁻¹²⁶ vanish, which matters unless their sum or eps is much larger.  Where all
    numbers are ``shift``, the sum is rightly zero.
    """
    if x.dtype != np.float32 or not n:
        return np.zeros(squares.shape, bool)
    squares, shift = np.asarray(squares), np.broadcast_to(np.asarray(shift), squares.shape)
    with np.errstate(all="ignore"):
        lost = (squares > 2.0**127) | (squares < n * np.float64(2.0**-100 - eps))
        constant = (np.asarray(flushed(x).to(np.float32)) == shift[..., None]).all(-1)
        return lost & ~((squares == 0) & constant)


def _one_after_another(x: Any) -> Any:
    """Σ over the last axis in double."""
    total = np.zeros((*x.shape[:-1], 1))
    with np.errstate(all="ignore"):
        return np.cumsum(np.concatenate([total, x], -1), -1)[..., -1]


def careful_squares(x: Any, shift: Any = 0.0) -> Any:
    """Σ(x - shift)² over the last axis in double."""
    x = np.asarray(flushed(x).to(np.float64))
    with np.errstate(all="ignore"):
        d = x - np.asarray(shift)[..., None]
        return _one_after_another(d * d)


def careful_moments(x: Any) -> tuple[Any, Any]:
    """Mean and Σ(x - mean)² over the last axis in double."""
    with np.errstate(all="ignore"):
        mean = _one_after_another(np.asarray(flushed(x).to(np.float64))) / np.float64(x.shape[-1])
    return mean, careful_squares(x, mean)


def in_order_of_sets(planes: Any) -> Any:
    """The numbers of each set on the last axis, one plane after the other; planes are (plane, *sets, place)."""
    return np.moveaxis(np.asarray(planes), 0, -2).reshape(*planes.shape[1:-1], len(planes) * planes.shape[-1])


def chosen(where: Any, careful: Any, usual: Any) -> Any:
    """``usual`` with the elements at ``where`` replaced by ``careful``."""
    usual = np.array(usual)
    usual[where] = careful
    return flushed(usual)


def moments(planes: Any, eps: float) -> tuple[Any, Any]:
    """Mean and Σ(x - mean)² of each set of planes, which are (plane, *sets, place).

    One pass takes the numbers less the mean of the first 16.  Another one takes them less the mean itself, where the two means
    are so far apart that precision is lost.  Sets whose squares are lost are summed in double, one number after the other.
    """
    n, few = np.float64(len(planes) * planes.shape[-1]), planes[:1, ..., :BLOCK]
    lanes = flushed(np.zeros((*planes.shape[1:-1], BLOCK)))
    for plane in few:
        lanes[..., : few.shape[-1]] = plane.to(np.float64)

    def shifted_by(shift: Any) -> tuple[Any, Any, Any]:
        d = planes - shift[..., None]
        squares = plane_sums(d * d)
        return *shifted_moments(shift, plane_sums(d), squares, n), squares

    shift = average(fold(lanes), np.float64(few.shape[-1])).to(planes.dtype)
    mean, m2, squares = shifted_by(shift)
    far = np.asarray(squares > np.float64(4) * m2)
    of_sets = in_order_of_sets(planes)
    lost = squares_lost(squares, n, eps, of_sets, shift)
    if far.any():
        better_mean, better_m2, _ = shifted_by(mean.to(planes.dtype))
        mean, m2 = flushed(np.where(far, better_mean, mean)), flushed(np.where(far, better_m2, m2))
    if lost.any():
        careful = careful_moments(of_sets[lost])
        mean, m2 = chosen(lost, careful[0], mean), chosen(lost, careful[1], m2)
    return mean, m2
