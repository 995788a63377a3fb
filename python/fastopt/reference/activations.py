"""Activations and the linear layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._arithmetic import flushed
from ._functions import erf, exp, sigmoid, tanh
from ._norm import Arrays, into
from ._sums import BLOCK, block_sums, in_order

_ROOT_HALF, _GAUSSIAN = 0.7071067811865476, 0.3989422804014327  # 1/√2, 1/√(2π)
_TANH_SLOPE, _CUBIC = 0.7978845608028654, 0.044715  # √(2/π)
_SAVES_INPUT = ("gelu", "gelu_tanh", "silu")


def _normal_cdf(z: Any) -> Any:
    of = z.dtype.type
    return of(0.5) * (of(1) + erf(z * of(_ROOT_HALF)))


def _inner(z: Any) -> Any:
    of = z.dtype.type
    return tanh(of(_TANH_SLOPE) * z * (of(1) + of(_CUBIC) * (z * z)))


def _zero_where(condition: Any, x: Any) -> Any:
    return flushed(np.where(np.asarray(condition), x.dtype.type(0), np.asarray(x)))


def _value(activation: str | None, z: Any) -> Any:
    of = z.dtype.type
    if activation is None:
        return z
    if activation == "relu":
        return _zero_where(z <= 0, z)
    if activation == "gelu":
        return z * _normal_cdf(z)
    if activation == "gelu_tanh":
        return of(0.5) * z * (of(1) + _inner(z))
    if activation == "silu":
        return z * sigmoid(z)
    return tanh(z) if activation == "tanh" else sigmoid(z)


def _gradient(activation: str | None, dy: Any, saved: Any) -> Any:
    of = dy.dtype.type
    one, half = of(1), of(0.5)
    if activation is None:
        return dy
    if activation == "relu":
        return _zero_where(saved <= 0, dy)
    if activation == "gelu":
        return dy * (_normal_cdf(saved) + saved * (of(_GAUSSIAN) * exp(of(-0.5) * saved * saved)))
    if activation == "gelu_tanh":
        t = _inner(saved)
        slope = of(_TANH_SLOPE) * (one + of(3 * _CUBIC) * (saved * saved))
        return dy * (half * (one + t) + half * saved * (one - t * t) * slope)
    if activation == "silu":
        s = sigmoid(saved)
        return dy * (s * (one + saved * (one - s)))
    return dy * (one - saved * saved) if activation == "tanh" else dy * (saved * (one - saved))


def activate(x: Any, activation: str | None, bias: Any = None, *, out: Arrays | None = None) -> Arrays:
    """The specification of :func:`fastopt.functional.activate`."""
    z = flushed(x) + (x.dtype.type(-0.0) if bias is None else flushed(bias))
    y, saves = _value(activation, z), activation in _SAVES_INPUT
    y, saved = into(out, y, z if saves else None)
    return y, saved if saves else y


def activate_backward(
    dy: Any, saved: Any, activation: str | None, *, bias_grad: bool = False, out: Arrays | None = None
) -> Arrays:
    """The specification of :func:`fastopt.functional.activate_backward`."""
    dx = _gradient(activation, flushed(dy), flushed(saved))
    dbias = None
    if bias_grad:
        rows, width = (
            np.asarray(dx).reshape(-1, dx.shape[-1]) if dx.size else np.zeros((0, dx.shape[-1]), dx.dtype),
            dx.shape[-1],
        )
        chunk = max(4 * BLOCK, (1 << 14) // max(width, 1) // BLOCK * BLOCK)
        sums = [block_sums(flushed(rows[first : first + chunk])) for first in range(0, len(rows), chunk)]
        dbias = in_order(flushed(np.reshape(sums, (len(sums), width)))).to(dx.dtype)
    return into(out, dx, dbias)


def _rows(x: Any) -> Any:
    """x as a matrix of its last axis; reshape(-1, 0) would be ambiguous."""
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


def linear(
    x: Any, weight: Any, bias: Any = None, activation: str | None = None, *, out: Arrays | None = None
) -> Arrays:
    """The specification of :func:`fastopt.functional.linear`, given NumPy's product."""
    products = np.matmul(_rows(x), weight.T)
    return activate(products.reshape(*x.shape[:-1], len(weight)), activation, bias, out=out)


def linear_backward(
    dy: Any,
    x: Any,
    weight: Any,
    saved: Any = None,
    activation: str | None = None,
    *,
    x_grad: bool = True,
    bias_grad: bool = True,
    out: Arrays | None = None,
) -> Arrays:
    """The specification of :func:`fastopt.functional.linear_backward`, given NumPy's products."""
    dz, dbias = activate_backward(dy, dy if activation is None else saved, activation, bias_grad=bias_grad)
    rows = _rows(dy if activation is None else dz)
    dx = np.matmul(rows, weight).reshape(x.shape) if x_grad else None
    dweight = np.matmul(rows.T, _rows(x))
    return into(out, dx, dweight, dbias)
