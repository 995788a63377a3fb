"""Optimizer steps in NumPy, to the last bit as the kernels compute them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ._arithmetic import Flushed, flushed

Arrays = Sequence[Any]


def _each(params: Arrays, grads: Arrays, step: int | Sequence[int], *states: Arrays) -> Iterator[tuple[Any, ...]]:
    """(p, g, step, state, ...) of every parameter that has a gradient."""
    steps = [step] * len(params) if isinstance(step, int) else step
    for p, g, t, *state in zip(params, grads, steps, *states, strict=True):
        if g is not None:
            yield flushed(p), flushed(g), t, *map(flushed, state)


def _gradient(g: Flushed, p: Flushed, maximize: bool, l2: float, l1: float) -> Flushed:
    """What a rule sees as the gradient."""
    dtype = p.dtype.type
    if maximize or l2 or l1:
        g = g * dtype(-1 if maximize else 1)
    if l2:
        g = g + dtype(l2) * p
    if l1:
        g = g + dtype(l1) * np.sign(p)
    return g


def sgd(
    params: Arrays,
    grads: Arrays,
    momentum_buffers: Arrays | None = None,
    *,
    step: int | Sequence[int],
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    l1: float = 0.0,
    velocity: bool = False,
) -> None:
    """See :func:`fastopt.functional.sgd`."""
    buffers = momentum_buffers if momentum else params
    for p, g, t, b in _each(params, grads, step, buffers or ()):
        dtype = p.dtype.type
        eta, mu, undampened = dtype(lr), dtype(momentum), dtype(1 - dampening)
        g = _gradient(g, p, maximize, weight_decay, l1)
        if not momentum:
            p[...] = p * dtype(1) - eta * g
        elif velocity:
            b[...] = mu * b - eta * g
            p[...] = p * dtype(1) + (mu * b - eta * g if nesterov else b)
        else:
            b[...] = g if t == 1 else mu * b + undampened * g
            p[...] = p * dtype(1) - eta * (g + mu * b if nesterov else b)


def _adam(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    max_exp_avg_sqs: Arrays | None,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    maximize: bool,
    l1: float,
    eps_hat: bool,
    l2: float,
    decay: float,
) -> None:
    for p, g, t, m, v, v_max in _each(params, grads, step, exp_avgs, exp_avg_sqs, max_exp_avg_sqs or exp_avg_sqs):
        dtype = p.dtype.type
        beta1, beta2 = map(dtype, betas)
        rest1, rest2 = (dtype(1 - beta) for beta in betas)
        correction1, root2 = 1 - betas[0] ** t, math.sqrt(1 - betas[1] ** t)
        alpha, nu = (lr * root2 / correction1, 1.0) if eps_hat else (lr / correction1, 1 / root2)

        g = _gradient(g, p, maximize, l2, l1)
        m[...] = beta1 * m + rest1 * g
        v[...] = beta2 * v + rest2 * g * g
        if max_exp_avg_sqs is not None:
            v_max[...] = v = np.where((v_max >= v) | (v_max != v_max), v_max, v).view(Flushed)
        p[...] = p * dtype(decay) - dtype(alpha) * m / (np.sqrt(v) * dtype(nu) + dtype(eps))


def adam(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    max_exp_avg_sqs: Arrays | None = None,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
    l1: float = 0.0,
    eps_hat: bool = False,
) -> None:
    """See :func:`fastopt.functional.adam`."""
    states = exp_avgs, exp_avg_sqs, max_exp_avg_sqs
    _adam(params, grads, *states, step, lr, betas, eps, maximize, l1, eps_hat, l2=weight_decay, decay=1.0)


def adamw(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    max_exp_avg_sqs: Arrays | None = None,
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    maximize: bool = False,
    l1: float = 0.0,
    eps_hat: bool = False,
) -> None:
    """See :func:`fastopt.functional.adamw`."""
    states = exp_avgs, exp_avg_sqs, max_exp_avg_sqs
    _adam(params, grads, *states, step, lr, betas, eps, maximize, l1, eps_hat, l2=0.0, decay=1 - lr * weight_decay)
