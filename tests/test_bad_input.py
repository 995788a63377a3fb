"""Bad input: an error that names the argument, before anything is written; and what looks bad but is legal.

The table of cases says which error a mistake is.  The generated calls make every kind of mistake in every argument of every
function and class, one at a time and several together.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import pytest
from numpy.random import Generator
from tables import NORMS, RULES, Array, Call, ordinary
from tools import differing

from fastopt import functional as F
from fastopt import nn, optim
from fastopt._rules import AROUND

Path: TypeAlias = tuple[Any, ...]  # the way to an argument: ("grads", 1)
Change: TypeAlias = Callable[["Invocation"], Any]  # what becomes of that argument
NAN, INF = math.nan, math.inf


# Good calls


@dataclass
class Invocation:
    """A good call that is about to be made."""

    call: Callable[..., Any]
    arguments: dict[str, Any]
    written: tuple[str, ...]  # the arguments whose arrays it writes
    bad: Mapping[str, Sequence[Any]]  # values that an argument must not have
    reach: Any = None  # what else it could change
    fixed: bool = True  # whether the arrays' shapes and dtypes follow from each other

    def __call__(self) -> Any:
        return self.call(**self.arguments)

    def get(self, path: Path) -> Any:
        value: Any = self.arguments
        for key in path:
            value = value[key]
        return value

    def set(self, path: Path, value: Any) -> None:
        *way, last = path
        holder = self.get(tuple(way))
        if isinstance(holder, tuple):
            self.set(tuple(way), (*holder[:last], value, *holder[last + 1 :]))
        else:
            holder[last] = value

    def arrays(self) -> dict[Path, Array]:
        """All arrays among the arguments."""

        def within(value: Any, path: Path) -> Iterator[tuple[Path, Array]]:
            if isinstance(value, np.ndarray):
                yield path, value
            elif isinstance(value, dict | list | tuple):
                for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                    yield from within(item, (*path, key))

        return dict(within(self.arguments, ()))


NO_NUMBER = ("0.1", None, [0.1], 1j, np.array([0.1, 0.2]), object)
NO_INTEGER = ("1", None, 1.5, NAN, np.ones(2))
NO_FLAG = ("no", None, 0.5, [])
NO_LIST = (None, 3, "ab", {}, {1, 2}, [], [None] * 3, np.ones((2, 5), np.float32))
NOT_POSITIVE = (NAN, INF, -INF, -1.0, 10**400, *NO_NUMBER)
NO_GROUP = (
    None,
    3,
    {},
    [np.ones(3, np.float32)],
    {"params": [], "lr": -1},
    {"params": [], "speed": 1},
    {"params": None},
)
NO_GRADS = (None, 3, "ab", {}, [], [None] * 3, np.ones((2, 5), np.float32))
NO_STEP = (0, -1, 2**53, 2**63, 2**70, [3], [1, 2, 3], [1, 0], [1, 1.5], [1, None], [1, 2**53], *NO_INTEGER)

# What hyperparameters must not be, where it is not what numbers of their kind must not be anyway.
BAD: dict[str, Sequence[Any]] = {
    **dict.fromkeys(("momentum", "rho"), (*NOT_POSITIVE, 1.1)),
    **dict.fromkeys(("dampening", "beta2_decay"), (NAN, INF, 10**400, *NO_NUMBER)),
    **dict.fromkeys(("alpha_warmup", "beta3_warmup"), (-1, 1.5, "1", NAN, [1], 2**53)),
    "betas": (1.0, -0.1),
    "etas": (-1.0,),
    "step_sizes": (-1.0,),
    "d": (*NOT_POSITIVE, 0.0),
    "ns_steps": (*NO_INTEGER, -1, 100, 2**70),
    "adjust_lr_fn": ("x", 3, ["original"], b"original"),
    "decoupled_weight_decay": ("no", 0.5, []),  # None is some rules' own way
    "seed": (*NO_INTEGER, -1, 2**53, True),
    "ema_decay": (NAN, INF, -0.1, 1.1, "0.9", [0.9], np.array([0.1, 0.2])),
    "swa_start": (0, -1, 1.5, "1", 3),  # excludes ema_decay
    "swa_freq": (*NO_INTEGER, 0, -1),
    "weights": (None, "x", 3, ["master"], b"master", "bfloat16"),
    "moments": ("x", 3, ["8bit"], b"8bit", "float32"),
    "moment_rounding": (None, "x", 3, ["nearest"], b"nearest"),
    "grad_scale": (*NOT_POSITIVE, 0.0),
    "clip_norm": (NAN, INF, -1.0, 10**400, "1", [1.0], np.array([0.1, 0.2])),
    **dict.fromkeys(("clip_value", "clip_param_norm", "clip_adaptive"), (NAN, -1.0, "1", 1.0)),  # exclude clip_norm
}


def bad_values(name: str, good: Any) -> Sequence[Any]:
    """What an argument must not be that usually looks like ``good``."""
    if isinstance(good, tuple):
        wrong = (NAN, INF, "a", object, *BAD.get(name, ()))
        one_wrong = [(*good[:i], value, *good[i + 1 :]) for i in range(len(good)) for value in wrong]
        return [*one_wrong, good[:-1], (*good, 0.5), (), 0.9, None, "abc"[: len(good)]]
    if name in BAD:
        return BAD[name]
    if isinstance(good, bool):
        return NO_FLAG
    return (*NO_INTEGER, -1, 2**53) if isinstance(good, int) else NOT_POSITIVE


BAD_NORM: dict[str, Sequence[Any]] = {
    **dict.fromkeys(("x", "dy", "mean", "rstd"), (None,)),
    "eps": NOT_POSITIVE,
    "momentum": (NAN, -0.1, 1.1, 10**400, *NO_NUMBER),
    "training": NO_FLAG,
    "normalized_shape": ((), 0, -1, 5, (6, 5), (1, 6, 4), 10**30, [4, "a"], *NO_INTEGER),
    "channel_axis": (2, -3, 10**30, [1], *NO_INTEGER),
    "out": ([None] * 3, (), (None,), (None,) * 4, "out", 3, {}),
}
BAD_PASS: dict[str, Sequence[Any]] = {"x": (None,), "dy": (None,), "out": (3, "out", (None,))}

SURROUNDED = dict(weight_decay=0.1, l1=0.1, l2_init=0.1, ema_decay=0.9)
OPTIONS_OF_STEP = dict(
    grad_scale=2.0,
    clip_norm=1.0,
    clip_value=None,
    clip_param_norm=None,
    clip_adaptive=None,
    skip_nonfinite=False,
    zero_grads=False,
)


def busy(rule: str) -> dict[str, Any]:
    """Hyperparameters with the most state, and all flags of the rule that go with it."""
    options = RULES[rule].fullest | SURROUNDED | {"lr": 0.1}
    states = RULES[rule].states(options)
    for name, default in RULES[rule].own.items():
        more = options | {name: True}
        if isinstance(default, bool) and RULES[rule].accepts(more) and RULES[rule].states(more) == states:
            options = more
    return {**RULES[rule].optimizer([]).defaults, **options}


def arrays(rule: str = "sgd") -> list[Array]:
    return RULES[rule].arrays(np.random.default_rng(1), [(3, 4), (5,)], "float32")


def update(rule: str) -> Invocation:
    function = getattr(F, rule)
    options, params = busy(rule), arrays(rule)
    states = RULES[rule].new_states(options, params)
    known = inspect.signature(function).parameters
    options = {
        name if name in known and name not in states else f"{name[:-1]}_limits": value
        for name, value in options.items()
    }
    arguments = dict(params=params, grads=arrays(rule), **states, step=[3, 4], **options, **OPTIONS_OF_STEP)
    bad: dict[str, Sequence[Any]] = {name: bad_values(name.replace("_limits", "s"), options[name]) for name in options}
    bad |= {name: bad_values(name, value) for name, value in OPTIONS_OF_STEP.items()}
    bad |= dict.fromkeys(("params", *states), NO_LIST) | {"grads": NO_GRADS, "step": NO_STEP}
    return Invocation(function, arguments, ("params", *(name for name in states if name != "initial_params")), bad)


def formats(weights: str, moments: str) -> Invocation:
    """An update of parameters of 16 bits, whose moments are not float32 either."""
    options: dict[str, Any] = dict(weights=weights, moments=moments, moment_rounding="stochastic")
    params = [array.astype(ml_dtypes.bfloat16) for array in arrays()]
    states = RULES["adamw"].new_states(RULES["adamw"].plain | options, params)
    grads = [array.astype(np.float16) for array in arrays()]
    arguments = dict(params=params, grads=grads, **states, step=[3, 4], lr=0.1, **options, **OPTIONS_OF_STEP)
    others = ({"stochastic", "nearest", "kahan", "correction", "master"} - {weights}) & {
        "kahan",
        "correction",
        "master",
    }
    bad = {
        "weights": (*BAD["weights"], *others),
        "moments": (None, *{"bfloat16", "8bit"} - {moments}),
        "moment_rounding": (*BAD["moment_rounding"], *["nearest"] * (moments == "8bit")),
    }
    return Invocation(F.adamw, arguments, ("params", *states), bad | dict.fromkeys(states, NO_LIST))


def constructor(rule: str) -> Invocation:
    options = busy(rule)
    bad: dict[str, Sequence[Any]] = {name: bad_values(name, value) for name, value in options.items()}
    bad |= {"params": (None, 3, "ab", {1, 2}, arrays()[0], [None, None], {"a": None}, [{"a": [1]}], {1: arrays()[0]})}
    return Invocation(RULES[rule].optimizer, dict(params=arrays(rule), **options), ("params",), bad, fixed=False)


def step(rule: str) -> Invocation:
    optimizer = constructor(rule)()
    optimizer.step(arrays(rule))
    bad: dict[str, Sequence[Any]] = {name: bad_values(name, value) for name, value in OPTIONS_OF_STEP.items()}
    return Invocation(
        optimizer.step, dict(grads=arrays(rule), **OPTIONS_OF_STEP), (), bad | {"grads": NO_GRADS}, optimizer
    )


def nested(name: str) -> Invocation:
    """The constructor or the step of an optimizer whose parameters are in dicts and lists within each other."""
    rng = np.random.default_rng(3)

    def structure() -> dict[str, Any]:
        a, b, c = (ordinary(rng, shape, "float32") for shape in ((3, 4), (5,), (2, 2)))
        return {"first": {"weight": a, "bias": b}, "others": [(c,)]}

    if name == "constructor":
        bad: Sequence[Any] = (
            {"first": None},
            {"first": {"a": 3}},
            {"first": [None]},
            {"first": {2: 3}},
            {"first": "ab"},
        )
        return Invocation(optim.Adam, dict(params=structure(), lr=0.1), ("params",), {"params": bad}, fixed=False)
    optimizer = optim.Adam(structure(), lr=0.1)
    if name == "accumulate":
        optimizer.accumulate(structure())
    good = structure()
    bad = (
        *NO_GRADS,
        {"first": good["first"]},
        good | {"third": None},
        good | {"first": [None, None]},
        good | {"first": {"weight": None}},
        good | {"first": {"weight": None, "bias": None, "more": None}},
        good | {"others": [None, None]},
        good | {"others": [good["others"][0][0]]},
        good | {"others": {}},
    )
    return Invocation(getattr(optimizer, name), dict(grads=good), (), {"grads": bad}, optimizer)


def accumulate(rule: str) -> Invocation:
    optimizer = constructor(rule)()
    optimizer.accumulate(arrays(rule))
    return Invocation(optimizer.accumulate, dict(grads=arrays(rule)), (), {"grads": NO_GRADS}, optimizer)


def add_param_group(rule: str) -> Invocation:
    optimizer = constructor(rule)()
    group = dict(params=arrays(rule), lr=1.0)
    return Invocation(
        optimizer.add_param_group,
        dict(param_group=group),
        ("param_group",),
        {"param_group": NO_GROUP},
        optimizer,
        fixed=False,
    )


def call_of(norm: str, **options: Any) -> Call:
    return NORMS[norm].call(np.random.default_rng(2), "float32", 6, 4, **options)


def forward(norm: str, **options: Any) -> Invocation:
    call = call_of(norm, **options)
    arguments = dict(x=call.x, **call.arguments, eps=1e-5, out=tuple(map(np.zeros_like, call.forward(F))))
    written = ("out", "running_mean", "running_var") if call.arguments.get("training") else ("out",)
    return Invocation(getattr(F, call.norm), arguments, written, BAD_NORM)


def backward(norm: str, **options: Any) -> Invocation:
    call = call_of(norm, **options)
    arguments = call.backward_arguments(*call.forward(F)[1:])
    arguments["out"] = (np.zeros_like(call.x), np.zeros_like(arguments["weight"]), np.zeros_like(arguments["weight"]))
    return Invocation(getattr(F, f"{call.norm}_backward"), arguments, ("out",), BAD_NORM)


def layer_pass(layer: nn.Layer, name: str) -> Invocation:
    x = arrays()[0]
    layer(x)  # type: ignore[operator]
    return Invocation(
        getattr(layer, name), {"dy" if name == "backward" else "x": x + 1, "out": x * 0}, ("out",), BAD_PASS, layer
    )


THOROUGHLY = (
    "sgd",
    "adam",
    "adafactor",
    "muon",
)  # which get every mistake in parameters and gradients; others get some
INVOCATIONS: dict[str, Callable[[], Invocation]] = {
    **{rule: partial(update, rule) for rule in RULES},
    **{RULES[rule].optimizer.__name__: partial(constructor, rule) for rule in RULES},
    **{f"{RULES[rule].optimizer.__name__}.step": partial(step, rule) for rule in RULES},
    **{
        f"{RULES[rule].optimizer.__name__}.{make.__name__}": partial(make, rule)
        for rule in THOROUGHLY
        for make in (add_param_group, accumulate)
    },
    **{f"nested.{name}": partial(nested, name) for name in ("constructor", "step", "accumulate")},
    **{
        f"adamw {weights} {moments}": partial(formats, weights, moments)
        for weights in ("stochastic", "kahan", "correction", "master")
        for moments in ("bfloat16", "8bit")
    },
    "layer_norm": lambda: forward("layer_norm"),
    "layer_norm_backward": lambda: backward("layer_norm"),
    "batch_norm": lambda: forward("batch_norm NC", training=True, momentum=0.1),
    "batch_norm in evaluation": lambda: forward("batch_norm NC", training=False, momentum=0.1),
    "batch_norm_backward": lambda: backward("batch_norm NC", training=True),
    "nn.LayerNorm": lambda: layer_pass(nn.LayerNorm(4), "__call__"),
    "nn.LayerNorm.backward": lambda: layer_pass(nn.LayerNorm(4), "backward"),
    "nn.BatchNorm": lambda: layer_pass(nn.BatchNorm(4), "__call__"),
    "nn.BatchNorm.backward": lambda: layer_pass(nn.BatchNorm(4), "backward"),
}


def snapshot(value: Any) -> Any:
    """Everything that could be seen to have changed."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, Mapping):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [snapshot(item) for item in value]
    if isinstance(value, optim.Optimizer):
        return snapshot(
            [
                value.defaults,
                value.param_groups,
                value.state,
                value._count,
                value._sums,
                value._gathered,
                value._micro_batches,
            ]
        )
    if isinstance(value, nn.Layer):
        return snapshot([value.params, value.grads, value.buffers, value.training])
    return repr(value)


