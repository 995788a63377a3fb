"""Optimizer steps in NumPy, to the last bit as the kernels compute them.

A rule is its formula; what surrounds it, and the arguments that every function takes, are in ``_update.py``.  Numbers of a
step are computed in double, and rounded to the parameter's type T where they meet arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._arithmetic import flushed
from ._sums import in_order
from ._update import clamp, exact, lane_sums, maximum, moment, rule, square, squared_norm, where


@rule(
    optional=(moment("momentum_buffer"), moment("velocity_buffer")),
    momentum=0.0,
    dampening=0.0,
    weight_decay=0.0,
    nesterov=False,
    velocity=False,
)
def sgd(
    p: Any,
    g: Any,
    b: Any,
    v: Any,
    *,
    t: int,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    velocity: bool,
) -> Any:
    """Stochastic gradient descent, with torch's momentum or as a velocity."""
    T = p.dtype.type
    eta, mu = T(lr), T(momentum)
    if not momentum:
        return p - eta * g, b, v
    if velocity:
        v = mu * v - eta * g
        return p + (mu * v - eta * g if nesterov else v), b, v
    b = g if t == 1 else mu * b + T(1 - dampening) * g
    return p - eta * (g + mu * b if nesterov else b), b, v


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
    return p - T(alpha) * m / (np.sqrt(v_max if amsgrad else v) * T(nu) + T(eps)), m, v, v_max


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


@rule(square("sum"), lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10)
def adagrad(p: Any, g: Any, s: Any, *, t: int, lr: float, lr_decay: float, eps: float) -> Any:
    """Adagrad."""
    T = p.dtype.type
    s = s + g * g
    return p - T(lr / (1 + (t - 1) * lr_decay)) * g / (np.sqrt(s) + T(eps)), s


@rule(
    square("square_avg", unless="centered"),  # which is a difference of means
    optional=(exact("grad_avg"), moment("momentum_buffer")),
    alpha=0.99,
    eps=1e-8,
    weight_decay=0.0,
    momentum=0.0,
    centered=False,
)
def rmsprop(
    p: Any, g: Any, v: Any, mean: Any, b: Any, *, lr: float, alpha: float, eps: float, momentum: float, centered: bool
) -> Any:
    """RMSprop, also centered, and with momentum.  The centered variance is at least 0."""
    T = p.dtype.type
    v = T(alpha) * v + T(1 - alpha) * g * g
    variance = v
    if centered:
        mean = T(alpha) * mean + T(1 - alpha) * g
        variance = maximum(v - mean * mean, T(0))
    u = g / (np.sqrt(variance) + T(eps))
    if momentum:
        u = b = T(momentum) * b + u
    return p - T(lr) * u, v, mean, b


@rule(square("square_avg"), square("acc_delta"), rho=0.9, eps=1e-6, weight_decay=0.0)
def adadelta(p: Any, g: Any, v: Any, u: Any, *, lr: float, rho: float, eps: float) -> Any:
    """Adadelta."""
    T = p.dtype.type
    v = T(rho) * v + T(1 - rho) * g * g
    delta = np.sqrt(u + T(eps)) / np.sqrt(v + T(eps)) * g
    u = T(rho) * u + T(1 - rho) * delta * delta
    return p - T(lr) * delta, v, u


