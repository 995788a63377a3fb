"""Normalizations of channels: BatchNorm, alone, fused with ReLU, and for a batch in parts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ._arithmetic import flushed
from ._norm import (
    Arrays,
    average,
    careful_moments,
    careful_squares,
    chosen,
    double,
    in_order_of_sets,
    into,
    moments,
    numbers,
    readable,
    rstd_of,
    shifted_moments,
    split,
    squares_lost,
    stored,
)
from ._sums import BLOCK, block_sums, in_order, plane_sums


class Channels:
    """An array as planes, (plane, *sets, place), or as columns, (place, *sets).

    They are columns if the channel axis is the last or the innermost in memory.  A set is a channel, or a channel of one
    sample; each set has its own sums and constants.
    """

    def __init__(self, x: Any, channel_axis: int, by_sample: bool = False) -> None:
        x = readable(x)
        self.axis = axis = channel_axis % x.ndim
        before, after = [*range(by_sample, axis)], [*range(axis + 1, x.ndim)]
        of_set = [0, axis] if by_sample else [axis]
        self.count = x.shape[axis]
        outer, inner = (math.prod(x.shape[a] for a in axes) for axes in (before, after))
        adjacent = self.count > 1 and x.strides[axis] == x.itemsize
        self.columns = adjacent or not after or (self.count == 1 and inner == 1)
        self.order = [*before, *after, *of_set] if self.columns else [*before, *of_set, *after]
        self.sets = tuple(x.shape[a] for a in of_set)
        self.shape = (outer * inner, *self.sets) if self.columns else (outer, *self.sets, inner)
        self.n = np.float64(outer * inner)  # number of elements in a set
        self.like, self.values = x, self.of_array(x)
        self.dtype = self.values.dtype

    def of_array(self, array: Any) -> Any:
        """The values of an array with the shape of x, in any memory layout, as planes or columns."""
        return numbers(array.transpose(self.order)).reshape(self.shape)

    def array(self, values: Any) -> Any:
        """Planes or columns as an array like x: channels last in memory where x has them there, otherwise C-contiguous."""
        axis, shape = self.axis, list(self.like.shape)
        last = [*shape[:axis], *shape[axis + 1 :], shape[axis]]
        result = (
            np.moveaxis(np.empty(last, self.like.dtype), -1, axis) if self.columns else np.empty(shape, self.like.dtype)
        )
        of_sets = result.transpose(self.order)
        of_sets[...] = stored(values, self.like).reshape(of_sets.shape)
        return result

    def each(self, constants: Any) -> Any:
        """Constants, one per set, in a shape that broadcasts with the values."""
        constants = constants.to(self.dtype)
        return constants if self.columns else constants[..., None]

    def of_sets(self) -> Any:
        """The numbers of each set on the last axis."""
        return np.moveaxis(np.asarray(self.values), 0, -1) if self.columns else in_order_of_sets(self.values)

    # Sums

    def chunks(self) -> list[slice]:
        """The slices of columns that are summed separately."""
        rows = max(4 * BLOCK, (1 << 14) // max(self.count, 1) // BLOCK * BLOCK)
        return [slice(first, first + rows) for first in range(0, len(self.values), rows)]

    def sums(self, terms: Any) -> Any:
        """Σ of each set."""
        if self.columns:
            parts = [block_sums(terms[chunk]) for chunk in self.chunks()]
            return in_order(np.reshape(parts, (len(parts), *self.sets)))
        return plane_sums(terms)

    def moments(self, eps: float) -> tuple[Any, Any]:
        """Mean and Σ(x - mean)² of each set; eps is the number that will be added to the variance."""
        if not self.columns:
            return moments(self.values, eps)
        parts: list[Any] = [(0, *np.zeros((2, *self.sets)))]
        for chunk in self.chunks():
            x = self.values[chunk]
            some = x[:BLOCK]
            shift = (block_sums(some) / np.float64(len(some))).to(x.dtype)
            d, n = x - shift, np.float64(len(x))
            squares = block_sums(d * d)
            mean, m2 = shifted_moments(shift, block_sums(d), squares, n)
            of_sets = np.moveaxis(np.asarray(x), 0, -1)
            lost = squares_lost(squares, n, eps, of_sets, shift)
            if lost.any():
                careful = careful_moments(of_sets[lost])
                mean, m2 = chosen(lost, careful[0], mean), chosen(lost, careful[1], m2)
            parts.append((len(x), mean, m2))
        return merged(parts)[1:]

    def sums_of_gradient(self, g: Any, mean: Any, rstd: Any) -> tuple[Any, Any]:
        """Σ dy and Σ dy·x̂ of each set."""
        high, low = split(mean, self.dtype)
        sum_dy, sum_dyd = self.sums(g), self.sums(g * (self.values - self.each(high)))
        return sum_dy, (sum_dyd - low.to(np.float64) * sum_dy) * rstd

    # Elementwise

    def normalized(self, mean: Any, factor: Any, bias: Any) -> Any:
        """(x - mean)·factor + bias."""
        high, low = split(mean, self.dtype)
        shift = bias - low.to(np.float64) * factor
        return (self.values - self.each(high)) * self.each(factor) + self.each(shift)

    def gradient(self, g: Any, mean: Any, factor: Any, slope: Any, offset: Any) -> Any:
        """dy·factor - offset - (x - mean)·slope."""
        high, low = split(mean, self.dtype)
        shift = low.to(np.float64) * slope - offset
        return g * self.each(factor) + self.each(shift) - (self.values - self.each(high)) * self.each(slope)


def merged(parts: Iterable[Any]) -> tuple[int, Any, Any]:
    """Count, mean and Σ(x - mean)² of a whole from those of two parts.  Chan, Golub & LeVeque 1983."""
    seen = 0
    for count, part_mean, part_m2 in parts:
        part_mean, part_m2 = flushed(part_mean), flushed(part_m2)
        if seen == 0:
            mean, m2 = flushed(np.zeros_like(part_mean)), flushed(np.zeros_like(part_m2))
        if count == 0:
            continue
        share = np.float64(count) / np.float64(seen + count)
        delta = part_mean - mean
        mean, m2 = mean + delta * share, m2 + (part_m2 + delta * delta * (np.float64(seen) * share))
        seen += count
    return seen, mean, m2


def weighted(rstd: Any, weight: Any) -> Any:
    return rstd if weight is None else rstd * double(weight)


def positive(t: Any, x: Any) -> Any:
    """x where t > 0 or t is NaN, otherwise 0."""
    return flushed(np.where(t <= 0, x.dtype.type(0), x))


# BatchNorm


def _record(running_mean: Any, running_var: Any, momentum: float, count: Any, mean: Any, m2: Any) -> None:
    """Updates the running statistics with those of a batch."""
    if running_mean is None or count == 0:
        return
    for running, statistic in (running_mean, mean), (running_var, m2 / (np.float64(count) - 1)):
        new = np.float64(1 - momentum) * double(running) + np.float64(momentum) * statistic
        running[...] = new.to(running.dtype)


def _statistics(
    channels: Channels, running_mean: Any, running_var: Any, training: bool, momentum: float, eps: float
) -> tuple[Any, Any]:
    """The mean and rstd with which a batch is normalized."""
    if not training:
        return double(running_mean), rstd_of(double(running_var), eps)
    mean, m2 = channels.moments(eps)
    _record(running_mean, running_var, momentum, channels.n, mean, m2)
    return mean, rstd_of(average(m2, channels.n), eps)


def _gradient(channels: Channels, g: Any, mean: Any, rstd: Any, factor: Any, sums: Any, n: Any) -> Any:
    """dx of a batch with these sums over the n numbers of each channel."""
    sum_dy, sum_dyx = sums
    return channels.gradient(g, mean, factor, factor * rstd * (sum_dyx / n), factor * (sum_dy / n))


def _gradients(
    channels: Channels, g: Any, mean: Any, rstd: Any, weight: Any, training: bool, bias_grad: bool
) -> Arrays:
    """dx, dweight and dbias from the gradient g of the normalized values."""
    mean, rstd = flushed(mean), flushed(rstd)
    factor, sums = weighted(rstd, weight), channels.sums_of_gradient(g, mean, rstd)
    dx = _gradient(channels, g, mean, rstd, factor, sums, channels.n) if training else g * channels.each(factor)
    return channels.array(dx), *_learned(channels, sums[1], sums[0], weight, bias_grad)


def _learned(channels: Channels, sum_dy_xhat: Any, sum_dy: Any, weight: Any, bias_grad: bool) -> Arrays:
    """dweight and dbias, if they are wanted."""
    dweight = None if weight is None else sum_dy_xhat.to(channels.dtype)
    return dweight, sum_dy.to(channels.dtype) if bias_grad else None


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
    channels = Channels(x, channel_axis)
    mean, rstd = _statistics(channels, running_mean, running_var, training, momentum, eps)
    t = channels.normalized(mean, weighted(rstd, weight), double(bias))
    return into(out, channels.array(t), mean, rstd)


def batch_norm_backward(
    dy: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    weight: Any = None,
    *,
    training: bool,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.batch_norm_backward`."""
    channels = Channels(x, channel_axis)
    return into(out, *_gradients(channels, channels.of_array(dy), mean, rstd, weight, training, bias_grad))