def assert_raises(
    name: str, changes: Mapping[Path, Change], error: Any = (TypeError, ValueError), message: str = r"^\w+: "
) -> None:
    """The call with these changes raises and changes nothing; afterwards the good call does what it always does."""
    expected, invocation = INVOCATIONS[name](), INVOCATIONS[name]()
    good = {path: invocation.get(path) for path in changes}
    values = {path: change(invocation) for path, change in changes.items()}
    for path, value in values.items():
        invocation.set(path, value)
    everything = [invocation.arguments, invocation.reach, list(good.values())]
    before = snapshot(everything)
    with pytest.raises(error, match=message) as raised:
        invocation()
    assert type(raised.value) in (TypeError, ValueError)
    assert snapshot(everything) == before

    for path, value in good.items():
        invocation.set(path, value)
    assert snapshot(invocation()) == snapshot(expected())
    assert snapshot([invocation.arguments, invocation.reach]) == snapshot([expected.arguments, expected.reach])


# Every kind of mistake


def unaligned(a: Array) -> Array:
    return np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)


def read_only(a: Array) -> Array:
    copy = a.copy()
    copy.flags.writeable = False
    return copy


def swapped(a: Array) -> Array:
    return a.astype(a.dtype.newbyteorder())


def strided(a: Array) -> Array:
    return np.repeat(a, 2, axis=-1)[..., ::2]