@rule(moment("exp_avg"), square("exp_inf"), betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
def adamax(p: Any, g: Any, m: Any, u: Any, *, t: int, lr: float, betas: tuple[float, float], eps: float) -> Any:
    """Adamax."""
    T, (beta1, beta2) = p.dtype.type, betas
    m = T(beta1) * m + T(1 - beta1) * g
    u = maximum(T(beta2) * u, abs(g) + T(eps))
    return p - T(lr / (1 - beta1**t)) * m / u, m, u


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
    p = p - (T(of_g) * g + T(of_m) * m) / (np.sqrt(v) * T(1 / math.sqrt(1 - beta2**t)) + T(eps))
    return p, m, v, mu_product


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
        return p - T(alpha) * m, m, v
    alpha *= math.sqrt(1 - power) * math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    return p - T(alpha) * m / (np.sqrt(v) + T(eps)), m, v


@rule(exact("ax"), numbers=("eta", "mu"), lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0.0)
def asgd(
    p: Any, g: Any, a: Any, eta: float, mu: float, *, t: int, lr: float, lambd: float, alpha: float, t0: float
) -> Any:
    """Averaged stochastic gradient descent."""
    T = p.dtype.type
    if t == 1:
        eta, mu = lr, 1.0
    p = p * T(1 - lambd * eta) - T(eta) * g
    a = p if mu == 1 else a + T(mu) * (p - a)
    return p, a, lr / (1 + lambd * lr * t) ** alpha, 1 / max(1.0, t - t0)


@rule(exact("prev"), exact("step_size"), etas=(0.5, 1.2), step_size_limits=(1e-6, 50.0), weight_decay=0.0)
def rprop(
    p: Any,
    g: Any,
    previous: Any,
    size: Any,
    *,
    t: int,
    lr: float,
    etas: tuple[float, float],
    step_size_limits: tuple[float, float],
) -> Any:
    """Resilient propagation, without weight backtracking."""
    T, (shrink, grow), (least, most) = p.dtype.type, etas, step_size_limits
    agreement = np.sign(g) * np.sign(previous)
    factor = where(agreement > 0, T(grow), where(agreement < 0, T(shrink), agreement + T(1)))
    size = clamp((flushed(np.full(size.shape, lr, size.dtype)) if t == 1 else size) * factor, T(least), T(most))
    previous = where(agreement < 0, T(0), g)
    return p - np.sign(previous) * size, previous, size


@rule(moment("exp_avg"), betas=(0.9, 0.99), weight_decay=0.0, decoupled_weight_decay=True)
def lion(p: Any, g: Any, m: Any, *, lr: float, betas: tuple[float, float]) -> Any:
    """Lion."""
    T, (beta1, beta2) = p.dtype.type, betas
    p = p - T(lr) * np.sign(T(beta1) * m + T(1 - beta1) * g)
    return p, T(beta2) * m + T(1 - beta2) * g


def _trust_ratio(p: Any, u: Any, coefficient: float = 1.0, eps: float = 0.0) -> float:
    """‖p‖/(‖u‖ + ε), or 1 where one of the norms is zero."""
    of_p, of_u = squared_norm(p), squared_norm(u)
    return 1.0 if of_p == 0 or of_u == 0 else coefficient * math.sqrt(of_p) / (math.sqrt(of_u) + eps)


@rule(
    moment("exp_avg"), square("exp_avg_sq"), betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, decoupled_weight_decay=None
)
def lamb(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    *,
    before: Any,
    t: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Any:
    """LAMB."""
    T, (beta1, beta2) = p.dtype.type, betas
    m = T(beta1) * m + T(1 - beta1) * g
    v = T(beta2) * v + T(1 - beta2) * g * g
    adam = T(1 / (1 - beta1**t)) * m / (np.sqrt(v) * T(1 / math.sqrt(1 - beta2**t)) + T(eps))
    ratio = _trust_ratio(before, adam + T(weight_decay) * before)
    return p - T(lr * ratio) * (adam + T(weight_decay) * p), m, v


@rule(
    moment("momentum_buffer"),
    momentum=0.9,
    weight_decay=0.0,
    trust_coefficient=1e-3,
    eps=0.0,
    nesterov=False,
    decoupled_weight_decay=None,
)
def lars(
    p: Any,
    g: Any,
    b: Any,
    *,
    before: Any,
    lr: float,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
    eps: float,
    nesterov: bool,
) -> Any:
    """LARS."""
    T = p.dtype.type
    ratio = _trust_ratio(before, g + T(weight_decay) * before, trust_coefficient, eps)
    u = T(lr * ratio) * (g + T(weight_decay) * p)
    b = T(momentum) * b + u
    return p - (u + T(momentum) * b if nesterov else b), b


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
    p = p - u / (np.sqrt(n) * T(1 / math.sqrt(1 - beta3**t)) + T(eps))
    return p * T(1 / (1 + lr * weight_decay)), m, v, n, -g


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
    u = u / (np.sqrt(v) * T(1 / math.sqrt(1 - beta2**t)) + T(eps))
    return p - T(lr) * (u + T(weight_decay) * p), fast, slow, v


def _averaged(
    y: Any,
    z: Any,
    u: Any,
    weight_sum: float,
    lr_max: float,
    t: int,
    lr: float,
    beta: float,
    warmup_steps: int,
    r: float,
    weight_lr_power: float,
) -> tuple[Any, Any, float, float]:
    """y, z, weight_sum and lr_max after a step along u; the average of all z has the weights tʳ·lr_maxᵖ."""
    T = y.dtype.type
    lr = lr * (t / warmup_steps) if t < warmup_steps else lr
    if t == 1:
        z, weight_sum, lr_max = y, 0.0, 0.0
    lr_max = max(lr, lr_max)
    weight = float(t) ** r * lr_max**weight_lr_power
    weight_sum += weight
    c = weight / weight_sum if weight_sum else 0.0
    return y + T(c) * (z - y) + T(lr * (beta * (1 - c) - 1)) * u, z - T(lr) * u, weight_sum, lr_max


@rule(
    exact("z"),
    numbers=("weight_sum", "lr_max"),
    momentum=0.9,
    weight_decay=0.0,
    warmup_steps=0,
    r=0.0,
    weight_lr_power=2.0,
)
def schedule_free_sgd(
    y: Any,
    g: Any,
    z: Any,
    weight_sum: float,
    lr_max: float,
    *,
    t: int,
    lr: float,
    momentum: float,
    warmup_steps: int,
    r: float,
    weight_lr_power: float,
) -> Any:
    """Schedule-free SGD."""
    return _averaged(y, z, g, weight_sum, lr_max, t, lr, momentum, warmup_steps, r, weight_lr_power)


@rule(
    exact("z"),
    square("exp_avg_sq"),
    numbers=("weight_sum", "lr_max"),
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    warmup_steps=0,
    r=0.0,
    weight_lr_power=2.0,
    decoupled_weight_decay=None,
)
def schedule_free_adamw(
    y: Any,
    g: Any,
    z: Any,
    v: Any,
    weight_sum: float,
    lr_max: float,
    *,
    t: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    warmup_steps: int,
    r: float,
    weight_lr_power: float,
) -> Any:
    """Schedule-free AdamW."""
    T, (beta1, beta2) = y.dtype.type, betas
    v = T(beta2) * v + T(1 - beta2) * g * g
    u = g / (np.sqrt(v) * T(1 / math.sqrt(1 - beta2**t)) + T(eps)) + T(weight_decay) * y
    y, z, *numbers = _averaged(y, z, u, weight_sum, lr_max, t, lr, beta1, warmup_steps, r, weight_lr_power)
    return y, z, v, *numbers


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
    """Adafactor, whose second moment of a matrix is a row times a column.

    Those of matrices are ``row_vars``, of shape (..., rows, 1), and ``col_vars``, (..., 1, columns), with None in
    ``variances``; of vectors and scalars it is the other way round.
    """
    T, eps2 = p.dtype.type, eps[1]
    eps1 = float(np.finfo(p.dtype).eps) if eps[0] is None else eps[0]
    fresh, kept = T(t**beta2_decay), T(1 - t**beta2_decay)
    if p.size == 0:
        return p, row_var, col_var, variance
    if p.ndim < 2:
        v = variance = kept * variance + fresh * g * g
    else:
        row_mean, col_mean = _mean_squares(g)
        row_var, col_var = kept * row_var + fresh * row_mean, kept * col_var + fresh * col_mean
        rows = row_var.to(np.float64)
        mean = maximum(in_order(np.moveaxis(rows, -2, 0)) / np.float64(p.shape[-2]), np.float64(eps1))
        # Divided by infinity the other rows would have a second moment of 0, and their steps would be huge.
        mean = where(np.isinf(mean), np.float64(np.nan), mean)
        v = (rows / mean[..., None, :]).to(p.dtype) * col_var
    u = g / np.sqrt(maximum(v, T(eps1 * eps1)))
    root = math.sqrt(p.size)
    rate = max(eps2, math.sqrt(squared_norm(before)) / root) * min(lr, 1 / math.sqrt(t))
    return p - T(rate / max(1.0, math.sqrt(squared_norm(u)) / (root * d))) * u, row_var, col_var, variance


def _orthogonalized(u: Any, coefficients: tuple[float, float, float], eps: float, steps: int) -> Any:
    """U Vᵀ of u = U S Vᵀ, roughly: a, b and c of the polynomial bring singular values to about 1.  Plain NumPy."""
    T, u = u.dtype.type, np.asarray(u)
    a, b, c = map(T, coefficients)
    x = u * T(1 / max(math.sqrt(squared_norm(u)), eps))
    tall = len(x) > x.shape[1]
    if tall:
        x = np.ascontiguousarray(x.T)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return np.ascontiguousarray(x.T) if tall else x


@rule(
    moment("momentum_buffer"),
    weight_decay=0.1,
    momentum=0.95,
    nesterov=True,
    ns_coefficients=(3.4445, -4.775, 2.0315),
    eps=1e-7,
    ns_steps=5,
    adjust_lr_fn=None,
    decoupled_weight_decay=True,
)
def muon(
    p: Any,
    g: Any,
    b: Any,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    ns_coefficients: tuple[float, float, float],
    eps: float,
    ns_steps: int,
    adjust_lr_fn: str | None,
) -> Any:
    """Muon."""
    T, (rows, columns) = p.dtype.type, p.shape
    b = T(momentum) * b + T(1 - momentum) * g
    u = T(1 - momentum) * g + T(momentum) * b if nesterov else b
    x = flushed(_orthogonalized(u, ns_coefficients, eps, ns_steps))
    if adjust_lr_fn == "match_rms_adamw":
        factor = 0.2 * math.sqrt(max(rows, columns))
    else:
        factor = math.sqrt(max(1.0, rows / columns)) if columns else 1.0
    return p - T(lr * factor) * x, b