def batch_norm_relu(
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
    """See :func:`fastopt.functional.batch_norm_relu`."""
    channels = Channels(x, channel_axis)
    mean, rstd = _statistics(channels, running_mean, running_var, training, momentum, eps)
    t = channels.normalized(mean, weighted(rstd, weight), double(bias))
    return into(out, channels.array(positive(t, t)), mean, rstd)


def batch_norm_relu_backward(
    dy: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    training: bool,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.batch_norm_relu_backward`."""
    channels = Channels(x, channel_axis)
    t = channels.normalized(flushed(mean), weighted(flushed(rstd), weight), double(bias))
    return into(out, *_gradients(channels, positive(t, channels.of_array(dy)), mean, rstd, weight, training, bias_grad))


def batch_norm_add_relu(
    x: Any,
    residual: Any,
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
    """See :func:`fastopt.functional.batch_norm_add_relu`."""
    channels = Channels(x, channel_axis)
    mean, rstd = _statistics(channels, running_mean, running_var, training, momentum, eps)
    t = channels.normalized(mean, weighted(rstd, weight), double(bias)) + channels.of_array(residual)
    return into(out, channels.array(positive(t, t)), mean, rstd)


def batch_norm_add_relu_backward(
    dy: Any,
    y: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    weight: Any = None,
    *,
    training: bool,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.batch_norm_add_relu_backward`."""
    channels = Channels(x, channel_axis)
    g = positive(channels.of_array(y), channels.of_array(dy))
    dx, *gradients = _gradients(channels, g, mean, rstd, weight, training, bias_grad)
    return into(out, dx, channels.array(g), *gradients)


def batch_renorm(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    r_max: float = 3.0,
    d_max: float = 5.0,
    *,
    channel_axis: int = 1,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.batch_renorm`."""
    channels = Channels(x, channel_axis)
    running, running_rstd = double(running_mean), rstd_of(double(running_var), eps)
    mean, rstd = _statistics(channels, running_mean, running_var, training, momentum, eps)
    factor, shift = weighted(rstd, weight), double(bias)
    r, d = np.ones(channels.sets), np.zeros(channels.sets)
    if training:
        r = np.minimum(np.maximum(running_rstd / rstd, 1 / np.float64(r_max)), np.float64(r_max))
        d = np.minimum(np.maximum((mean - running) * running_rstd, -np.float64(d_max)), np.float64(d_max)) + np.float64(
            0
        )
        factor, shift = factor * r, shift + weighted(d, weight)
    return into(out, channels.array(channels.normalized(mean, factor, shift)), mean, rstd, r, d)


def batch_renorm_backward(
    dy: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    r: Any,
    d: Any,
    weight: Any = None,
    *,
    training: bool,
    bias_grad: bool = True,
    channel_axis: int = 1,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.batch_renorm_backward`."""
    channels = Channels(x, channel_axis)
    mean, rstd, r, d = map(flushed, (mean, rstd, r, d))
    g, factor = channels.of_array(dy), weighted(rstd, weight) * r
    sum_dy, sum_dyx = sums = channels.sums_of_gradient(g, mean, rstd)
    dx = _gradient(channels, g, mean, rstd, factor, sums, channels.n) if training else g * channels.each(factor)
    gradients = _learned(channels, r * sum_dyx + d * sum_dy, sum_dy, weight, bias_grad)
    return into(out, channels.array(dx), *gradients)


# BatchNorm of a batch in parts


def batch_norm_stats(x: Any, around: Any = None, *, channel_axis: int = 1) -> Arrays:
    """See :func:`fastopt.functional.batch_norm_stats`."""
    channels = Channels(x, channel_axis)
    count = int(channels.n)
    if around is not None:
        high, low = split(flushed(around), channels.dtype)
        d, low = channels.values - channels.each(high), low.to(np.float64)
        squares = channels.sums(d * d)
        m2 = squares - low * (np.float64(2) * channels.sums(d) - channels.n * low)
        m2 = flushed(np.where(m2 < 0, 0.0, m2))
        lost = squares_lost(squares, channels.n, 0.0, channels.of_sets(), high)
        if lost.any():
            m2 = chosen(lost, careful_squares(channels.of_sets()[lost], np.asarray(around)[lost]), m2)
        return count, *into(None, around, m2)
    return count, *into(None, *(channels.moments(0.0) if count else np.zeros((2, channels.count))))


def combine_stats(stats: Any) -> Arrays:
    """See :func:`fastopt.functional.combine_stats`."""
    count, *both = merged(stats)
    return count, *into(None, *both)


def batch_norm_apply(
    x: Any,
    stats: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: Arrays | None = None,
) -> Arrays:
    """See :func:`fastopt.functional.batch_norm_apply`."""
    channels, (count, *both) = Channels(x, channel_axis), stats
    mean, m2 = map(flushed, both)
    rstd = rstd_of(average(m2, np.float64(count)), eps)
    _record(running_mean, running_var, momentum, count, mean, m2)
    t = channels.normalized(mean, weighted(rstd, weight), double(bias))
    return into(out, channels.array(t), mean, rstd)


def batch_norm_backward_stats(dy: Any, x: Any, mean: Any, rstd: Any, *, channel_axis: int = 1) -> Arrays:
    """See :func:`fastopt.functional.batch_norm_backward_stats`."""
    channels = Channels(x, channel_axis)
    return into(None, *channels.sums_of_gradient(channels.of_array(dy), flushed(mean), flushed(rstd)))


def batch_norm_backward_apply(
    dy: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    count: int,
    sum_dy: Any,
    sum_dy_xhat: Any,
    weight: Any = None,
    *,
    channel_axis: int = 1,
    out: Any = None,
) -> Any:
    """See :func:`fastopt.functional.batch_norm_backward_apply`."""
    channels = Channels(x, channel_axis)
    mean, rstd, sums = flushed(mean), flushed(rstd), (flushed(sum_dy), flushed(sum_dy_xhat))
    g, factor = channels.of_array(dy), weighted(rstd, weight)
    return into((out,), channels.array(_gradient(channels, g, mean, rstd, factor, sums, np.float64(count))))[0]
