"""Normalizations of rows: LayerNorm, RMSNorm, cosine normalization, ScaleNorm, and those of a sum with a residual."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._arithmetic import flushed
from ._norm import (
    Arrays,
    average,
    careful_squares,
    chosen,
    double,
    into,
    moments,
    numbers,
    rstd_of,
    split,
    squares_lost,
    stored,
)
from ._sums import BLOCK, block_sums, in_order, row_sums


def _rows(x: Any, normalized_shape: Any) -> Any:
    """x as (rows, width)."""
    axes = np.size(normalized_shape)
    return numbers(x).reshape(math.prod(x.shape[: x.ndim - axes]), math.prod(x.shape[x.ndim - axes :]))


def _leading(x: Any, normalized_shape: Any) -> tuple[int, ...]:
    """The shape of the axes that are not normalized."""
    return tuple(x.shape[: x.ndim - np.size(normalized_shape)])


def _squares(rows: Any, n: Any, eps: float) -> Any:
    """Σx² of each row."""
    squares = row_sums(rows * rows)
    lost = squares_lost(squares, n, eps, np.asarray(rows), 0.0)
    return chosen(lost, careful_squares(np.asarray(rows)[lost]), squares) if lost.any() else squares


def _weighted(rows: Any, weight: Any, bias: Any = None) -> Any:
    if weight is not None:
        rows = rows * weight.ravel()
    return rows if bias is None else rows + bias.ravel()


def _chunks(rows: Any) -> list[Any]:
    """The rows in chunks, whose sums are added in order."""
    most = BLOCK * max(2, math.ceil(math.ceil(len(rows) / BLOCK) / 32))
    return [rows[first : first + most] for first in range(0, len(rows), most)]


def _over_rows(terms: Any, normalized_shape: Any) -> Any:
    """Σ over rows, as the gradient of a parameter."""
    chunks, width = [block_sums(chunk) for chunk in _chunks(terms)], terms.shape[1]
    return in_order(np.reshape(chunks, (len(chunks), width))).to(terms.dtype).reshape(normalized_shape)


def _result(dx: Any, dsum: Any, like: Any) -> Any:
    """dx with the gradient from other uses of x added."""
    return stored(dx.reshape(like.shape) if dsum is None else dx.reshape(like.shape) + numbers(dsum), like)


def layer_norm(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *, out: Arrays | None = None
) -> Arrays:
    """See :func:`fastopt.functional.layer_norm`."""
    rows, leading = _rows(x, normalized_shape), _leading(x, normalized_shape)
    mean, m2 = moments(rows[None], eps)
    rstd = rstd_of(average(m2, np.float64(rows.shape[1])), eps)
    high, low = split(mean, rows.dtype)
    y = _weighted((rows - high[:, None] - low[:, None]) * rstd.to(rows.dtype)[:, None], weight, bias)
    return into(out, stored(y.reshape(x.shape), x), mean.reshape(leading), rstd.reshape(leading))


def layer_norm_backward(
    dy: Any,
    x: Any,
    normalized_shape: Any,
    mean: Any,
    rstd: Any,
    weight: Any = None,
    *,
    bias_grad: bool = True,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.layer_norm_backward`."""
    return add_layer_norm_backward(dy, None, x, normalized_shape, mean, rstd, weight, bias_grad=bias_grad, out=out)


