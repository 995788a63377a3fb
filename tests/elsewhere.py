"""What Keras, optax and scikit-learn compute, in NumPy: written from their sources and documentation, float64, one array.

An optimizer is a function that takes a learning rate, its own arguments and returns a step: p, g, lr -> the new p.  A schedule
returns a function of the step, counted from 0; a layer one of x; a loss one of prediction and target.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Step = Callable[[Array, Array, float], Array]


def moments(*decays: float) -> Callable[..., tuple[int, list[Any]]]:
    """Counts, and keeps a moving average from 0 for each decay."""
    kept: list[Any] = [0, [0.0] * len(decays)]

    def add(*values: Array) -> tuple[int, list[Any]]:
        kept[0] += 1
        kept[1] = [b * old + (1 - b) * new for b, old, new in zip(decays, kept[1], values, strict=True)]
        return kept[0], kept[1]

    return add


def norm(a: Array) -> float:
    return float(np.sqrt(np.sum(a * a)))


# Keras: the decay is decoupled and comes first


def keras(update: Callable[..., Step]) -> Callable[..., Any]:
    """Keras's optimizer from its formula: with a learning rate and weight decay."""

    def make(learning_rate: float = 0.001, weight_decay: float = 0.0, **arguments: Any) -> Any:
        step = update(**arguments)
        return SimpleNamespace(lr=learning_rate, step=lambda p, g, lr: step(p * (1 - weight_decay * lr), g, lr))

    return make


@keras
def keras_sgd(momentum: float = 0.0, nesterov: bool = False) -> Step:
    v: Any = [0.0]

    def step(p: Array, g: Array, lr: float) -> Array:
        v[0] = momentum * v[0] - lr * g
        return p + (momentum * v[0] - lr * g if nesterov else v[0])

    return step


@keras
def keras_adam(beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7, amsgrad: bool = False) -> Step:
    add, most = moments(beta_1, beta_2), [np.zeros(())]

    def step(p: Array, g: Array, lr: float) -> Array:
        t, (m, v) = add(g, g * g)
        most[0] = np.maximum(most[0], v) if amsgrad else v
        return p - lr * np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(most[0]) + epsilon)

    return step


@keras
def keras_nadam(beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7) -> Step:
    add, product = moments(beta_1, beta_2), [1.0]

    def step(p: Array, g: Array, lr: float) -> Array:
        t, (m, v) = add(g, g * g)
        u, after = (beta_1 * (1 - 0.5 * 0.96**k) for k in (t, t + 1))
        product[0] *= u
        ahead = after * m / (1 - product[0] * after) + (1 - u) * g / (1 - product[0])
        return p - lr * ahead / (np.sqrt(v / (1 - beta_2**t)) + epsilon)

    return step


@keras
def keras_adamax(beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7) -> Step:
    add, u = moments(beta_1), [np.zeros(())]

    def step(p: Array, g: Array, lr: float) -> Array:
        t, (m,) = add(g)
        u[0] = np.maximum(beta_2 * u[0], np.abs(g))
        return p - lr * m / ((1 - beta_1**t) * (u[0] + epsilon))

    return step


@keras
def keras_adagrad(initial_accumulator_value: float = 0.1, epsilon: float = 1e-7) -> Step:
    s: Any = [initial_accumulator_value]

    def step(p: Array, g: Array, lr: float) -> Array:
        s[0] = s[0] + g * g
        return p - lr * g / np.sqrt(s[0] + epsilon)

    return step


@keras
def keras_adadelta(rho: float = 0.95, epsilon: float = 1e-7) -> Step:
    squares, updates, u = moments(rho), moments(rho), [np.zeros(())]

    def step(p: Array, g: Array, lr: float) -> Array:
        delta = np.sqrt(u[0] + epsilon) / np.sqrt(squares(g * g)[1][0] + epsilon) * g
        u[0] = updates(delta * delta)[1][0]
        return p - lr * delta

    return step


