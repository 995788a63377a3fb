"""Normalizations in NumPy, to the last bit as the kernels compute them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._arithmetic import flushed
from ._sums import BLOCK, block_sums, in_order, plane_sums, row_sums

Arrays = tuple[Any, ...]


def _into(out: Arrays | None, *results: Any) -> Arrays:
    """The results as plain arrays, in the arrays that ``out`` gives for them."""
    filled = []
    for result, given in zip(results, out or (None,) * len(results), strict=True):
        if given is not None:
            given[...] = result
        filled.append(given if given is not None else None if result is None else np.asarray(result))
    return tuple(filled)


def _split(mean: Any, dtype: Any) -> tuple[Any, Any]:
    """A mean as the nearest number of a type and the rest: x - high is exact for x near the mean."""
    high = mean.to(dtype)
    return high, (mean - high.to(np.float64)).to(dtype)


def _moments(near: Any, total: Any, squares: Any, n: np.float64) -> tuple[Any, Any]:
    """Mean and Σ(x - mean)² from Σ(x - near) and Σ(x - near)²."""
    shift = total / n
    m2 = squares - total * shift
    return near.to(np.float64) + shift, flushed(np.where(m2 < 0, 0.0, m2))


def _rstd(variance: Any, eps: float) -> Any:
    return np.float64(1) / np.sqrt(variance + np.float64(eps))


# LayerNorm


def _rows(x: Any, normalized_shape: Any) -> tuple[Any, tuple[int, ...]]:
    """x as (rows, width), and the shape of the rows."""
    axes = np.size(normalized_shape)
    leading = x.shape[: x.ndim - axes]
    return flushed(x).reshape(math.prod(leading), math.prod(x.shape[x.ndim - axes :])), leading


def layer_norm(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *, out: Arrays | None = None
) -> Arrays:
    """See :func:`fastopt.functional.layer_norm`."""
    rows, leading = _rows(x, normalized_shape)
    n = np.float64(rows.shape[1])
    near = (row_sums(rows) / n).to(x.dtype)
    d = rows - near[:, None]
    mean, m2 = _moments(near, row_sums(d), row_sums(d * d), n)
    rstd = _rstd(m2 / n, eps)

    high, low = _split(mean, x.dtype)
    y = (rows - high[:, None] - low[:, None]) * rstd.to(x.dtype)[:, None]
    if weight is not None:
        y = y * weight.ravel()
    if bias is not None:
        y = y + bias.ravel()
    return _into(out, y.reshape(x.shape), mean.reshape(leading), rstd.reshape(leading))


def layer_norm_backward(
    dy: Any, x: Any, normalized_shape: Any, mean: Any, rstd: Any, weight: Any = None, *, out: Arrays | None = None
) -> Arrays:
    """See :func:`fastopt.functional.layer_norm_backward`."""
    (rows, _), (dy_rows, _) = _rows(x, normalized_shape), _rows(dy, normalized_shape)
    count, width = rows.shape
    n = np.float64(width)
    mean, rstd = flushed(mean).ravel(), flushed(rstd).ravel()
    high, low = _split(mean, x.dtype)
    scale = rstd.to(x.dtype)[:, None]
    xhat = (rows - high[:, None] - low[:, None]) * scale

    g = dy_rows if weight is None else dy_rows * weight.ravel()
    sum_g, sum_gx = row_sums(g), row_sums(g * (rows - high[:, None]))
    mean_g, mean_gx = (sum_g / n).to(x.dtype), ((sum_gx - low.to(np.float64) * sum_g) * rstd / n).to(x.dtype)
    dx = (g - mean_g[:, None] - xhat * mean_gx[:, None]) * scale
    if weight is None:
        return _into(out, dx.reshape(x.shape), None, None)

    rows_in_chunk = BLOCK * max(2, math.ceil(math.ceil(count / BLOCK) / 32))
    chunks = [slice(first, first + rows_in_chunk) for first in range(0, count, rows_in_chunk)]

    def over_rows(terms: Any) -> Any:
        sums = [block_sums(terms[chunk]) for chunk in chunks]
        return in_order(np.reshape(sums, (-1, width))).to(x.dtype).reshape(weight.shape)

    return _into(out, dx.reshape(x.shape), over_rows(dy_rows * xhat), over_rows(dy_rows))


# BatchNorm


class _Channels:
    """An array whose channels lie in memory as planes, here (sample, channel, place), or as columns, here (place, channel)."""

    def __init__(self, x: Any, channel_axis: int) -> None:
        self.axis = channel_axis % x.ndim
        self.count = x.shape[self.axis]
        inner = math.prod(x.shape[self.axis + 1 :])
        adjacent = self.count > 1 and x.strides[self.axis] == x.itemsize
        self.columns = adjacent or self.axis == x.ndim - 1 or (self.count == 1 and inner == 1)
        self.values: Any
        if self.columns:
            self.values = flushed(np.moveaxis(x, self.axis, -1).reshape(-1, self.count))
        else:
            self.values = flushed(x).reshape(-1, self.count, inner)
        self.n = np.float64(x.size // self.count if self.count else 0)
        self.like = x

    def of(self, constants: Any) -> Any:
        """A number a channel, to be combined with the values."""
        return constants if self.columns else constants[:, None]

    def array(self, values: Any) -> Any:
        """Values as an array of x's shape, with planes or columns as x."""
        if self.columns:
            return np.moveaxis(np.array(values).reshape(np.moveaxis(self.like, self.axis, -1).shape), -1, self.axis)
        return np.array(values).reshape(self.like.shape)

    def chunks(self) -> list[slice]:
        """How the places of columns are cut for sums."""
        rows = max(4 * BLOCK, (1 << 14) // max(self.count, 1) // BLOCK * BLOCK)
        return [slice(first, first + rows) for first in range(0, len(self.values), rows)]

    def sums(self, terms: Any) -> Any:
        """Σ of each channel."""
        if self.columns:
            return in_order(np.reshape([block_sums(terms[chunk]) for chunk in self.chunks()], (-1, self.count)))
        return plane_sums(terms)

    def moments(self) -> tuple[Any, Any]:
        """Mean and Σ(x - mean)² of each channel."""
        x = self.values
        if not self.columns:
            near = (self.sums(x) / self.n).to(x.dtype)
            d = x - near[:, None]
            return _moments(near, self.sums(d), self.sums(d * d), self.n)
        mean = m2 = flushed(np.zeros(self.count))
        seen = np.float64(0)
        for chunk in self.chunks():
            n, some = np.float64(len(x[chunk])), x[chunk][:BLOCK]
            near = (block_sums(some) / np.float64(len(some))).to(x.dtype)
            d = x[chunk] - near
            part_mean, part_m2 = _moments(near, block_sums(d), block_sums(d * d), n)
            share = n / (seen + n)
            delta = part_mean - mean
            mean, m2 = mean + delta * share, m2 + (part_m2 + delta * delta * (seen * share))
            seen += n
        return mean, m2


def _scale(rstd: Any, weight: Any) -> Any:
    return rstd if weight is None else rstd * flushed(weight).to(np.float64)


def batch_norm(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.batch_norm`."""
    channels = _Channels(x, channel_axis)
    if training:
        mean, m2 = channels.moments()
        rstd = _rstd(m2 / channels.n, eps)
        if running_mean is not None and x.size:
            for running, statistic in (running_mean, mean), (running_var, m2 / (channels.n - 1)):
                old = flushed(running).to(np.float64)
                running[...] = (np.float64(1 - momentum) * old + np.float64(momentum) * statistic).to(x.dtype)
    else:
        mean = flushed(running_mean).to(np.float64)
        rstd = _rstd(flushed(running_var).to(np.float64), eps)
    high, low = _split(mean, x.dtype)
    scale = _scale(rstd, weight)
    shift = (flushed(np.zeros(1)) if bias is None else flushed(bias).to(np.float64)) - low.to(np.float64) * scale
    y = (channels.values - channels.of(high)) * channels.of(scale.to(x.dtype)) + channels.of(shift.to(x.dtype))
    return _into(out, channels.array(y), mean, rstd)


def batch_norm_backward(
    dy: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    weight: Any = None,
    *,
    training: bool = True,
    channel_axis: int = 1,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.batch_norm_backward`."""
    channels = _Channels(x, channel_axis)
    g = _Channels(dy, channel_axis).values
    mean, rstd = flushed(mean), flushed(rstd)
    high, low = _split(mean, x.dtype)
    low, scale = low.to(np.float64), _scale(rstd, weight)
    d = channels.values - channels.of(high)
    sum_dy, sum_dyd = channels.sums(g), channels.sums(g * d)
    sum_dyx = (sum_dyd - low * sum_dy) * rstd
    dx = g * channels.of(scale.to(x.dtype))
    if training:
        slope = scale * rstd * (sum_dyx / channels.n)
        shift = low * slope - scale * (sum_dy / channels.n)
        dx = dx + channels.of(shift.to(x.dtype)) - d * channels.of(slope.to(x.dtype))
    gradients = (None, None) if weight is None else (sum_dyx.to(x.dtype), sum_dy.to(x.dtype))
    return _into(out, channels.array(dx), *gradients)