def backwards(a: Array) -> Array:
    return a[..., ::-1].copy()[..., ::-1]


def rows_backwards(a: Array) -> Array:
    return a[::-1].copy()[::-1]


def other_float(a: Array) -> Array:
    return a.astype(np.float64 if a.dtype == np.float32 else np.float32)


def integers(a: Array) -> Array:
    return a.astype(np.int32)


def longer(a: Array) -> Array:
    return np.concatenate([a, a])


def shared(a: Array, b: Array) -> Array:
    """An array like a, in the memory at the end of b."""
    return b.reshape(-1).view(np.uint8)[b.nbytes - a.nbytes :].view(a.dtype).reshape(a.shape)


ANYWHERE: dict[str, Callable[[Array], Any]] = {
    "integers": integers,
    "booleans": lambda a: a.astype(bool),
    "half": lambda a: a.astype(np.float16),
    "long double": lambda a: a.astype(np.longdouble),
    "complex": lambda a: a.astype(np.complex64),
    "objects": lambda a: a.astype(object),
    "strings": lambda a: a.astype(str),
    "records": lambda a: a.astype([("x", a.dtype)]),
    "swapped": swapped,
    "list": lambda a: a.tolist(),
    "number": lambda _: 1.0,
    "text": lambda _: "array",
    "strided": strided,
    "backwards": backwards,
    "rows backwards": rows_backwards,
    "unaligned": unaligned,
}
WHERE_SHAPES_ARE_FIXED: dict[str, Callable[[Array], Any]] = {
    "other float": other_float,
    "longer": longer,
    "shorter": lambda a: a[:-1].copy(),
    "empty": lambda a: a[:0],
    "another axis": lambda a: a[None],
    "flat and longer": lambda a: np.append(a.ravel(), a.dtype.type(0)),
    "0-d": lambda a: a.ravel()[0].reshape(()).copy(),
}