def add_layer_norm(
    x: Any,
    residual: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.add_layer_norm`."""
    total = stored(numbers(x) + numbers(residual), x)
    y, mean, rstd = layer_norm(total, normalized_shape, weight, bias, eps)
    return into(out, y, total, mean, rstd)


def add_layer_norm_backward(
    dy: Any,
    dsum: Any,
    sum: Any,
    normalized_shape: Any,
    mean: Any,
    rstd: Any,
    weight: Any = None,
    *,
    bias_grad: bool = True,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.add_layer_norm_backward`."""
    rows, dy_rows = _rows(sum, normalized_shape), _rows(dy, normalized_shape)
    dtype, n = rows.dtype, np.float64(rows.shape[1])
    mean, rstd = flushed(mean).ravel(), flushed(rstd).ravel()
    high, low = split(mean, dtype)
    d, scale = rows - high[:, None], rstd.to(dtype)[:, None]
    xhat = (d - low[:, None]) * scale

    g = _weighted(dy_rows, weight)
    sum_g, sum_gx = row_sums(g), row_sums(g * d)
    mean_g, mean_gx = (sum_g / n).to(dtype), ((sum_gx - low.to(np.float64) * sum_g) * rstd / n).to(dtype)
    dx = (g - mean_g[:, None] - xhat * mean_gx[:, None]) * scale
    dweight = None if weight is None else _over_rows(dy_rows * xhat, normalized_shape)
    dbias = _over_rows(dy_rows, normalized_shape) if bias_grad else None
    return into(out, _result(dx, dsum, sum), dweight, dbias)


def rms_norm(
    x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None, *, out: Arrays | None = None
) -> Arrays:
    """See :func:`fastopt.functional.rms_norm`."""
    if eps is None:
        eps = 2.0**-7 if x.dtype.name == "bfloat16" else float(np.finfo(x.dtype).eps)
    rows = _rows(x, normalized_shape)
    n = np.float64(rows.shape[1])
    rstd = rstd_of(average(_squares(rows, n, eps), n), eps)
    y = _weighted(rows * rstd.to(rows.dtype)[:, None], weight)
    return into(out, stored(y.reshape(x.shape), x), rstd.reshape(_leading(x, normalized_shape)))


def rms_norm_backward(
    dy: Any, x: Any, normalized_shape: Any, rstd: Any, weight: Any = None, *, out: Arrays | None = None
) -> Arrays:
    """See :func:`fastopt.functional.rms_norm_backward`."""
    return add_rms_norm_backward(dy, None, x, normalized_shape, rstd, weight, out=out)


def add_rms_norm(
    x: Any,
    residual: Any,
    normalized_shape: Any,
    weight: Any = None,
    eps: float | None = None,
    *,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.add_rms_norm`."""
    total = stored(numbers(x) + numbers(residual), x)
    y, rstd = rms_norm(total, normalized_shape, weight, eps)
    return into(out, y, total, rstd)


def add_rms_norm_backward(
    dy: Any, dsum: Any, sum: Any, normalized_shape: Any, rstd: Any, weight: Any = None, *, out: Arrays | None = None
) -> Arrays:
    """See :func:`fastopt.functional.add_rms_norm_backward`."""
    rows, dy_rows, rstd = _rows(sum, normalized_shape), _rows(dy, normalized_shape), flushed(rstd).ravel()
    dtype, n = rows.dtype, np.float64(rows.shape[1])
    scale = rstd.to(dtype)[:, None]
    xhat = rows * scale
    g = _weighted(dy_rows, weight)
    mean_gx = (row_sums(g * rows) * rstd / n).to(dtype)
    dx = (g - xhat * mean_gx[:, None]) * scale
    dweight = None if weight is None else _over_rows(dy_rows * xhat, normalized_shape)
    return into(out, _result(dx, dsum, sum), dweight)


def cosine_norm(x: Any, eps: float = 1e-12, *, out: Arrays | None = None) -> Arrays:
    """See :func:`fastopt.functional.cosine_norm`."""
    rows = _rows(x, 0)
    rnorm = rstd_of(_squares(rows, np.float64(1), eps), eps)
    y = rows * rnorm.to(rows.dtype)[:, None]
    return into(out, stored(y.reshape(x.shape), x), rnorm.reshape(_leading(x, 0)))


def cosine_norm_backward(dy: Any, x: Any, rnorm: Any, *, out: Any = None) -> Any:
    """See :func:`fastopt.functional.cosine_norm_backward`."""
    rows, g, rnorm = _rows(x, 0), _rows(dy, 0), flushed(rnorm).ravel()
    scale = rnorm.to(rows.dtype)[:, None]
    mean_gx = (row_sums(g * rows) * rnorm).to(rows.dtype)
    dx = (g - rows * scale * mean_gx[:, None]) * scale
    return into((out,), _result(dx, None, x))[0]


def scale_norm(x: Any, g: Any, eps: float = 1e-5, *, out: Arrays | None = None) -> Arrays:
    """See :func:`fastopt.functional.scale_norm`."""
    rows = _rows(x, 0)
    rnorm = rstd_of(_squares(rows, np.float64(1), eps), eps)
    y = rows * (rnorm * double(g)).to(rows.dtype)[:, None]
    return into(out, stored(y.reshape(x.shape), x), rnorm.reshape(_leading(x, 0)))


def scale_norm_backward(dy: Any, x: Any, g: Any, rnorm: Any, *, out: Arrays | None = None) -> Arrays:
    """See :func:`fastopt.functional.scale_norm_backward`."""
    rows, dy_rows, rnorm = _rows(x, 0), _rows(dy, 0), flushed(rnorm).ravel()
    sum_gx = row_sums(dy_rows * rows) * rnorm
    xhat = rows * rnorm.to(rows.dtype)[:, None]
    dx = (dy_rows - xhat * sum_gx.to(rows.dtype)[:, None]) * (rnorm * double(g)).to(rows.dtype)[:, None]
    dg = in_order(np.array([in_order(np.asarray(chunk)) for chunk in _chunks(sum_gx)]))
    return into(out, _result(dx, None, x), dg.to(rows.dtype).reshape(()))
