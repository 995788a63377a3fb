"""Dropout, Gaussian dropout and dropout of channels in NumPy, with the bits of the kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._norm import numbers, stored
from ._random import normals, words

# The numbers of the random streams of dropout.
UPPER_HALVES, DEVIATES, CHANNEL_NUMBERS, LOWER_HALVES = range(0x80000000, 0x80000004)


def _counting_order(x: Any, order: Any = None) -> Any:
    """The axes, outermost first: as given, otherwise sorted by the sizes of their strides, or in order if elements share memory."""
    if order is not None:
        return np.array(order, int)
    shared = any(stride == 0 and count > 1 for stride, count in zip(x.strides, x.shape, strict=True))
    return np.argsort([0 if shared else -abs(stride) for stride in x.strides], kind="stable")


def _into(out: Any, result: Any, x: Any, order: Any) -> Any:
    """The result in this order of memory, copied to ``out`` if that is given."""
    if out is None:
        out = np.empty([x.shape[axis] for axis in order], x.dtype).transpose(np.argsort(order))
    out[...] = result
    return out


def _threshold(p: float) -> int:
    return round(p * 2**32)


def _drop(x: Any, dropped: Any, p: float) -> Any:
    scale = numbers(x).dtype.type(1 / (1 - p)) if p < 1 else 0
    return np.where(dropped, 0, stored(numbers(x) * scale, x)).astype(x.dtype)


def _dropped(count: int, p: float, seed: int, step: int) -> Any:
    """A mask of the dropped elements, those with a random 32-bit number below p·2³².

    A word contains 16 bits for each of two elements that are 64 apart; the upper and the lower 16 bits come from two streams.
    """

    def halves(member: int) -> Any:
        word = words(seed, step, member, -(-count // 128)).reshape(-1, 1, 64).astype(np.int64)
        return np.concatenate([word & 0xFFFF, word >> 16], axis=1).ravel()[:count]

    return (halves(UPPER_HALVES) << 16) + halves(LOWER_HALVES) < _threshold(p)


def dropout(
    x: Any, p: float = 0.5, training: bool = True, *, seed: int, step: int = 0, order: Any = None, out: Any = None
) -> Any:
    """See :func:`fastopt.functional.dropout`."""
    order = _counting_order(x, order)
    if not training or p == 0:
        return _into(out, x, x, order)
    in_order = x.transpose(order)
    y = _drop(in_order, _dropped(x.size, p, seed, step).reshape(in_order.shape), p)
    return _into(out, y.transpose(np.argsort(order)), x, order)


def gaussian_dropout(
    x: Any, p: float = 0.5, training: bool = True, *, seed: int, step: int = 0, order: Any = None, out: Any = None
) -> Any:
    """See :func:`fastopt.functional.gaussian_dropout`."""
    order = _counting_order(x, order)
    if not training or p == 0:
        return _into(out, x, x, order)
    in_order = numbers(x.transpose(order))
    deviation = in_order.dtype.type(math.sqrt(p / (1 - p)))
    deviates = normals(seed, step, DEVIATES, x.size).astype(in_order.dtype).reshape(in_order.shape)
    y = stored(in_order * (1 + deviation * deviates), x)
    return _into(out, y.transpose(np.argsort(order)), x, order)


def channel_dropout(
    x: Any,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int,
    step: int = 0,
    channel_axis: int = 1,
    out: Any = None,
) -> Any:
    """See :func:`fastopt.functional.channel_dropout`."""
    order = _counting_order(x)
    if not training or p == 0:
        return _into(out, x, x, order)
    sets = np.ones(x.ndim, int)
    sets[[0, channel_axis]] = x.shape[0], x.shape[channel_axis]
    word = words(seed, step, CHANNEL_NUMBERS, -(-math.prod(sets) // 64)).ravel()[: math.prod(sets)]
    return _into(out, _drop(x, (word.astype(np.int64) < _threshold(p)).reshape(sets), p), x, order)


def dropout_backward(
    dy: Any, p: float = 0.5, training: bool = True, *, seed: int, step: int = 0, order: Any = None, out: Any = None
) -> Any:
    """See :func:`fastopt.functional.dropout_backward`."""
    return dropout(dy, p, training, seed=seed, step=step, order=order, out=out)


def gaussian_dropout_backward(
    dy: Any, p: float = 0.5, training: bool = True, *, seed: int, step: int = 0, order: Any = None, out: Any = None
) -> Any:
    """See :func:`fastopt.functional.gaussian_dropout_backward`."""
    return gaussian_dropout(dy, p, training, seed=seed, step=step, order=order, out=out)


def channel_dropout_backward(
    dy: Any,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int,
    step: int = 0,
    channel_axis: int = 1,
    out: Any = None,
) -> Any:
    """See :func:`fastopt.functional.channel_dropout_backward`."""
    return channel_dropout(dy, p, training, seed=seed, step=step, channel_axis=channel_axis, out=out)