def legal(path: Path, good: Array, other: Any) -> bool:
    """Whether an array may stand for another one: what was done to it did nothing, or it is a parameter or a gradient of 16 bits."""
    if not isinstance(other, np.ndarray) or other.shape != good.shape:
        return False
    other_will_do = (np.float16,) if good.dtype.itemsize > 2 else (np.float16, np.float32)
    same = other.dtype == good.dtype or (path[0] in ("params", "grads", "param_group") and other.dtype in other_will_do)
    return same and other.flags.c_contiguous and other.flags.aligned and other.flags.writeable


def mistakes(name: str) -> Iterator[tuple[str, Path, Change]]:
    """All mistakes that can be made in one argument of a call: what, where, and how.

    What is the same for all optimizers, such as arrays and what surrounds each rule, gets some of the mistakes from most of them.
    """
    rng = np.random.default_rng([*name.encode()])
    rule = {RULES[rule].optimizer.__name__: rule for rule in RULES}.get(name.split(".")[0], name)
    invocation = INVOCATIONS[name]()
    found = invocation.arrays()
    for path, array in found.items():
        kinds = ANYWHERE | (WHERE_SHAPES_ARE_FIXED if invocation.fixed else {})
        if path[0] in invocation.written:
            kinds["read-only"] = read_only
        some = 10 if rule in RULES and rule not in THOROUGHLY else None
        of_state = name in RULES and path[0] not in ("params", "grads")
        for kind in rng.permutation(list(kinds))[: 8 if of_state else some]:
            try:
                harmless = legal(path, array, kinds[kind](array))
            except (ValueError, IndexError, TypeError):  # one without axes or of bfloat16 cannot be made so
                continue
            if not harmless:
                yield str(kind), path, lambda call, path=path, make=kinds[kind]: make(call.get(path))
        overlapping = [
            other
            for other, target in found.items()
            if path != other
            and (path[0] in invocation.written or other[0] in invocation.written)
            and array.nbytes <= target.nbytes
        ]
        for i in rng.permutation(len(overlapping))[: 2 if name in RULES else None]:
            yield f"overlaps {text_of(overlapping[i])}", path, partial(move_into, path, overlapping[i])
    for argument in sorted(invocation.bad.keys() & invocation.arguments.keys()):
        everywhere = argument in AROUND or argument in OPTIONS_OF_STEP
        values = invocation.bad[argument]
        for i in rng.permutation(len(values))[: 2 if everywhere else None]:
            yield f"{values[i]!r:.40}", (argument,), lambda _, value=values[i]: value


def move_into(path: Path, other: Path, call: Invocation) -> Array:
    return shared(call.get(path), call.get(other))


def text_of(path: Path) -> str:
    return ".".join(map(str, path))


MISTAKES = {name: sorted(mistakes(name), key=lambda mistake: (mistake[0], text_of(mistake[1]))) for name in INVOCATIONS}


@pytest.mark.parametrize(
    ("name", "path", "change"),
    [
        pytest.param(name, path, change, id=f"{name}-{text_of(path)}-{kind}")
        for name, made in MISTAKES.items()
        for kind, path, change in made
    ],
)
def test_one_mistake_is_an_error(name: str, path: Path, change: Change) -> None:
    assert_raises(name, {path: change})


@pytest.mark.parametrize("seed", range(300))
def test_several_mistakes_are_an_error(seed: int) -> None:
    """Of different kinds in different places, as two of a kind may fit each other."""
    rng = np.random.default_rng(seed)
    name = list(MISTAKES)[seed % len(MISTAKES)]
    kinds: set[str] = set()
    changes: dict[Path, Change] = {}
    for i in rng.permutation(len(MISTAKES[name])):
        kind, path, change = MISTAKES[name][i]
        apart = not any(path[: len(other)] == other[: len(path)] for other in changes)
        if len(changes) < 3 and apart and kind not in kinds and not kind.startswith("overlaps"):
            kinds.add(kind)
            changes[path] = change
    assert_raises(name, changes)


# Which error it is

