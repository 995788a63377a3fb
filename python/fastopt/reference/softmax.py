"""Softmax and its logarithm."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arithmetic import flushed
from ._functions import exp, log
from ._norm import into
from ._sums import row_sums


def largest(rows: Any) -> Any:
    """The largest number of each row; −∞ without numbers."""
    return flushed(np.max(np.asarray(rows), axis=-1, keepdims=True, initial=-np.inf))


def _lengths(rows: Any, queries: int) -> Any:
    """How many numbers of each row count."""
    return rows.shape[-1] - queries + np.arange(len(rows)) % queries + 1


def _by_length(rows: tuple[Any, ...], queries: int, of_rows: Any, otherwise: float) -> Any:
    """``of_rows`` of the numbers that count, and ``otherwise`` behind them."""
    if not queries:
        return of_rows(*rows)
    result = np.full(rows[0].shape, otherwise, rows[0].dtype)
    lengths = _lengths(rows[0], queries)
    for n in np.unique(lengths):
        which = lengths == n
        result[which, :n] = of_rows(*(flushed(np.asarray(one)[which, :n]) for one in rows))
    return flushed(result)


def _rows(x: Any, dim: int) -> Any:
    moved = np.moveaxis(np.asarray(x), dim, -1)
    return flushed(moved.reshape(np.prod(moved.shape[:-1], dtype=int), moved.shape[-1]))


def _back(rows: Any, x: Any, dim: int, out: Any) -> Any:
    """Rows in the shape of x, with dim innermost in memory."""
    moved = np.moveaxis(x, dim, -1).shape
    (result,) = into(None if out is None else (out,), np.moveaxis(np.asarray(rows).reshape(moved), -1, dim))
    return result


def _queries(x: Any, dim: int, causal: bool) -> int:
    return int(np.moveaxis(x, dim, -1).shape[-2]) if causal else 0


def softmax(x: Any, dim: int = -1, *, scale: float = 1.0, causal: bool = False, out: Any = None) -> Any:
    """The specification of :func:`fastopt.functional.softmax`."""
    s = x.dtype.type(scale)

    def of_rows(rows: Any) -> Any:
        e = exp(rows * s - largest(rows * s))
        return e * (np.float64(1) / row_sums(e)[:, None]).to(x.dtype)

    return _back(_by_length((_rows(x, dim),), _queries(x, dim, causal), of_rows, 0.0), x, dim, out)


def softmax_backward(
    dy: Any, y: Any, dim: int = -1, *, scale: float = 1.0, causal: bool = False, out: Any = None
) -> Any:
    """The specification of :func:`fastopt.functional.softmax_backward`."""
    s = y.dtype.type(scale)

    def of_rows(g: Any, p: Any) -> Any:
        return s * (p * (g - row_sums(g * p)[:, None].to(y.dtype)))

    return _back(_by_length((_rows(dy, dim), _rows(y, dim)), _queries(y, dim, causal), of_rows, 0.0), y, dim, out)


def log_softmax(x: Any, dim: int = -1, *, scale: float = 1.0, causal: bool = False, out: Any = None) -> Any:
    """The specification of :func:`fastopt.functional.log_softmax`."""
    s = x.dtype.type(scale)

    def of_rows(rows: Any) -> Any:
        most = largest(rows * s)
        return rows * s - most - log(row_sums(exp(rows * s - most))[:, None]).to(x.dtype)

    return _back(_by_length((_rows(x, dim),), _queries(x, dim, causal), of_rows, -np.inf), x, dim, out)


def log_softmax_backward(
    dy: Any, y: Any, dim: int = -1, *, scale: float = 1.0, causal: bool = False, out: Any = None
) -> Any:
    """The specification of :func:`fastopt.functional.log_softmax_backward`."""
    s = y.dtype.type(scale)

    def of_rows(g: Any, p: Any) -> Any:
        return s * (g - exp(p) * row_sums(g)[:, None].to(y.dtype))

    return _back(_by_length((_rows(dy, dim), _rows(y, dim)), _queries(y, dim, causal), of_rows, 0.0), y, dim, out)
