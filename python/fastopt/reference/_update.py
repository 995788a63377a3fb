"""The driver of the kernels in NumPy: the parts of a step that are the same for every update rule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from inspect import Parameter
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ._arithmetic import flushed
from ._formats import is_half, nearest, read, read_weights, thresholds, write, write_weights
from ._random import normals
from ._sparse import Gradient, blocks_of, gradient_of, zero
from ._sums import fold, in_order, in_tiles

Update: TypeAlias = Callable[..., tuple[float | None, bool]]

CHUNK = 1 << 14  # number of elements in one partial sum

# The hyperparameters that every function has beside its own, in this order.
COMMON: dict[str, Any] = dict(
    maximize=False,
    decoupled_weight_decay=False,
    fixed_decay=False,
    l1=0.0,
    proximal_l1=False,
    l2_init=0.0,
    noise=0.0,
    temperature=0.0,
    seed=0,
    ema_decay=None,
    ema_warmup=False,
    swa_start=None,
    swa_freq=1,
    weights="stochastic",
    moments=None,
    moment_rounding="stochastic",
)
RESTS = {"master": "master_params", "kahan": "compensations", "correction": "corrections"}
COMPANIONS: dict[str, Any] = dict.fromkeys([*RESTS.values(), "initial_params", "ema_params"])
STEP: dict[str, Any] = dict(
    grad_scale=1.0,
    clip_norm=None,
    clip_value=None,
    clip_param_norm=None,
    clip_adaptive=None,
    skip_nonfinite=False,
    zero_grads=False,
)


# Operations for formulas


def where(condition: Any, a: Any, b: Any) -> Any:
    """Elements of ``a`` or ``b``, with their bits."""
    return flushed(np.where(condition, a, b))


def maximum(a: Any, b: Any) -> Any:
    """The larger of two; NaN if one of them is."""
    return where((a >= b) | (a != a), a, b)


def clamp(x: Any, low: Any, high: Any) -> Any:
    """x, but at least ``low`` and at most ``high``; NaN stays NaN."""
    zero = flushed(x.dtype.type(0))
    low, high = zero + low, zero + high
    return where(x < low, low, where(x > high, high, x))


def lane_sums(x: Any) -> Any:
    """Σ over the last axis: number i goes to lane i mod 64; lanes add one number after the other."""
    return fold(in_order(in_tiles(x)))


def dot(a: Any, b: Any) -> Any:
    """Σ a·b over the last axis, in float64, chunk by chunk."""
    products = a.to(np.float64) * b.to(np.float64)
    chunks = [lane_sums(products[..., at : at + CHUNK]) for at in range(0, a.shape[-1], CHUNK)]
    return in_order(np.reshape(chunks, (-1, *a.shape[:-1])))


def squared_norm(x: Any) -> float:
    """Σ x² of a whole tensor."""
    x = flushed(x).ravel()
    return float(dot(x, x))


# The driver


def _around(o: dict[str, Any], t: int) -> SimpleNamespace:
    """The numbers of a step, in double, from the common hyperparameters."""
    lr, weight_decay, decoupled = o["lr"], o["weight_decay"], bool(o["decoupled_weight_decay"])
    own = o["decoupled_weight_decay"] is None
    per_step = 1.0 if o["fixed_decay"] else lr
    noise, average = o["noise"], 0.0
    if o["temperature"] and lr:
        noise = math.hypot(noise, math.sqrt(2 * o["temperature"] / lr))
    if o["ema_decay"] is not None:
        average = 1 - (min(o["ema_decay"], (1 + t) / (10 + t)) if o["ema_warmup"] else o["ema_decay"])
    if o["swa_start"] is not None and t >= o["swa_start"] and (t - o["swa_start"]) % o["swa_freq"] == 0:
        average = 1 / ((t - o["swa_start"]) / o["swa_freq"] + 1)
    return SimpleNamespace(
        own_decay=weight_decay if own else 0.0,
        l2=0.0 if own or decoupled else weight_decay,  # g ← g + l2·p
        l1=0.0 if o["proximal_l1"] else o["l1"],  # g ← g + l1·sign(p)
        l2_init=0.0 if decoupled else o["l2_init"],  # g ← g + l2_init·(p − p₀)
        noise=noise,  # g ← g + noise·N(0, 1)
        decay=1.0 - per_step * weight_decay if decoupled else 1.0,  # p ← decay·p before the rule's own update
        pull=per_step * o["l2_init"] if decoupled else 0.0,  # p ← p + pull·(p₀ − p) after it
        threshold=lr * o["l1"] if o["proximal_l1"] == "lr" else 0.0,  # |p| ← max(|p| − threshold, 0)
        proximal=o["l1"] if o["proximal_l1"] is True else 0.0,  # |p| ← max(|p| − proximal·rate, 0)
        average=average,  # a ← a + average·(p − a)
    )


def clip_factor(most: float, norm: float) -> float:
    """The factor that limits a norm to ``most``; NaN stays NaN."""
    ratio = most / (norm + 1e-6)
    return 1.0 if ratio > 1 else ratio


def _unit_factors(p: Any, g: Any, clip: float, grad_scale: float) -> Any:
    """The factors that limit the norm of each unit's gradient to ``clip`` times that of the unit.

    Brock et al. 2021, arXiv:2102.06171, section 4.  A unit is the part with one index of the first axis; a vector is one unit.
    """
    shape = (len(p), *(1,) * (p.ndim - 1)) if p.ndim > 1 else (1,) * p.ndim
    squares = [dot(x, x) for x in (g.reshape(math.prod(shape), -1), p.reshape(math.prod(shape), -1))]
    factors = []
    for of_g, of_p in zip(*squares, strict=True):
        norm, most = math.sqrt(of_g) / abs(grad_scale), clip * max(math.sqrt(of_p), 1e-3)
        factors.append(1.0 if norm < most else most / max(norm, 1e-6))
    return flushed(np.array(factors)).to(p.dtype).reshape(shape)


def _scaled(g: Any, p: Any, o: dict[str, Any], norm: Any) -> Any:
    """The gradient divided by grad_scale, clipped, and negated for ``maximize``."""
    T, grad_scale = p.dtype.type, o["grad_scale"]
    scale = 1 / grad_scale
    if o["clip_norm"] is not None and o["clip_norm"] != math.inf:
        scale *= clip_factor(o["clip_norm"], norm)
    elif o["clip_param_norm"] is not None:
        scale *= clip_factor(o["clip_param_norm"], math.sqrt(squared_norm(g)) / abs(grad_scale))
    scaled = g * T(-scale if o["maximize"] else scale)
    if o["clip_adaptive"] is not None and p.size:
        scaled = scaled * _unit_factors(p, g, o["clip_adaptive"], grad_scale)
    if o["clip_value"] is not None:
        scaled = clamp(scaled, -T(o["clip_value"]), T(o["clip_value"]))
    return scaled


def _shaped(g: Any, p: Any, initial: Any, around: SimpleNamespace, noise: Callable[[], Any]) -> Any:
    """The gradient that the rule gets, after noise and regularization."""
    T = p.dtype.type
    if around.noise:
        g = g + T(around.noise) * noise().astype(p.dtype)
    if _counts(around.l2, T):
        g = g + T(around.l2) * p
    if around.l2_init:
        g = g + T(around.l2_init) * (p - initial)
    if _counts(around.l1, T):
        g = g + T(around.l1) * np.sign(p)
    return g


def _counts(factor: float, T: Any) -> bool:
    """Whether a factor is not 0 in this dtype, where subnormal numbers are."""
    return bool(abs(T(factor)) >= np.finfo(T).tiny)


def _normals(stream: tuple[int, int, int], shape: tuple[int, ...], rows: Any) -> Any:
    """The noise of a part of a parameter of this shape."""
    return normals(*stream, math.prod(shape)).reshape(shape)[rows]


def geometric(mu: float, n: int) -> float:
    """1 + μ + … + μⁿ⁻¹: what a momentum has added up after n equal gradients."""
    return float(n) if mu == 1 else (1 - mu**n) / (1 - mu)


def _shrunk(p: Any, threshold: Any) -> Any:
    """|p| ← max(|p| − threshold, 0)"""
    return where(p > threshold, p - threshold, where(p < -threshold, p + threshold, p - p))


def _finished(p: Any, rate: Any, initial: Any, around: SimpleNamespace) -> Any:
    """The parameter after the operations that follow the rule: the pull towards p₀ and proximal L1."""
    T = p.dtype.type
    if around.pull:
        p = p + T(around.pull) * (initial - p)
    threshold = around.threshold
    if around.proximal and isinstance(rate, float):  # for all elements
        threshold = around.proximal * rate
    if threshold:
        p = _shrunk(p, T(threshold))
    elif around.proximal and not isinstance(rate, float):
        p = _shrunk(p, T(around.proximal) * rate)
    return p


class State(NamedTuple):
    """An array that a rule keeps per parameter; its kind decides which formats it may have."""

    name: str
    kind: str
    unless: str = ""

    def kind_in(self, o: dict[str, Any]) -> str:
        """The kind of the array with these hyperparameters."""
        return "exact" if o.get(self.unless) else self.kind


def moment(name: str) -> State:
    """A state that is a running mean of gradients, or like one."""
    return State(name, "moment")


def square(name: str, unless: str = "") -> State:
    """A state that is a running mean of numbers that are never negative; with the flag ``unless`` it must be exact."""
    return State(name, "square", unless)


def exact(name: str) -> State:
    """A state that must have the precision of the computation."""
    return State(name, "exact")


def rule(
    *states: State,
    optional: tuple[State, ...] = (),
    numbers: tuple[str, ...] = (),
    name: str | None = None,
    decoupled_weight_decay: bool | None = False,
    **own: Any,
) -> Callable[[Callable[..., Any]], Update]:
    """Makes a function that updates lists of parameters from a formula.

    The formula takes a parameter after decay, its gradient after scaling, clipping and regularization, its states and its
    numbers, and returns the new parameter, states and numbers, and the rate at which it takes a gradient: with the same
    gradient g in all steps, this step is −rate·g (None for a rule without one).  Keyword arguments are those that it names of its own
    hyperparameters, lr, t (the step that is being taken) and ``before`` (the parameter before its decay).

    Args:
        states: Its state arrays per parameter.
        optional: The states that only some variants need, in the kernels' order; None for the others.
        numbers: The names of its float64 numbers per parameter.
        name: The name of the function, if it is not the formula's.
        decoupled_weight_decay: The default; None is the formula's own decay, whose ``weight_decay`` is 0 otherwise.
        own: Its hyperparameters and their defaults.
    """
    kept = {f"{state.name}s": state for state in (*states, *optional)}
    arrays = list(kept)
    scales = {array: f"{state.name}_scales" for array, state in kept.items() if state.kind != "exact"}
    scalars = [f"{number}s" for number in numbers]
    keywords = {
        **own,
        **COMMON,
        "decoupled_weight_decay": decoupled_weight_decay,
        **dict.fromkeys(scales.values()),
        **COMPANIONS,
        **STEP,
    }
    signature = inspect.Signature(
        [
            *(Parameter(x, Parameter.POSITIONAL_OR_KEYWORD) for x in ("params", "grads", *arrays[: len(states)])),
            *(Parameter(x, Parameter.POSITIONAL_OR_KEYWORD, default=None) for x in arrays[len(states) :]),
            *(Parameter(x, Parameter.POSITIONAL_OR_KEYWORD) for x in scalars),
            *(Parameter(x, Parameter.KEYWORD_ONLY) for x in ("step", "lr")),
            *(Parameter(x, Parameter.KEYWORD_ONLY, default=value) for x, value in keywords.items()),
        ]
    )

    def make(formula: Callable[..., Any]) -> Update:
        wanted = [x.name for x in inspect.signature(formula).parameters.values() if x.kind is x.KEYWORD_ONLY]

        def update_one(o: dict[str, Any], i: int, gradient: Gradient, norm: Any) -> None:
            def of(name: str) -> Any:
                return None if o.get(name) is None else o[name][i]

            param, rest, rows = o["params"][i], of(RESTS.get(o["weights"], "")), gradient.rows
            present = {name: state.kind_in(o) for name, state in kept.items() if of(name) is not None}
            state = {
                name: flushed(read(of(name), kind, of(scales.get(name, "")))[rows]) for name, kind in present.items()
            }
            weights = read_weights(param, o["weights"], rest)
            p, g = flushed(weights[rows]), flushed(gradient.values)
            initial, average = of("initial_params"), of("ema_params")
            initial = None if initial is None else initial[rows]

            t = int(np.broadcast_to(o["step"], len(o["params"]))[i])
            T, around, stream = p.dtype.type, _around(o, t), (o["seed"], t, i)
            noise = partial(_normals, stream, param.shape, rows)
            g = _shaped(_scaled(g, p, o, norm), p, initial, around, noise)
            given = [*(state.get(name) for name in arrays), *(float(o[x][i]) for x in scalars)]
            values = {**o, "t": t, "before": p, "weight_decay": around.own_decay}
            new_p, *new, rate = formula(p * T(around.decay), g, *given, **{x: values[x] for x in wanted})
            new_p = _finished(new_p, rate, initial, around)
            if around.average:
                average[rows] = average[rows] + T(around.average) * (new_p - average[rows])

            if is_half(param):
                near, more, whole = param.copy(), np.copy(rest), weights.copy()
                whole[rows] = new_p
                write_weights(whole, near, o["weights"], more, thresholds(stream, param.size, 4))
                param[rows] = near[rows]
                if rest is not None:
                    rest[rows] = more[rows]
            else:
                param[rows] = new_p
            new_state = dict(zip((*arrays, *scalars), new, strict=True))
            for number, (name, kind) in enumerate(present.items()):
                random = o["moment_rounding"] == "stochastic"
                rounding = thresholds(stream, param.size, number) if random else nearest
                array, scale = of(name), of(scales.get(name, ""))
                whole, stored, exponents = read(array, kind, scale).copy(), array.copy(), np.copy(scale)
                whole[rows] = new_state[name]
                write(whole, stored, kind, exponents, rounding)
                array[rows] = stored[rows]
                if scale is not None:
                    blocks = blocks_of(rows, param.shape)
                    scale[blocks] = exponents[blocks]
            for name in scalars:
                o[name][i][...] = new_state[name]

        def update(*args: Any, **kwargs: Any) -> tuple[float | None, bool]:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{public.__name__}() {error}") from None
            bound.apply_defaults()
            o = bound.arguments
            given = {i: g for i, g in enumerate(o["grads"]) if g is not None}
            grads = {i: gradient_of(g, o["params"][i]) for i, g in given.items()}
            norm = None
            with np.errstate(all="ignore"):
                if o["clip_norm"] is not None or o["skip_nonfinite"]:
                    squares = np.array([squared_norm(g.values) for g in grads.values()])
                    norm = math.sqrt(in_order(squares)) / abs(o["grad_scale"])
                skipped = o["skip_nonfinite"] and not all(np.isfinite(g.values).all() for g in grads.values())
                for i, gradient in grads.items():
                    if not skipped:
                        update_one(o, i, gradient, norm)
                    if o["zero_grads"]:
                        zero(given[i])
            return norm, skipped

        public: Any = update
        public.states = tuple(kept.values())
        public.__name__ = public.__qualname__ = name or formula.__name__
        public.__module__ = formula.__module__
        public.__doc__ = f"{formula.__doc__}\n\nSee :func:`fastopt.functional.{public.__name__}`."
        public.__signature__ = signature
        return update

    return make
