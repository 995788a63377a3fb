"""Bad input: an error that names the argument, before anything is written; and what looks bad but is legal.

The table of cases says which error a mistake is.  The generated calls make every kind of mistake in every argument of every
function and class, one at a time and several together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.random import Generator
from tables import NORMS, RULES, Array, Call, ordinary
from tools import differing

from fastopt import functional as F
from fastopt import nn, optim

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
NO_LIST = (None, 3, "ab", {}, {1, 2}, [], [None, None], np.ones((2, 5), np.float32))
NOT_POSITIVE = (NAN, INF, -INF, -1.0, 10**400, *NO_NUMBER)
NO_BETAS = (
    (1.0, 0.9),
    (0.9, 1.0),
    (-0.1, 0.9),
    (NAN, 0.9),
    (0.9, INF),
    (0.9,),
    (0.9,) * 3,
    0.9,
    None,
    "ab",
    ("a", "b"),
)
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

BAD_HYPERPARAMETERS: dict[str, Sequence[Any]] = {
    **dict.fromkeys(("lr", "weight_decay", "l1", "eps"), NOT_POSITIVE),
    **dict.fromkeys(("maximize", "nesterov", "velocity", "amsgrad", "eps_hat"), NO_FLAG),
    "momentum": (*NOT_POSITIVE, 1.1),
    "dampening": (NAN, INF, 10**400, *NO_NUMBER),
    "betas": NO_BETAS,
}
BAD_UPDATE: dict[str, Sequence[Any]] = BAD_HYPERPARAMETERS | {
    **dict.fromkeys(("params", "exp_avgs", "exp_avg_sqs", "momentum_buffers"), NO_LIST),
    "max_exp_avg_sqs": NO_LIST[1:],
    "grads": NO_GRADS,
    "step": (0, -1, 2**63, 2**70, [3], [1, 2, 3], [1, 0], [1, 1.5], [1, None], *NO_INTEGER),
}
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

HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "sgd": dict(lr=0.1, momentum=0.9, dampening=0.0, nesterov=True, velocity=False),
    "adam": dict(lr=0.1, betas=(0.9, 0.99), eps=1e-8, eps_hat=False),
    "adamw": dict(lr=0.1, betas=(0.9, 0.99), eps=1e-8, eps_hat=False),
}
STATES = {
    "sgd": ("momentum_buffers",),
    "adam": ("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"),
    "adamw": ("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"),
}
COMMON = dict(weight_decay=0.1, l1=0.1, maximize=False)


def arrays() -> list[Array]:
    rng = np.random.default_rng(1)
    return [ordinary(rng, shape, "float32") for shape in ((3, 4), (5,))]


def update(rule: str) -> Invocation:
    states = {name: [np.abs(a) for a in arrays()] for name in STATES[rule]}
    arguments = dict(params=arrays(), grads=arrays(), **states, step=[3, 4], **HYPERPARAMETERS[rule], **COMMON)
    return Invocation(getattr(F, rule), arguments, ("params", *states), BAD_UPDATE)


def constructor(rule: str) -> Invocation:
    arguments = dict(params=arrays(), **HYPERPARAMETERS[rule], **COMMON)
    bad = BAD_HYPERPARAMETERS | {"params": (None, 3, "ab", {1, 2}, arrays()[0], [None, None])}
    return Invocation(RULES[rule].optimizer, arguments, ("params",), bad, fixed=False)


def step(rule: str) -> Invocation:
    optimizer = constructor(rule)()
    optimizer.step(arrays())
    return Invocation(optimizer.step, dict(grads=arrays()), (), {"grads": NO_GRADS}, optimizer)


def add_param_group(rule: str) -> Invocation:
    optimizer = constructor(rule)()
    group = dict(params=arrays(), lr=1.0)
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


INVOCATIONS: dict[str, Callable[[], Invocation]] = {
    "sgd": lambda: update("sgd"),
    "adam": lambda: update("adam"),
    "adamw": lambda: update("adamw"),
    "SGD": lambda: constructor("sgd"),
    "Adam": lambda: constructor("adam"),
    "AdamW": lambda: constructor("adamw"),
    "SGD.step": lambda: step("sgd"),
    "Adam.step": lambda: step("adam"),
    "AdamW.step": lambda: step("adamw"),
    "SGD.add_param_group": lambda: add_param_group("sgd"),
    "Adam.add_param_group": lambda: add_param_group("adam"),
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
        return snapshot([value.defaults, value.param_groups, value.state])
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


def mistakes(name: str) -> Iterator[tuple[str, Path, Change]]:
    """All mistakes that can be made in one argument of a call: what, where, and how."""
    invocation = INVOCATIONS[name]()
    found = invocation.arrays()
    for path, array in found.items():
        kinds = ANYWHERE | (WHERE_SHAPES_ARE_FIXED if invocation.fixed else {})
        if path[0] in invocation.written:
            kinds["read-only"] = read_only
        for kind, make in kinds.items():
            yield kind, path, lambda call, path=path, make=make: make(call.get(path))
        for other, target in found.items():
            writes = path[0] in invocation.written or other[0] in invocation.written
            if path != other and writes and array.nbytes <= target.nbytes:
                yield f"overlaps {text_of(other)}", path, partial(move_into, path, other)
    for argument in invocation.bad.keys() & invocation.arguments.keys():
        for value in invocation.bad[argument]:
            yield f"{value!r:.40}", (argument,), lambda _, value=value: value


def move_into(path: Path, other: Path, call: Invocation) -> Array:
    return shared(call.get(path), call.get(other))


def text_of(path: Path) -> str:
    return ".".join(map(str, path))


MISTAKES = {name: sorted(mistakes(name), key=lambda mistake: mistake[:2]) for name in INVOCATIONS}


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


@pytest.mark.parametrize("seed", range(250))
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
    ("sgd", ("momentum_buffers",), None, TypeError, r"^sgd: momentum_buffers must be a list of arrays, got NoneType$"),
    ("sgd", ("params", 0), read_only, TypeError, r"^sgd: params\[0\] is read-only, but would be written$"),
    ("sgd", ("params", 1), strided, TypeError, r"^sgd: params\[1\] must be C-contiguous$"),
    ("sgd", ("params", 0), np.asfortranarray, TypeError, r"^sgd: params\[0\] must be C-contiguous$"),
    ("sgd", ("params", 1), other_float, TypeError, r"^sgd: params\[1\] has dtype float64, expected float32$"),
    (
        "sgd",
        ("momentum_buffers", 1),
        unaligned,
        TypeError,
        r"^sgd: momentum_buffers\[1\] is not aligned to its elements$",
    ),
    ("sgd", ("step",), 0, ValueError, r"^sgd: step must be .*, got 0$"),
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
    ("Adam", ("params", 0), integers, TypeError, r"^Adam: params\[0\] has dtype int32, expected float32 or float64$"),
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
    a, b = arrays()
    memory = np.zeros(9, np.float32)
    function, invocation = getattr(F, rule), update(rule)
    with pytest.raises(ValueError, match=rf"^{rule}: params\[0\] would be written, but overlaps params\[1\]$"):
        function(**invocation.arguments | {"params": [memory[:8], memory[1:]]} | {"grads": [memory[:8] * 0, memory[1:] * 0]} | {
            name: [np.zeros(8, np.float32), np.zeros(8, np.float32)] for name in STATES[rule]
        })  # fmt: skip
    with pytest.raises(ValueError, match=rf"^{rule}: params\[1\] would be written, but overlaps grads\[1\]$"):
        function(**invocation.arguments | {"params": [a, b], "grads": [a.copy(), b]})
    optimizer = RULES[rule].optimizer([a, b])
    with pytest.raises(ValueError, match=r"params\[0\] would be written, but overlaps grads\[1\]$"):
        optimizer.step([None, a.reshape(-1)[:5]])
    with pytest.raises(ValueError, match=r"would be written, but overlaps params\["):
        optimizer.add_param_group({"params": [a[1:]]})


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
        params = [ordinary(rng, g.shape, "float64")]
        options = RULES[rule].sample(rng)
        sliced = RULES[rule].run(F, params, [[g]], options, place=lambda a, g=g: a if a is g else a.copy())
        assert snapshot(sliced) == snapshot(RULES[rule].run(F, params, [[g]], options))


@pytest.mark.parametrize("rule", RULES)
def test_gradients_may_be_none_or_read_only_or_repeated(rule: str, rng: Generator) -> None:
    params = [np.ones((2, 3)), np.ones(3), np.ones((2, 3)), np.ones((2, 3))]
    g = read_only(ordinary(rng, (2, 3), "float64"))
    options = RULES[rule].sample(rng)
    states = RULES[rule].new_states(options, params)
    RULES[rule].update(F, params, [g, None, g, np.broadcast_to(g[0], (2, 3))], states, 1, options)
    assert np.all(params[1] == 1)
    assert all(not state[1].any() for state in states)
    assert differing(params[0], params[2]) == 0
    assert np.all(params[3] != 1)


@pytest.mark.parametrize("rule", RULES)
def test_empty_parameters_are_legal(rule: str) -> None:
    params = [np.ones((0, 3)), np.ones(()), np.ones((3, 0))]
    optimizer = RULES[rule].optimizer(params, lr=0.1)
    optimizer.step([np.ones_like(p) for p in params])
    assert params[1] < 1
    nothing = RULES[rule].optimizer([])
    nothing.step([])


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