CASES: list[tuple[str, Path, Any, type[Exception], str]] = [
    # name, argument, what becomes of it (a function of the good one), error, message
    ("sgd", ("lr",), NAN, ValueError, r"^sgd: lr must be finite and >= 0, got nan$"),
    ("sgd", ("lr",), -0.5, ValueError, r"^sgd: lr must be finite and >= 0, got -0.5$"),
    ("sgd", ("lr",), "0.1", TypeError, r"^sgd: lr must be a number, got '0.1'$"),
    ("sgd", ("momentum",), 1.5, ValueError, r"^sgd: momentum must be in \[0, 1\], got 1.5$"),
    ("sgd", ("dampening",), 0.1, ValueError, r"^sgd: nesterov needs momentum > 0 and dampening = 0, got 0.9 and 0.1$"),
    ("sgd", ("nesterov",), "yes", TypeError, r"^sgd: nesterov must be a bool, got 'yes'$"),
    ("sgd", ("weights",), "x", ValueError, r"^sgd: weights must be 'stochastic', .* or 'master', got 'x'$"),
    ("sgd", ("moments",), "float16", ValueError, r"^sgd: moments must be 'bfloat16' or '8bit', got 'float16'$"),
    ("sgd", ("moment_rounding",), None, TypeError, r"^sgd: moment_rounding must be a string, got None$"),
    ("sgd", ("grads", 0), other_float, TypeError, r"^sgd: grads\[0\] has dtype float64, expected float32$"),
    ("rprop", ("moments",), "8bit", ValueError, r"^rprop: moments must be None, got '8bit': prev and step_size must"),
    (
        "adamw correction 8bit",
        ("moment_rounding",),
        "nearest",
        ValueError,
        r"^adamw: moments='8bit' needs moment_rounding='stochastic'",
    ),
    (
        "adamw correction 8bit",
        ("params", 0),
        lambda a: a.astype(np.float16),
        TypeError,
        r"^adamw: params\[0\] has dtype float16; weights='correction' is for bfloat16$",
    ),
    (
        "adamw master bfloat16",
        ("master_params", 1),
        None,
        TypeError,
        r"^adamw: master_params\[1\] is missing$",
    ),
    (
        "adamw kahan 8bit",
        ("exp_avg_sq_scales", 0),
        longer,
        ValueError,
        r"^adamw: exp_avg_sq_scales\[0\] has shape \(2,\), expected \(1,\)$",
    ),
    (
        "adamw kahan 8bit",
        ("exp_avgs", 1),
        lambda a: a.astype(np.float32),
        TypeError,
        r"^adamw: exp_avgs\[1\] has dtype float32, expected uint8$",
    ),
    ("sgd", ("velocity",), True, TypeError, r"^sgd: velocity_buffers must be a list of arrays, got NoneType$"),
    ("sgd", ("momentum_buffers",), None, TypeError, r"^sgd: momentum_buffers must be a list of arrays, got NoneType$"),
    ("sgd", ("params", 0), read_only, TypeError, r"^sgd: params\[0\] is read-only, but would be written$"),
    ("sgd", ("params", 1), strided, TypeError, r"^sgd: params\[1\] must be C-contiguous$"),
    ("sgd", ("params", 0), np.asfortranarray, TypeError, r"^sgd: params\[0\] must be C-contiguous$"),
    ("sgd", ("params", 1), other_float, TypeError, r"^sgd: momentum_buffers\[1\] has dtype float32, expected float64$"),
    (
        "sgd",
        ("momentum_buffers", 1),
        unaligned,
        TypeError,
        r"^sgd: momentum_buffers\[1\] is not aligned to its elements$",
    ),
    ("sgd", ("step",), 0, ValueError, r"^sgd: step must be .*, got 0$"),
    ("sgd", ("step",), 2**53, ValueError, r"^sgd: step must be in \[1, 2\*\*53\), got 9007199254740992$"),
    ("sgd", ("grad_scale",), 0.0, ValueError, r"^sgd: grad_scale must be > 0, got 0.0$"),
    ("sgd", ("clip_norm",), -1.0, ValueError, r"^sgd: clip_norm must be finite and >= 0, got -1.0$"),
    ("sgd", ("clip_value",), 0.5, ValueError, r"^sgd: clip_norm and clip_value exclude each other$"),
    ("sgd", ("zero_grads",), "x", TypeError, r"^sgd: zero_grads must be a bool, got 'x'$"),
    ("sgd", ("swa_start",), 3, ValueError, r"^sgd: ema_decay and swa_start exclude each other$"),
    ("sgd", ("ema_decay",), 1.5, ValueError, r"^sgd: ema_decay must be in \[0, 1\], got 1.5$"),
    ("sgd", ("ema_params",), None, TypeError, r"^sgd: ema_params must be a list of arrays, got NoneType$"),
    (
        "sgd",
        ("initial_params", 0),
        longer,
        ValueError,
        r"^sgd: initial_params\[0\] has shape \(6, 4\), expected \(3, 4\)$",
    ),
    ("sgd", ("ema_params", 1), read_only, TypeError, r"^sgd: ema_params\[1\] is read-only, but would be written$"),
    ("sgd", ("seed",), -1, ValueError, r"^sgd: seed must be in \[0, 2\*\*53\), got -1$"),
    ("sgd", ("seed",), 0.5, TypeError, r"^sgd: seed must be an integer, got 0.5$"),
    ("sgd", ("fixed_decay",), True, ValueError, r"^sgd: fixed_decay needs decoupled_weight_decay$"),
    ("sgd", ("decoupled_weight_decay",), None, TypeError, r"^sgd: decoupled_weight_decay must be a bool, got None$"),
    ("Adam", ("fixed_decay",), True, ValueError, r"^Adam: fixed_decay needs decoupled_weight_decay$"),
    ("Adam", ("temperature",), -1, ValueError, r"^Adam: temperature must be finite and >= 0, got -1$"),
    ("adagrad", ("sums",), None, TypeError, r"^adagrad: sums must be a list of arrays, got NoneType$"),
    (
        "nadam",
        ("mu_products", 0),
        lambda a: a.astype(np.float32),
        TypeError,
        r"^nadam: mu_products\[0\] has dtype float32",
    ),
    (
        "nadam",
        ("mu_products", 0),
        lambda _: 1.0,
        TypeError,
        r"^nadam: mu_products\[0\] must be a numpy array, got float$",
    ),
    ("rprop", ("etas",), (1.5, 1.2), ValueError, r"^rprop: etas must be 0 < etaminus < 1 < etaplus, got 1.5 and 1.2$"),
    ("rprop", ("step_size_limits",), (2.0, 1.0), ValueError, r"^rprop: step_sizes must be in order, got 2 and 1$"),
    ("adan", ("betas",), (0.9, 0.9), TypeError, r"^adan: betas must be three numbers, got \(0.9, 0.9\)$"),
    ("adafactor", ("eps",), (0.1, None), TypeError, r"^adafactor: eps2 must be a number, got None$"),
    (
        "adafactor",
        ("row_vars", 0),
        longer,
        ValueError,
        r"^adafactor: row_vars\[0\] has shape \(6, 1\), expected \(3, 1\)$",
    ),
    (
        "adafactor",
        ("variances",),
        [None, None],
        TypeError,
        r"^adafactor: variances\[1\] must be a numpy array, got NoneType$",
    ),
    ("muon", ("params", 1), lambda a: a.ravel(), ValueError, r"^muon: params\[1\] must be a matrix, got shape \(5,\)$"),
    ("muon", ("ns_steps",), 100, ValueError, r"^muon: ns_steps must be < 100, got 100$"),
    (
        "muon",
        ("adjust_lr_fn",),
        "x",
        ValueError,
        r"^muon: adjust_lr_fn must be None, 'original' or 'match_rms_adamw', got 'x'$",
    ),
    ("ScheduleFreeSGD", ("momentum",), 0.0, ValueError, r"^ScheduleFreeSGD: momentum must be > 0, got 0$"),
    ("ScheduleFreeAdamW", ("betas",), (0.0, 0.9), ValueError, r"^ScheduleFreeAdamW: beta1 must be > 0, got 0$"),
    ("Adam.step", ("clip_adaptive",), 1.0, ValueError, r"^Adam: clip_norm and clip_adaptive exclude each other$"),
    ("Adam.step", ("grad_scale",), "2", TypeError, r"^Adam: grad_scale must be a number, got '2'$"),
    ("Adam.step", ("grads",), None, ValueError, r"^Adam: grads is missing, and accumulate has gathered none$"),
    ("nested.step", ("grads", "first", "bias"), longer, ValueError, r"^Adam: grads\['first'\]\['bias'\] has shape"),
    (
        "nested.step",
        ("grads", "others", 0, 0),
        integers,
        TypeError,
        r"^Adam: grads\['others'\]\[0\]\[0\] has dtype int32",
    ),
    ("adam", ("grads", 1), other_float, TypeError, r"^adam: grads\[1\] has dtype float64, expected float32$"),
    ("adam", ("grads", 0), integers, TypeError, r"^adam: grads\[0\] has dtype int32, expected float32"),
    ("adam", ("grads", 0), swapped, TypeError, r"^adam: grads\[0\] has swapped byte order \(dtype >f4\)"),
    ("adam", ("grads", 0), longer, ValueError, r"^adam: grads\[0\] has shape \(6, 4\), expected \(3, 4\)$"),
    ("adam", ("grads", 1), strided, TypeError, r"^adam: grads\[1\] must be contiguous along its last axis$"),
    ("adam", ("grads", 1), 7, TypeError, r"^adam: grads\[1\] must be a numpy array, got int$"),
    ("adam", ("grads",), [], ValueError, r"^adam: grads has 0 entries, expected 2, one a parameter$"),
    ("adam", ("step",), [1], ValueError, r"^adam: step has 1 entries, expected 2, one a parameter$"),
    ("adam", ("step",), 1.5, TypeError, r"^adam: step must be an integer, or one for each parameter, got 1.5$"),
    ("adam", ("betas",), (0.9, 1.0), ValueError, r"^adam: beta2 must be in \[0, 1\), got 1.0$"),
    ("adam", ("betas",), 0.9, TypeError, r"^adam: betas must be two numbers, got 0.9$"),
    ("adamw", ("exp_avgs", 1), longer, ValueError, r"^adamw: exp_avgs\[1\] has shape \(10,\), expected \(5,\)$"),
    ("adamw", ("exp_avg_sqs",), [], ValueError, r"^adamw: exp_avg_sqs has 0 entries, expected 2, one a parameter$"),
    ("adamw", ("eps",), -1, ValueError, r"^adamw: eps must be finite and >= 0, got -1$"),
    ("Adam", ("betas",), (1.5, 0.9), ValueError, r"^Adam: beta1 must be in \[0, 1\), got 1.5$"),
    (
        "Adam",
        ("params", 0),
        integers,
        TypeError,
        r"^Adam: params\[0\] has dtype int32, expected float32, float64, float16 or bfloat16$",
    ),
    ("Adam", ("params",), lambda params: params[0], TypeError, r"^Adam: params must be a list or a dict of arrays"),
    ("Adam.step", ("grads",), [None], ValueError, r"^Adam: grads has 1 entries, expected 2, one a parameter$"),
    ("Adam.step", ("grads", 1), other_float, TypeError, r"^Adam: grads\[1\] has dtype float64, expected float32$"),
    ("Adam.step", ("grads",), dict.fromkeys("ab"), TypeError, r"^Adam: grads must be a list as params, got dict$"),
    (
        "Adam.add_param_group",
        ("param_group",),
        {"params": [], "speed": 1},
        ValueError,
        r"^Adam: unknown hyperparameter 'speed'",
    ),
    ("layer_norm", ("weight",), longer, ValueError, r"^layer_norm: weight has shape \(8,\), expected \(4,\)$"),
    ("layer_norm", ("bias",), other_float, TypeError, r"^layer_norm: bias has dtype float64, expected float32$"),
    ("layer_norm", ("x",), strided, TypeError, r"^layer_norm: x must be contiguous along its last axis$"),
    ("layer_norm", ("x",), rows_backwards, TypeError, r"^layer_norm: x has a negative stride$"),
    ("layer_norm", ("normalized_shape",), 5, ValueError, r"^layer_norm: x has shape \(6, 4\), expected it to end with"),
    (
        "layer_norm",
        ("normalized_shape",),
        4.0,
        TypeError,
        r"^layer_norm: normalized_shape must be an integer, got 4.0$",
    ),
    ("layer_norm", ("eps",), -1e-5, ValueError, r"^layer_norm: eps must be finite and >= 0, got -1e-05$"),
    ("layer_norm", ("eps",), "x", TypeError, r"^layer_norm: eps must be a number, got 'x'$"),
    ("layer_norm", ("out",), (None, None), TypeError, r"^layer_norm: out must be a tuple of 3"),
    ("layer_norm", ("out", 1), other_float, TypeError, r"^layer_norm: out\[1\] has dtype float32, expected float64$"),
    ("layer_norm_backward", ("mean",), other_float, TypeError, r"^layer_norm_backward: mean has dtype float32"),
    ("layer_norm_backward", ("mean",), None, TypeError, r"^layer_norm_backward: mean must be a numpy array, got None$"),
    (
        "layer_norm_backward",
        ("dy",),
        longer,
        ValueError,
        r"^layer_norm_backward: dy has shape \(12, 4\), expected \(6, 4\)$",
    ),
    (
        "layer_norm_backward",
        ("weight",),
        None,
        ValueError,
        r"^layer_norm_backward: out\[1\] is given, but there is no weight$",
    ),
    ("batch_norm", ("momentum",), 1.1, ValueError, r"^batch_norm: momentum must be in \[0, 1\], got 1.1$"),
    (
        "batch_norm",
        ("channel_axis",),
        2,
        ValueError,
        r"^batch_norm: channel_axis must name an axis of x, which has 2, got 2$",
    ),
    ("batch_norm", ("x",), lambda x: x[0], ValueError, r"^batch_norm: x has shape \(4,\), expected at least 2 axes$"),
    (
        "batch_norm",
        ("x",),
        lambda x: x[:1],
        ValueError,
        r"^batch_norm: x has shape \(1, 4\), expected more than 1 value per channel",
    ),
    ("batch_norm", ("x",), np.asfortranarray, TypeError, r"^batch_norm: x must be contiguous along its channel axis"),
    ("batch_norm", ("running_mean",), None, TypeError, r"^batch_norm: running_mean is None, but the other"),
    (
        "batch_norm",
        ("running_var",),
        read_only,
        TypeError,
        r"^batch_norm: running_var is read-only, but would be written$",
    ),
    (
        "batch_norm_backward",
        ("x",),
        longer,
        ValueError,
        r"^batch_norm_backward: dy has shape \(6, 4\), expected \(12, 4\)$",
    ),
    ("nn.LayerNorm", ("x",), other_float, TypeError, r"^layer_norm: weight has dtype float32, expected float64$"),
]


