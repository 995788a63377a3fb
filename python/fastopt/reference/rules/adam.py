"""Adam and its relatives, and Lion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._arithmetic import flushed
from .._update import clamp, exact, maximum, moment, rule, square


def _adam(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    v_max: Any,
    *,
    t: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    amsgrad: bool,
    eps_hat: bool,
) -> Any:
    """Adam, or AMSGrad."""
    T, (beta1, beta2) = p.dtype.type, betas
    correction1, root2 = 1 - beta1**t, math.sqrt(1 - beta2**t)
    alpha, nu = (lr * root2 / correction1, 1.0) if eps_hat else (lr / correction1, 1 / root2)
    m = T(beta1) * m + T(1 - beta1) * g
    v = T(beta2) * v + T(1 - beta2) * g * g
    if amsgrad:
        v_max = maximum(v_max, v)
    root = np.sqrt(v_max if amsgrad else v) * T(nu) + T(eps)
    return p - T(alpha) * m / root, m, v, v_max, T(lr * root2 if eps_hat else lr) / root


adam = rule(
    moment("exp_avg"),
    square("exp_avg_sq"),
    optional=(square("max_exp_avg_sq"),),
    name="adam",
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    amsgrad=False,
    eps_hat=False,
)(_adam)


adamw = rule(
    moment("exp_avg"),
    square("exp_avg_sq"),
    optional=(square("max_exp_avg_sq"),),
    name="adamw",
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=1e-2,
    amsgrad=False,
    eps_hat=False,
    decoupled_weight_decay=True,
)(_adam)


@rule(moment("exp_avg"), square("exp_inf"), betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
def adamax(p: Any, g: Any, m: Any, u: Any, *, t: int, lr: float, betas: tuple[float, float], eps: float) -> Any:
    """Adamax."""
    T, (beta1, beta2) = p.dtype.type, betas
    m = T(beta1) * m + T(1 - beta1) * g
    u = maximum(T(beta2) * u, abs(g) + T(eps))
    return p - T(lr / (1 - beta1**t)) * m / u, m, u, T(lr) / u


@rule(
    moment("exp_avg"),
    square("exp_avg_sq"),
    numbers=("mu_product",),
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    momentum_decay=4e-3,
)
def nadam(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    mu_product: float,
    *,
    t: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    momentum_decay: float,
) -> Any:
    """NAdam."""
    T, (beta1, beta2) = p.dtype.type, betas
    mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (s * momentum_decay)) for s in (t, t + 1))
    mu_product = mu if t == 1 else mu_product * mu
    of_g, of_m = lr * (1 - mu) / (1 - mu_product), lr * mu_next / (1 - mu_product * mu_next)
    m = T(beta1) * m + T(1 - beta1) * g
    v = T(beta2) * v + T(1 - beta2) * g * g
    root = np.sqrt(v) * T(1 / math.sqrt(1 - beta2**t)) + T(eps)
    p = p - (T(of_g) * g + T(of_m) * m) / root
    return p, m, v, mu_product, T(of_g + of_m * (1 - beta1**t)) / root


@rule(moment("exp_avg"), square("exp_avg_sq"), betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
def radam(p: Any, g: Any, m: Any, v: Any, *, t: int, lr: float, betas: tuple[float, float], eps: float) -> Any:
    """RAdam."""
    T, (beta1, beta2) = p.dtype.type, betas
    power = beta2**t
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * power / (1 - power)
    alpha = lr / (1 - beta1**t)
    m = T(beta1) * m + T(1 - beta1) * g
    v = T(beta2) * v + T(1 - beta2) * g * g
    if rho <= 5:
        return p - T(alpha) * m, m, v, flushed(np.full(p.shape, lr, p.dtype))
    factor = math.sqrt(1 - power) * math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    root = np.sqrt(v) + T(eps)
    return p - T(alpha * factor) * m / root, m, v, T(lr * factor) / root


@rule(moment("exp_avg"), betas=(0.9, 0.99), weight_decay=0.0, decoupled_weight_decay=True)
def lion(p: Any, g: Any, m: Any, *, lr: float, betas: tuple[float, float]) -> Any:
    """Lion."""
    T, (beta1, beta2) = p.dtype.type, betas
    p = p - T(lr) * np.sign(T(beta1) * m + T(1 - beta1) * g)
    return p, T(beta2) * m + T(1 - beta2) * g, None


@rule(
    moment("exp_avg"),
    moment("exp_avg_diff"),
    square("exp_avg_sq"),
    exact("neg_pre_grad"),
    betas=(0.98, 0.92, 0.99),
    eps=1e-8,
    weight_decay=0.0,
    decoupled_weight_decay=None,
)
def adan(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    n: Any,
    negative: Any,
    *,
    t: int,
    lr: float,
    betas: tuple[float, float, float],
    eps: float,
    weight_decay: float,
) -> Any:
    """Adan."""
    T, (beta1, beta2, beta3) = p.dtype.type, betas
    difference = g - g if t == 1 else negative + g
    ahead = g + T(beta2) * difference
    m = T(beta1) * m + T(1 - beta1) * g
    v = T(beta2) * v + T(1 - beta2) * difference
    n = T(beta3) * n + T(1 - beta3) * ahead * ahead
    u = T(lr / (1 - beta1**t)) * m + T(lr * beta2 / (1 - beta2**t)) * v
    root, shrink = np.sqrt(n) * T(1 / math.sqrt(1 - beta3**t)) + T(eps), 1 / (1 + lr * weight_decay)
    return (p - u / root) * T(shrink), m, v, n, -g, T(lr * shrink) / root


@rule(
    moment("exp_avg_fast"),
    moment("exp_avg_slow"),
    square("exp_avg_sq"),
    betas=(0.9, 0.999, 0.9999),
    alpha=2.0,
    eps=1e-8,
    weight_decay=0.0,
    alpha_warmup=None,
    beta3_warmup=None,
    decoupled_weight_decay=None,
)
def ademamix(
    p: Any,
    g: Any,
    fast: Any,
    slow: Any,
    v: Any,
    *,
    t: int,
    lr: float,
    betas: tuple[float, float, float],
    alpha: float,
    eps: float,
    weight_decay: float,
    alpha_warmup: int | None,
    beta3_warmup: int | None,
) -> Any:
    """AdEMAMix.  α grows linearly; β₃ from β₁, so that its half-life grows linearly."""
    T, (beta1, beta2, beta3) = p.dtype.type, betas
    if alpha_warmup is not None and t < alpha_warmup:
        alpha = t / alpha_warmup * alpha
    if beta3_warmup is not None and t < beta3_warmup:
        part = t / beta3_warmup
        first, last = (math.log(0.5) / math.log(beta + 1e-8) - 1 for beta in (beta1, beta3))
        beta3 = 0.5 ** (1 / ((1 - part) * first + part * last + 1))
    fast = T(beta1) * fast + T(1 - beta1) * g
    slow = T(beta3) * slow + T(1 - beta3) * g
    v = T(beta2) * v + T(1 - beta2) * g * g
    u = T(1 / (1 - beta1**t)) * fast + T(alpha) * slow
    root, rate = np.sqrt(v) * T(1 / math.sqrt(1 - beta2**t)) + T(eps), lr * (1 + alpha * (1 - beta3**t))
    return p - T(lr) * (u / root + T(weight_decay) * p), fast, slow, v, T(rate) / root


@rule(moment("exp_avg"), square("exp_avg_sq"), betas=(0.9, 0.9999), eps=1e-6, weight_decay=0.0, clip_exponent=0.25)
def adopt(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    *,
    t: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    clip_exponent: float | None,
) -> Any:
    """ADOPT."""
    T, (beta1, beta2) = p.dtype.type, betas
    if t == 1:
        return p, m, g * g, flushed(np.zeros(p.shape, p.dtype))
    most = T(math.inf if clip_exponent is None else (t - 1) ** clip_exponent)
    m = T(beta1) * m + T(1 - beta1) * clamp(g / maximum(np.sqrt(v), T(eps)), -most, most)
    v = T(beta2) * v + T(1 - beta2) * g * g
    return p - T(lr) * m, m, v, T(lr * (1 - beta1 ** (t - 1))) / maximum(np.sqrt(v), T(eps))