@keras
def keras_rmsprop(rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7, centered: bool = False) -> Step:
    add, b = moments(rho, rho), [np.zeros(())]

    def step(p: Array, g: Array, lr: float) -> Array:
        mean, square = add(g, g * g)[1]
        b[0] = momentum * b[0] + lr * g / np.sqrt(square - centered * mean * mean + epsilon)
        return p - b[0]

    return step


@keras
def keras_lion(beta_1: float = 0.9, beta_2: float = 0.99) -> Step:
    m = [np.zeros(())]

    def step(p: Array, g: Array, lr: float) -> Array:
        direction = np.sign(beta_1 * m[0] + (1 - beta_1) * g)
        m[0] = beta_2 * m[0] + (1 - beta_2) * g
        return p - lr * direction

    return step


@keras
def keras_lamb(beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7) -> Step:
    add = moments(beta_1, beta_2)

    def step(p: Array, g: Array, lr: float) -> Array:
        t, (m, v) = add(g, g * g)
        update = m / (1 - beta_1**t) / (np.sqrt(v / (1 - beta_2**t)) + epsilon)
        return p - lr * norm(p) / norm(update) * update

    return step


@keras
def keras_adafactor(
    beta_2_decay: float = -0.8, epsilon_1: float = 1e-30, epsilon_2: float = 1e-3, clip_threshold: float = 1.0
) -> Step:
    kept: list[Any] = [0, 0.0, 0.0]

    def rms(a: Array) -> float:
        return float(np.sqrt(np.mean(a * a)))

    def step(p: Array, g: Array, lr: float) -> Array:
        kept[0] += 1
        keep, square = 1 - kept[0] ** beta_2_decay, g * g + epsilon_1
        kept[1] = keep * kept[1] + (1 - keep) * square.mean(-1, keepdims=True)
        kept[2] = keep * kept[2] + (1 - keep) * square.mean(-2, keepdims=True)
        u = g / np.sqrt(kept[1] / kept[1].mean(-2, keepdims=True) * kept[2])
        return p - max(epsilon_2, rms(p)) * min(lr, 1 / math.sqrt(kept[0])) * u / max(1.0, rms(u) / clip_threshold)

    return step


KERAS: dict[str, Any] = dict(
    SGD=keras_sgd, Adam=keras_adam, AdamW=keras_adam, Nadam=keras_nadam, Adamax=keras_adamax, Adagrad=keras_adagrad,
    Adadelta=keras_adadelta, RMSprop=keras_rmsprop, Lion=keras_lion, Lamb=keras_lamb, Adafactor=keras_adafactor,
)  # fmt: skip


# optax: a chain turns the gradient into an update, which apply_updates adds


def optax(direction: Callable[..., Any]) -> Callable[..., Any]:
    """optax's alias from the direction that is multiplied by the learning rate; its decay is added to it or to the gradient."""

    def make(
        learning_rate: float,
        weight_decay: float = 0.0,
        momentum: float | None = None,
        nesterov: bool = False,
        **rest: Any,
    ) -> Any:
        coupled = direction in (optax_lars, optax_adadelta)
        own = dict(nesterov=nesterov) if direction is optax_adam else {}
        of, trace = direction(**own, **rest), [np.zeros(())]

        def step(p: Array, g: Array, lr: float) -> Array:
            update = of(p, g + weight_decay * p if coupled else g) + (0.0 if coupled else weight_decay * p)
            if direction is optax_lamb:
                update = update * norm(p) / norm(update)
            if direction is optax_sgd:  # the trace comes before the learning rate
                trace[0] = update + (momentum or 0.0) * trace[0]
                return p - lr * (update + (momentum or 0.0) * trace[0] if nesterov else trace[0])
            trace[0] = lr * update + (momentum or 0.0) * trace[0]
            return p - (lr * update + (momentum or 0.0) * trace[0] if nesterov and not own else trace[0])

        return SimpleNamespace(lr=learning_rate, step=step)

    return make