@pytest.mark.parametrize(
    ("name", "path", "change", "error", "message"),
    [pytest.param(*case, id=f"{case[0]}-{text_of(case[1])}-{case[4]}") for case in CASES],
)
def test_error_says_what_is_wrong(name: str, path: Path, change: Any, error: type[Exception], message: str) -> None:
    assert_raises(name, {path: lambda call: change(call.get(path)) if callable(change) else change}, error, message)


@pytest.mark.parametrize("rule", RULES)
def test_overlap_says_which_arrays(rule: str) -> None:
    a, b = arrays(rule)
    invocation = update(rule)
    good = invocation.arguments
    memory = np.zeros(a.size + 1, np.float32)
    twice = [memory[:-1].reshape(a.shape), memory[1:].reshape(a.shape)]
    alike = {
        name: [one[0] if one[0] is None else one[0].copy() for _ in twice]
        for name, one in good.items()
        if name in RULES[rule].new_states(busy(rule), [a])
    }
    with pytest.raises(ValueError, match=rf"^{rule}: params\[0\] would be written, but overlaps params\[1\]$"):
        invocation.call(**good | alike | {"params": twice, "grads": [a.copy(), a.copy()]})
    with pytest.raises(ValueError, match=rf"^{rule}: params\[1\] would be written, but overlaps grads\[1\]$"):
        invocation.call(**good | {"grads": [a.copy(), good["params"][1]]})
    optimizer = RULES[rule].optimizer([a, b])
    of_one = a.reshape(-1)[: b.size].reshape(b.shape)
    with pytest.raises(ValueError, match=r"params\[0\] would be written, but overlaps grads\[1\]$"):
        optimizer.step([None, of_one])
    for name, buffer in optimizer.state[0].items():
        if name != "step" and buffer.shape == a.shape:
            with pytest.raises(ValueError, match=rf"{name}s\[0\] would be written, but overlaps grads\[0\]$"):
                optimizer.step([buffer, None])
    with pytest.raises(ValueError, match=r"would be written, but overlaps params\["):
        optimizer.add_param_group({"params": [a[1:]]})


