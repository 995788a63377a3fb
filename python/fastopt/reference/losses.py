"""Losses: value and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ._arithmetic import flushed
from ._functions import exp, log, log_above_1
from ._norm import into
from ._sums import row_sums
from .softmax import _back, _rows, largest

_PART = 1024  # elements whose losses are summed at once


def cross_entropy(
    x: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    dim: int | None = None,
    grad: bool = True,
    out: Any = None,
) -> tuple[Any, Any]:
    """The specification of :func:`fastopt.functional.cross_entropy`."""
    axis = (1 if x.ndim > 1 else 0) if dim is None else dim
    of, double = x.dtype.type, np.float64
    rows = _rows(x, axis)
    classes = rows.shape[-1]
    target = np.asarray(target)
    by_label = target.dtype.kind != "f"
    shape = np.moveaxis(x, axis, -1).shape[:-1]
    kept = np.ones(len(rows), bool)
    labels = np.zeros(len(rows), int)
    if by_label:
        kept = target.ravel() != ignore_index
        labels = np.where(kept, target.ravel(), 0)
    if not classes:
        return _of_no_classes(reduction, shape), _back(flushed(rows), x, axis, out) if grad else None
    w = flushed(np.ones(classes, x.dtype) if weight is None else weight) * of(1)  # subnormal ones are 0
    each, rest = double(label_smoothing) / double(classes or 1), double(1) - double(label_smoothing)
    index = np.arange(len(rows)), labels

    most = largest(rows)
    distance = rows - most
    # Σ q w and Σ q w (x − most), of the distribution and of the even one.
    if by_label:
        own = flushed(np.asarray(w)[labels].astype(double))
        own_x = own * flushed(np.asarray(distance)[index].astype(double))
    else:
        q = _rows(target, axis)
        weighted = q if weight is None else q * w
        own, own_x = row_sums(weighted), row_sums(weighted * distance)
    weights, products = own * rest, own_x * rest
    if label_smoothing:
        even = flushed(np.full(len(rows), double(classes))) if weight is None else row_sums(w[None])[[0] * len(rows)]
        even_x = row_sums(distance if weight is None else w * distance)
        weights, products = weights + even * each, products + even_x * each
    e = exp(distance)
    sums = row_sums(e)
    losses = flushed(np.where(kept, np.asarray(weights * log(sums) - products), 0.0))

    divisor = double(1)
    if reduction == "mean":
        divisor = double(len(rows))
        if by_label:
            divisor = double(0)
            for label in labels[kept]:
                divisor += double(np.asarray(w)[label])
    with np.errstate(all="ignore"):
        factor = double(1) / divisor
        value = (
            np.asarray(losses).reshape(shape) if reduction == "none" else float(np.asarray(row_sums(losses)) / divisor)
        )
    if not grad:
        return value, None
    p_factor = (weights * factor / sums)[:, None].to(x.dtype)
    with np.errstate(all="ignore"):
        even_factor, own_factor = of(each * factor), of(rest * factor)
    dx = e * p_factor
    if not by_label:
        even = q * own_factor + even_factor
        dx = dx - (even if weight is None else even * w)
    elif label_smoothing:
        dx = dx - (flushed(np.full(classes, even_factor)) if weight is None else w * even_factor)
    if by_label:
        dx = np.array(dx)
        dx[index] = np.asarray(flushed(dx[index]) - flushed(np.asarray(own.to(x.dtype))) * own_factor)
        dx[~kept] = 0
    return value, _back(dx, x, axis, out)


def _of_no_classes(reduction: str, shape: tuple[int, ...]) -> Any:
    """The loss without classes, where all labels are ignored ones: 0, and NaN for the mean of nothing."""
    if reduction == "none":
        return np.zeros(shape)
    return 0.0 if reduction == "sum" else np.nan


def _of_elements(
    formula: Callable[..., tuple[Any, Any]], x: Any, others: tuple[Any, ...], reduction: str, grad: bool, out: Any
) -> tuple[Any, Any]:
    """The loss and the gradient of a formula that gives both for each element; the others are 1 where there are none."""
    of, double = x.dtype.type, np.float64
    arrays = [np.ones(x.shape, x.dtype) if one is None else np.broadcast_to(one, x.shape) for one in (x, *others)]
    values, gradients = formula(*(flushed(np.ascontiguousarray(one).ravel()) for one in arrays))
    divisor = double(x.size) if reduction == "mean" else double(1)
    with np.errstate(all="ignore"):
        factor = of(double(1) / divisor)
    total: Any = flushed(np.zeros(()))
    for first in range(0, x.size, _PART):
        total = total + row_sums(values[None, first : first + _PART])[0]
    with np.errstate(all="ignore"):
        value = np.asarray(values).reshape(x.shape) if reduction == "none" else float(np.asarray(total) / divisor)
    if not grad:
        return value, None
    (dx,) = into(None if out is None else (out,), np.asarray(gradients * factor).reshape(x.shape))
    return value, dx


def mse_loss(
    x: Any, target: Any, reduction: str = "mean", *, weight: Any = None, grad: bool = True, out: Any = None
) -> tuple[Any, Any]:
    """The specification of :func:`fastopt.functional.mse_loss`."""

    def formula(x: Any, t: Any, w: Any) -> tuple[Any, Any]:
        z = x - t
        return w * (z * z), w * (z + z)

    return _of_elements(formula, x, (target, weight), reduction, grad, out)


def huber_loss(
    x: Any,
    target: Any,
    reduction: str = "mean",
    delta: float = 1.0,
    *,
    weight: Any = None,
    grad: bool = True,
    out: Any = None,
) -> tuple[Any, Any]:
    """The specification of :func:`fastopt.functional.huber_loss`."""
    d, half = x.dtype.type(delta), x.dtype.type(0.5)

    def formula(x: Any, t: Any, w: Any) -> tuple[Any, Any]:
        z = x - t
        magnitude = flushed(np.abs(np.asarray(z)))
        outer = (magnitude - half * d) * d
        value = flushed(np.where(np.asarray(magnitude) <= d, np.asarray((z * z) * half), np.asarray(outer)))
        return w * value, w * flushed(np.clip(np.asarray(z), -d, d))

    return _of_elements(formula, x, (target, weight), reduction, grad, out)


def binary_cross_entropy_with_logits(
    x: Any,
    target: Any,
    weight: Any = None,
    reduction: str = "mean",
    pos_weight: Any = None,
    *,
    grad: bool = True,
    out: Any = None,
) -> tuple[Any, Any]:
    """The specification of :func:`fastopt.functional.binary_cross_entropy_with_logits`."""
    one = x.dtype.type(1)

    def formula(x: Any, t: Any, w: Any, positive: Any) -> tuple[Any, Any]:
        negative = np.asarray(x) < 0
        small = exp(-flushed(np.abs(np.asarray(x))))
        zero = np.zeros(x.shape, x.dtype)
        softplus = log_above_1(small) + flushed(np.where(negative, np.asarray(-x), zero))
        share = flushed(np.where(negative, one, np.asarray(small))) / (one + small)
        rest, of_one = one - t, one + (positive - one) * t
        return w * (rest * x + of_one * softplus), w * (rest - of_one * share)

    return _of_elements(formula, x, (target, weight, pos_weight), reduction, grad, out)