def optax_sgd() -> Callable[..., Array]:
    return lambda p, g: g


def optax_adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, nesterov: bool = False, threshold: float | None = None
) -> Callable[..., Array]:
    add = moments(b1, b2)

    def direction(p: Array, g: Array) -> Array:
        t, (m, v) = add(g, g * g)
        ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t) if nesterov else m / (1 - b1**t)
        if threshold is not None:
            limit = 2 / (1 - b2) - 1
            ro = limit - 2 * t * b2**t / (1 - b2**t)
            if ro < threshold:
                return ahead
            ahead = ahead * np.sqrt((ro - 4) * (ro - 2) * limit / ((limit - 4) * (limit - 2) * ro))
        return ahead / (np.sqrt(v / (1 - b2**t)) + eps)

    return direction


def optax_lamb(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6) -> Callable[..., Array]:
    return optax_adam(b1, b2, eps)


def optax_radam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, threshold: float = 5.0) -> Callable[..., Array]:
    return optax_adam(b1, b2, eps, threshold=threshold)


def optax_adamax(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Callable[..., Array]:
    add, u = moments(b1), [np.zeros(())]

    def direction(p: Array, g: Array) -> Array:
        t, (m,) = add(g)
        u[0] = np.maximum(np.abs(g) + eps, b2 * u[0])
        return m / (1 - b1**t) / u[0]

    return direction


def optax_adagrad(initial_accumulator_value: float = 0.1, eps: float = 1e-7) -> Callable[..., Array]:
    s: Any = [initial_accumulator_value]

    def direction(p: Array, g: Array) -> Array:
        s[0] = s[0] + g * g
        return g / np.sqrt(s[0] + eps)

    return direction


def optax_adadelta(rho: float = 0.9, eps: float = 1e-6) -> Callable[..., Array]:
    step = keras_adadelta(rho=rho, epsilon=eps).step
    return lambda p, g: -step(np.zeros_like(p), g, 1.0)


def optax_rmsprop(
    decay: float = 0.9, eps: float = 1e-8, eps_in_sqrt: bool = True, centered: bool = False
) -> Callable[..., Array]:
    add = moments(decay, decay)

    def direction(p: Array, g: Array) -> Array:
        mean, square = add(g, g * g)[1]
        inside = square - centered * mean * mean
        return g / (np.sqrt(inside + eps) if eps_in_sqrt else np.sqrt(inside) + eps)

    return direction


def optax_lion(b1: float = 0.9, b2: float = 0.99) -> Callable[..., Array]:
    step = keras_lion(beta_1=b1, beta_2=b2).step
    return lambda p, g: -step(np.zeros_like(p), g, 1.0)


def optax_sign_sgd() -> Callable[..., Array]:
    return lambda p, g: np.sign(g)


def optax_lars(trust_coefficient: float = 0.001, eps: float = 0.0) -> Callable[..., Array]:
    return lambda p, u: u * trust_coefficient * norm(p) / (norm(u) + eps)


OPTAX: dict[str, Any] = {
    name: optax(globals()[f"optax_{name}"])
    for name in ("sgd", "adam", "lamb", "radam", "adamax", "adagrad", "adadelta", "rmsprop", "lion", "sign_sgd", "lars")
}
OPTAX["nadam"] = lambda learning_rate, **rest: OPTAX["adam"](learning_rate, nesterov=True, **rest)
OPTAX |= dict(
    adamw=lambda learning_rate, weight_decay=1e-4, **rest: OPTAX["adam"](learning_rate, weight_decay, **rest),
    nadamw=lambda learning_rate, weight_decay=1e-4, **rest: OPTAX["nadam"](
        learning_rate, weight_decay=weight_decay, **rest
    ),
    adamaxw=lambda learning_rate, weight_decay=1e-4, **rest: OPTAX["adamax"](learning_rate, weight_decay, **rest),
)


# Clipping: a function of a list of gradients


def by_global_norm(most: float) -> Callable[[list[Array]], list[Array]]:
    def clip(grads: list[Array]) -> list[Array]:
        total = math.sqrt(sum(norm(g) ** 2 for g in grads))
        return [g * min(1.0, most / total) for g in grads]

    return clip


def by_each_norm(most: float) -> Callable[[list[Array]], list[Array]]:
    return lambda grads: [g * min(1.0, most / norm(g)) for g in grads]


def by_value(most: float) -> Callable[[list[Array]], list[Array]]:
    return lambda grads: [np.clip(g, -most, most) for g in grads]


def by_unit(most: float, axis: int) -> Callable[..., list[Array]]:
    def of(a: Array) -> Array:
        return np.sqrt((a * a).sum(axis, keepdims=True))

    return lambda grads, params: [
        g * np.minimum(1, most * np.maximum(of(p), 1e-3) / of(g)) for g, p in zip(grads, params, strict=True)
    ]


# Schedules: functions of the number of steps already taken


def exponential(lr: float, steps: float, rate: float, staircase: bool = False) -> Callable[[int], float]:
    return lambda t: lr * rate ** (t // steps if staircase else t / steps)


def cosine(lr: float, steps: int, alpha: float = 0.0) -> Callable[[int], float]:
    return lambda t: lr * ((1 - alpha) * 0.5 * (1 + math.cos(math.pi * min(t, steps) / steps)) + alpha)


def polynomial(lr: float, end: float, power: float, steps: int) -> Callable[[int], float]:
    return lambda t: (lr - end) * (1 - min(t, steps) / steps) ** power + end


def warm(first: float, peak: float, steps: int, after: Callable[[int], float]) -> Callable[[int], float]:
    return lambda t: first + (peak - first) * t / steps if t < steps else after(t - steps)


def restarts(
    lr: float, first: int, t_mul: float = 2.0, m_mul: float = 1.0, alpha: float = 0.0
) -> Callable[[int], float]:
    assert m_mul == 1.0

    def at(t: float, length: float) -> float:
        return cosine(lr, 1, alpha)(t / length) if t < length else at(t - length, length * t_mul)  # type: ignore[arg-type]

    return lambda t: at(t, first)


SCHEDULES: dict[str, Any] = dict(
    # Keras
    ExponentialDecay=lambda initial_learning_rate, decay_steps, decay_rate, staircase=False: exponential(
        initial_learning_rate, decay_steps, decay_rate, staircase
    ),
    CosineDecay=lambda initial_learning_rate, decay_steps, alpha=0.0, warmup_target=None, warmup_steps=0: (
        cosine(initial_learning_rate, decay_steps, alpha)
        if warmup_target is None
        else warm(initial_learning_rate, warmup_target, warmup_steps, cosine(warmup_target, decay_steps, alpha))
    ),
    CosineDecayRestarts=lambda initial_learning_rate, first_decay_steps, **rest: restarts(
        initial_learning_rate, first_decay_steps, **rest
    ),
    PolynomialDecay=lambda initial_learning_rate, decay_steps, end_learning_rate=1e-4, power=1.0: polynomial(
        initial_learning_rate, end_learning_rate, power, decay_steps
    ),
    InverseTimeDecay=lambda initial_learning_rate, decay_steps, decay_rate: (
        lambda t: initial_learning_rate / (1 + decay_rate * t / decay_steps)
    ),
    PiecewiseConstantDecay=lambda boundaries, values: lambda t: values[sum(t > b for b in boundaries)],
    # optax
    constant_schedule=lambda value: lambda t: value,
    exponential_decay=lambda init_value, transition_steps, decay_rate, staircase=False: exponential(
        init_value, transition_steps, decay_rate, staircase
    ),
    cosine_decay_schedule=lambda init_value, decay_steps, alpha=0.0: cosine(init_value, decay_steps, alpha),
    linear_schedule=lambda init_value, end_value, transition_steps: polynomial(init_value, end_value, 1, transition_steps),
    polynomial_schedule=lambda init_value, end_value, power, transition_steps: polynomial(
        init_value, end_value, power, transition_steps
    ),
    piecewise_constant_schedule=lambda init_value, boundaries_and_scales: (
        lambda t: init_value * math.prod(f for b, f in boundaries_and_scales.items() if t >= b)
    ),
    warmup_constant_schedule=lambda init_value, peak_value, warmup_steps: warm(
        init_value, peak_value, warmup_steps, lambda t: peak_value
    ),
    warmup_cosine_decay_schedule=lambda init_value, peak_value, warmup_steps, decay_steps, end_value=0.0: warm(
        init_value, peak_value, warmup_steps, cosine(peak_value, decay_steps - warmup_steps, end_value / peak_value)
    ),
)  # fmt: skip


# Layers of Keras, with channels last, in training; running statistics are tested where they differ


def centred(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


LAYERS: dict[str, Any] = dict(
    BatchNormalization=lambda momentum=0.99, epsilon=1e-3: lambda x: centred(x, tuple(range(x.ndim - 1)), epsilon),
    LayerNormalization=lambda epsilon=1e-3: lambda x: centred(x, (-1,), epsilon),
    RMSNormalization=lambda epsilon=1e-6: lambda x: x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon),
    GroupNormalization=lambda groups=32, epsilon=1e-3: (
        lambda x: centred(x.reshape(*x.shape[:-1], groups, -1), (*range(1, x.ndim - 1), -1), epsilon).reshape(x.shape)
    ),
    UnitNormalization=lambda: lambda x: x / np.sqrt(np.maximum((x * x).sum(-1, keepdims=True), 1e-24)),
    ReLU=lambda: lambda x: np.maximum(x, 0),
    Flatten=lambda: lambda x: x.reshape(len(x), -1),
    MaxPooling2D=lambda pool_size: lambda x: blocks(x, pool_size).max((2, 4)),
    AveragePooling2D=lambda pool_size: lambda x: blocks(x, pool_size).mean((2, 4)),
)  # fmt: skip


def blocks(x: Array, size: int) -> Array:
    n, h, w, c = x.shape
    return x.reshape(n, h // size, size, w // size, size, c)


# Losses: of what the network gives and the target, as in their calls loss(y_true, y_pred) the other way round


def log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def sigmoid_loss(x: Array, y: Array) -> Array:
    return np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x)))