@pytest.mark.parametrize("rule", RULES)
def test_gradients_that_would_be_zeroed_are_checked(rule: str) -> None:
    """They must be writeable and lie apart, which they need not otherwise."""
    params, grads = arrays(rule), arrays(rule)
    optimizer = RULES[rule].optimizer(params, lr=0.1)
    before = snapshot([params, optimizer])
    locked = [grads[0], read_only(grads[1])]
    with pytest.raises(TypeError, match=r"^\w+: grads\[1\] is read-only, but would be zeroed$"):
        optimizer.step(locked, zero_grads=True)
    of_first = grads[0].reshape(-1)[: params[1].size].reshape(params[1].shape)
    with pytest.raises(ValueError, match=r"^\w+: grads\[[01]\] would be zeroed, but overlaps grads\[[01]\]$"):
        optimizer.step([grads[0], of_first], zero_grads=True)
    assert snapshot([params, optimizer]) == before
    assert grads[0].any()
    optimizer.step(locked)
    optimizer.step([grads[0], of_first])
    optimizer.step([grads[0], None], zero_grads=True)
    assert not grads[0].any()


@pytest.mark.parametrize("flag", ["skip_nonfinite", "zero_grads"])
@pytest.mark.parametrize("value", [None, [], "", 0.0, "no", np.zeros(2)])
def test_flags_of_a_step_are_checked(flag: str, value: Any) -> None:
    """Also where nothing else is asked for."""
    a, b = arrays()
    optimizer = optim.SGD([a], lr=0.1)
    with pytest.raises(TypeError, match=rf"^SGD: {flag} must be a bool, got "):
        optimizer.step([a.copy()], **{flag: value})
    with pytest.raises(TypeError, match=rf"^sgd: {flag} must be a bool, got "):
        F.sgd([b], [b.copy()], step=1, lr=0.1, **{flag: value})
    assert optimizer.state[0]["step"] == 0


def test_overlap_over_groups_is_found() -> None:
    """Each of the groups has a rule of its own."""
    a, b, g = (np.ones(5, np.float32) for _ in range(3))
    optimizer = optim.SGD([{"params": [a], "momentum": 0.0}, {"params": [b], "momentum": 0.9}], lr=0.1)
    for grads in ([g], [a]), ([b], [g]):
        before = snapshot(optimizer)
        with pytest.raises(ValueError, match=r"^SGD: params\[[01]\] would be written, but overlaps grads\[[01]\]$"):
            optimizer.step(grads)
        assert snapshot(optimizer) == before


