"""Adafactor, whose second moments are factored."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._sums import in_order
from .._update import exact, lane_sums, maximum, rule, squared_norm, where


def _mean_squares(g: Any) -> tuple[Any, Any]:
    """The means of g² over the rows and over the columns of matrices."""
    rows, columns = g.shape[-2:]
    squares = g.to(np.float64) * g.to(np.float64)
    of_columns = np.moveaxis(squares, -2, 0)
    chunks = [in_order(of_columns[at : at + 64]) for at in range(0, rows, 64)]
    row_mean, col_mean = lane_sums(squares) / np.float64(columns), in_order(np.stack(chunks)) / np.float64(rows)
    return row_mean.to(g.dtype)[..., :, None], col_mean.to(g.dtype)[..., None, :]


@rule(
    exact("row_var"),
    exact("col_var"),
    exact("variance"),
    beta2_decay=-0.8,
    eps=(None, 1e-3),
    d=1.0,
    weight_decay=0.0,
    decoupled_weight_decay=True,
)
def adafactor(
    p: Any,
    g: Any,
    row_var: Any,
    col_var: Any,
    variance: Any,
    *,
    before: Any,
    t: int,
    lr: float,
    beta2_decay: float,
    eps: tuple[float | None, float],
    d: float,
) -> Any:
    """Adafactor, in which the second moment of a matrix is a column times a row.

    Matrices have ``row_vars``, of shape (..., rows, 1), and ``col_vars``, (..., 1, columns), and None in ``variances``; vectors
    and scalars have ``variances``, and None in the other two.
    """
    T, eps2 = p.dtype.type, eps[1]
    eps1 = float(np.finfo(p.dtype).eps) if eps[0] is None else eps[0]
    fresh, kept = T(t**beta2_decay), T(1 - t**beta2_decay)
    if p.size == 0:
        return p, row_var, col_var, variance, 0.0
    if p.ndim < 2:
        v = variance = kept * variance + fresh * g * g
    else:
        row_mean, col_mean = _mean_squares(g)
        row_var, col_var = kept * row_var + fresh * row_mean, kept * col_var + fresh * col_mean
        rows = row_var.to(np.float64)
        mean = maximum(in_order(np.moveaxis(rows, -2, 0)) / np.float64(p.shape[-2]), np.float64(eps1))
        # Division by infinity would make the second moment of the other rows 0, and their steps huge.
        mean = where(np.isinf(mean), np.float64(np.nan), mean)
        v = (rows / mean[..., None, :]).to(p.dtype) * col_var
    root, size = np.sqrt(maximum(v, T(eps1 * eps1))), math.sqrt(p.size)
    u = g / root
    rate = max(eps2, math.sqrt(squared_norm(before)) / size) * min(lr, 1 / math.sqrt(t))
    eta = T(rate / max(1.0, math.sqrt(squared_norm(u)) / (size * d)))
    return p - eta * u, row_var, col_var, variance, eta / root