def smoothed(y: Array, share: float) -> Array:
    return y * (1 - share) + share / y.shape[-1]


def huber(x: Array, y: Array, delta: float) -> Array:
    a = np.abs(x - y)
    return np.where(a <= delta, 0.5 * a * a, delta * a - 0.5 * delta * delta)


LOSSES: dict[str, Any] = dict(
    # Keras: objects; its functions below have names in small letters and no reduction over the batch
    MeanSquaredError=lambda: lambda x, y: np.mean((x - y) ** 2),
    Huber=lambda delta=1.0: lambda x, y: np.mean(huber(x, y, delta)),
    BinaryCrossentropy=lambda from_logits: lambda x, y: np.mean(sigmoid_loss(x, y)),
    CategoricalCrossentropy=lambda from_logits, label_smoothing=0.0: (
        lambda x, y: -np.mean((smoothed(y, label_smoothing) * log_softmax(x)).sum(-1))
    ),
    SparseCategoricalCrossentropy=lambda from_logits: lambda x, y: -np.mean(log_softmax(x)[np.arange(len(x)), y]),
    # optax: functions, without a mean
    squared_error=lambda x, y: (x - y) ** 2,
    l2_loss=lambda x, y: 0.5 * (x - y) ** 2,
    huber_loss=huber,
    sigmoid_binary_cross_entropy=sigmoid_loss,
    softmax_cross_entropy=lambda x, y: -(y * log_softmax(x)).sum(-1),
    softmax_cross_entropy_with_integer_labels=lambda x, y: -log_softmax(x)[np.arange(len(x)), y],
    smooth_labels=smoothed,
)  # fmt: skip