@pytest.mark.parametrize("make", [nn.LayerNorm, nn.BatchNorm])
@pytest.mark.parametrize(
    "keywords", [{"eps": -1.0}, {"eps": NAN}, {"eps": "x"}, {"dtype": int}, {"dtype": np.float16}, {"dtype": ">f4"}]
)
def test_layers_refuse_what_their_functions_would(make: Callable[..., nn.Layer], keywords: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{make.__name__}: {next(iter(keywords))} must be"):
        make(4, **keywords)


# What is legal


@pytest.mark.parametrize("rule", RULES)
def test_slices_of_rows_are_legal_gradients(rule: str, rng: Generator) -> None:
    everything = ordinary(rng, (4, 5, 9, 3), "float64")
    for g in (
        everything[::2],
        everything[1:3, 2:4],
        everything[:, :, ::3],
        everything[:, 1, 2],
        everything[:, :, :, :1],
    ):
        assert not g.flags.c_contiguous
        if RULES[rule].fit(g.shape) != g.shape:
            continue
        params = [ordinary(rng, g.shape, "float64")]
        options = RULES[rule].sample(rng)
        sliced = RULES[rule].run(F, params, [[g]], options, place_grad=lambda a: a)
        assert snapshot(sliced) == snapshot(RULES[rule].run(F, params, [[g]], options))


@pytest.mark.parametrize("rule", RULES)
def test_gradients_may_be_none_or_read_only_or_repeated(rule: str, rng: Generator) -> None:
    params = RULES[rule].arrays(
        rng, [(2, 3), 3, (2, 3), (2, 3)], "float64", numbers=lambda _, shape, dtype: np.ones(shape, dtype)
    )
    g = read_only(ordinary(rng, (2, 3), "float64"))
    options = RULES[rule].sample(rng, without=["noise", "temperature"])
    states = RULES[rule].new_states(options, params)
    untouched = snapshot([params[1], [one[1] for one in states.values()]])
    RULES[rule].update(F, params, [g, None, g, np.broadcast_to(g[0], (2, 3))], states, 1, options)
    assert snapshot([params[1], [one[1] for one in states.values()]]) == untouched
    assert differing(params[0], params[2]) == 0
    assert np.any(params[3] != 1)


@pytest.mark.parametrize("rule", RULES)
def test_empty_parameters_are_legal(rule: str, rng: Generator) -> None:
    ones = [np.ones(RULES[rule].fit(shape)) for shape in ((0, 3), (), (3, 0), (2, 0, 3), (0,))]
    for options in RULES[rule].plain | {"lr": 0.1}, RULES[rule].sample(rng):
        for more in {}, {"clip_norm": 1.0}, {"clip_param_norm": 1.0}, {"clip_adaptive": 0.1}, {"zero_grads": True}:
            params = [one.copy() for one in ones]
            optimizer = RULES[rule].make(params, options)
            optimizer.step([one.copy() for one in ones], **more)
            assert np.all(params[1] != 1)
    nothing = RULES[rule].optimizer([])
    assert nothing.step([]).step == 1
    assert nothing.step([], clip_norm=1.0).grad_norm == 0


@pytest.mark.parametrize("norm", NORMS)
def test_inputs_may_be_read_only(norm: str) -> None:
    call = call_of(norm)
    locked = Call(call.norm, call.x.view(), call.dy.view(), call.arguments)
    for array in locked.x, locked.dy:
        array.flags.writeable = False
    assert snapshot(locked.run(F)) == snapshot(call.run(F))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 2, 5)])
def test_batch_norm_takes_broadcast_inputs(shape: tuple[int, ...], training: bool, rng: Generator) -> None:
    running = np.zeros(3), np.ones(3)
    for axes in (1, *shape[1:]), (shape[0], 1, *shape[2:]), (1, 1, *shape[2:]):
        x = np.broadcast_to(ordinary(rng, axes, "float64"), shape)
        if len(shape) == 2 and axes[1] == 1:
            continue  # then the innermost axis is not contiguous
        y, *_ = F.batch_norm(x, *map(np.copy, running), training=training)
        assert differing(y, F.batch_norm(x.copy(), *map(np.copy, running), training=training)[0]) == 0


def test_zero_size_batches_are_legal() -> None:
    weight = np.ones(3)
    x = np.ones((0, 3))
    y, mean, rstd = F.layer_norm(x, 3, weight, weight)
    assert (y.shape, mean.shape, rstd.shape) == ((0, 3), (0,), (0,))
    dx, dweight, dbias = F.layer_norm_backward(y, x, 3, mean, rstd, weight)
    assert dx.shape == (0, 3)
    assert np.all(dweight == 0)
    assert np.all(dbias == 0)
    for shape in (0, 3), (0, 3, 5), (5, 3, 0), (5, 0), (5, 0, 2):
        x = np.ones(shape)
        channels = [np.full(shape[1], value) for value in (2.0, 3.0, 1.0, 0.0)]
        for training in True, False:
            y, mean, rstd = F.batch_norm(x, *channels, training)
            dx, dweight, dbias = F.batch_norm_backward(y, x, mean, rstd, channels[2], training=training)
            assert y.shape == dx.shape == shape
            assert mean.shape == rstd.shape == dweight.shape == dbias.shape == (shape[1],)
            assert np.all(dbias == 0)
            assert np.all(channels[0] == 2)
            assert np.all(channels[1] == 3)


def test_a_batch_of_one_is_torchs_error_in_training_only() -> None:
    for shape in (1, 3), (1, 3, 1), (1, 3, 1, 1):
        layer = nn.BatchNorm(3)
        before = snapshot(layer)
        with pytest.raises(ValueError, match="expected more than 1 value per channel when training"):
            layer(np.ones(shape, np.float32))
        assert snapshot(layer) == before
        layer.eval()(np.ones(shape, np.float32))
    nn.BatchNorm(3)(np.ones((1, 3, 2), np.float32))
