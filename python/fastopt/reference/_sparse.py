"""Gradients of few rows: what they sum to, and which part of a parameter they touch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ._arithmetic import flushed
from ._formats import SHARE, read


class Gradient(NamedTuple):
    """A gradient with the part of the parameter that gets a step from it."""

    values: Any  # in the precision of the computation, as many as the part has
    rows: Any = ...  # indices of the first axis: all, or some in increasing order


def coalesce(indices: Any, values: Any) -> tuple[Any, Any]:
    """The indices that occur, in increasing order, and the sums of their values, one after the other."""
    rows = np.unique(indices.astype(np.int64))
    values = read(values)
    sums = np.zeros((len(rows), *values.shape[1:]), values.dtype)
    for k, row in enumerate(rows):
        first, *more = np.flatnonzero(indices == row)
        total = flushed(values[first])
        for i in more:
            total = total + values[i]
        sums[k] = total
    return rows, sums


def gradient_of(grad: Any, param: Any) -> Gradient:
    """A gradient that is an array, or has ``indices`` and ``values``.

    Those touch the rows that occur; with ``exact`` they are the array that has zeros elsewhere.
    """
    if not hasattr(grad, "indices"):
        return Gradient(read(grad))
    rows, sums = coalesce(grad.indices, grad.values)
    if not grad.exact:
        return Gradient(sums, rows)
    dense = np.zeros(param.shape, sums.dtype)
    dense[rows] = sums
    return Gradient(dense)


def zero(grad: Any) -> None:
    """Sets a gradient to zero."""
    (grad.values if hasattr(grad, "indices") else grad)[...] = 0


def blocks_of(rows: Any, shape: tuple[int, ...]) -> Any:
    """The blocks of 64 elements in which rows of a shape lie, where rows are whole blocks."""
    if rows is ...:
        return ...
    return np.unique(np.arange(int(np.prod(shape))).reshape(shape)[rows] // SHARE)
