"""Bad input: an error that names the argument, before anything is written; and what looks bad but is legal.

The table of cases says which error a mistake is.  The generated calls make every kind of mistake in every argument of every
function and class, one at a time and several together.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import pytest
from numpy.random import Generator
from tables import LIKE_WEIGHT, LIKE_X, NORMS, RULES, Array, Call, ordinary
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
    loose: Mapping[str, Sequence[str]] = field(default_factory=dict)  # what is no mistake in an argument

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


NO_OUT: tuple[Any, ...] = ([None] * 3, (), (None,), (None,) * 5, "out", 3, {})
BAD_NORM: dict[str, Sequence[Any]] = {
    **dict.fromkeys(("x", "residual", "dy", "y", "sum", "v", "g", "dw", "sum_dy", "sum_dy_xhat"), (None,)),
    **dict.fromkeys(("mean", "rstd", "rnorm", "r", "d"), (None,)),
    "eps": NOT_POSITIVE,
    "momentum": (NAN, -0.1, 1.1, 10**400, *NO_NUMBER),
    "r_max": (*NOT_POSITIVE, 0.0, 0.99),
    "d_max": NOT_POSITIVE,
    **dict.fromkeys(("training", "use_input_stats"), NO_FLAG),
    "normalized_shape": ((), 0, -1, 5, (6, 5), (1, 6, 4), 10**30, [4, "a"], *NO_INTEGER),
    "channel_axis": (2, -3, 10**30, [1], *NO_INTEGER),
    "output_axis": (2, -3, 10**30, [1], *NO_INTEGER),
    "dim": (2, -3, 10**30, [1], *NO_INTEGER),  # without one, g has another shape
    "num_groups": (0, -1, 3, 5, 8, 10**30, *NO_INTEGER),
    "count": (-1, 2**53, 10**30, *NO_INTEGER),
    "stats": (None, 3, "abc", (), (6,), [6, 6], (6, None, None), [(-1, 1, 1)], {}),
    "out": NO_OUT,
}
NO_PAIR = (3, "out", (None,), (None,) * 3, [None, None])
BAD_PASS: dict[str, Sequence[Any]] = {**dict.fromkeys(("x", "residual", "dy"), (None,)), "out": (3, "out", (None,))}

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
    written = ("params", *(name for name in states if name != "initial_params"))
    return Invocation(function, arguments, written, bad, loose={"grads": READ})


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
    bad |= dict.fromkeys(states, NO_LIST)
    return Invocation(F.adamw, arguments, ("params", *states), bad, loose={"grads": READ})


def constructor(rule: str) -> Invocation:
    options = busy(rule)
    bad: dict[str, Sequence[Any]] = {name: bad_values(name, value) for name, value in options.items()}
    bad |= {"params": (None, 3, "ab", {1, 2}, arrays()[0], [None, None], {"a": None}, [{"a": [1]}], {1: arrays()[0]})}
    return Invocation(RULES[rule].optimizer, dict(params=arrays(rule), **options), ("params",), bad, fixed=False)


def step(rule: str) -> Invocation:
    optimizer = constructor(rule)()
    optimizer.step(arrays(rule))
    bad: dict[str, Sequence[Any]] = {name: bad_values(name, value) for name, value in OPTIONS_OF_STEP.items()}
    arguments = dict(grads=arrays(rule), **OPTIONS_OF_STEP)
    return Invocation(optimizer.step, arguments, (), bad | {"grads": NO_GRADS}, optimizer, loose={"grads": READ})


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
    return Invocation(getattr(optimizer, name), dict(grads=good), (), {"grads": bad}, optimizer, loose={"grads": READ})


def accumulate(rule: str) -> Invocation:
    optimizer = constructor(rule)()
    optimizer.accumulate(arrays(rule))
    loose = {"grads": READ}
    return Invocation(optimizer.accumulate, dict(grads=arrays(rule)), (), {"grads": NO_GRADS}, optimizer, loose=loose)


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


def call_of(norm: str, dtype: str = "float32", **options: Any) -> Call:
    return NORMS[norm].call(np.random.default_rng(2), dtype, 6, 4, **options)


def forward(norm: str, bad: Mapping[str, Sequence[Any]] | None = None, **options: Any) -> Invocation:
    call = call_of(norm, **options)
    function = getattr(F, call.functions[0])
    arguments = call.forward_arguments(F)
    results = call_of(norm, **options).forward(F)
    if "eps" in inspect.signature(function).parameters:
        arguments |= {"eps": 1e-5}
    updated = arguments.get("training", True) and arguments.get("use_input_stats", True)
    written = ("out", "running_mean", "running_var") if updated else ("out",)
    loose = dict.fromkeys(arguments.keys() - {*written}, READ)
    arguments |= {"out": tuple(map(np.zeros_like, results))}
    return Invocation(function, arguments, written, BAD_NORM | (bad or {}), loose=loose)


def backward(norm: str, bad: Mapping[str, Sequence[Any]] | None = None, **options: Any) -> Invocation:
    call = call_of(norm, **options)
    arguments = call.backward_arguments(F, call.forward(F))
    out: Any = tuple(None if one is None else np.zeros_like(one) for one in call.backward(F, call.forward(F)))
    if len(out) == 1:
        (out,) = out
        bad = {"out": ((None,), (), "out", 3, {}), **(bad or {})}
    loose = dict.fromkeys(arguments, READ)
    arguments["out"] = out
    return Invocation(getattr(F, call.functions[1]), arguments, ("out",), BAD_NORM | (bad or {}), loose=loose)


READ = ("strided", "backwards", "rows backwards", "unaligned")  # layouts of what kernels only read
ANY_FLOAT = ("half", "other float")


def part_of_a_batch(name: str) -> Invocation:
    """The functions without results in ``out``."""
    call = call_of("batch_norm_apply NC")
    stats = F.batch_norm_stats(call.x)
    more: dict[str, Sequence[str]] = dict.fromkeys(("around", "dy", "x", "mean", "rstd"), READ)
    if name == "batch_norm_stats":
        arguments: dict[str, Any] = {"x": call.x, "around": stats[1], "channel_axis": 1}
        more |= {"x": (*READ, *ANY_FLOAT, "longer", "shorter", "empty")}
    elif name == "batch_norm_backward_stats":
        rstd = np.ones_like(stats[1])
        arguments = {"dy": call.dy, "x": call.x, "mean": stats[1], "rstd": rstd, "channel_axis": 1}
    else:
        arguments = {"stats": [stats, F.batch_norm_stats(call.dy)]}
        more = {"stats": READ}
    return Invocation(getattr(F, name), arguments, (), BAD_NORM, loose=more)


def fold() -> Invocation:
    rng = np.random.default_rng(2)
    names = ("bias", "running_mean", "running_var", "bn_weight", "bn_bias")
    arrays = {name: ordinary(rng, 3, "float32") ** 2 for name in names}
    arguments = {"weight": ordinary(rng, (3, 4), "float32"), **arrays, "eps": 1e-5, "output_axis": 0}
    bad = {**BAD_NORM, **dict.fromkeys(("weight", "running_mean", "running_var"), (None,))}
    loose = dict.fromkeys(("weight", *names), (*READ, *ANY_FLOAT))
    return Invocation(F.fold_batch_norm, arguments, (), bad, loose=loose)


def layer_pass(layer: Any, name: str) -> Invocation:
    x = arrays()[0]
    if isinstance(layer, nn.InstanceNorm):
        x = x.reshape(1, 4, 3)
    two = "residual" in inspect.signature(type(layer).__call__).parameters
    given = {"x": x, "residual": x + 2} if two else {"x": x}
    outputs = layer(*given.values())
    if name == "backward":
        given = dict(
            zip(("dy", "dsum"), map(np.ones_like, outputs if isinstance(outputs, tuple) else (outputs,)), strict=False)
        )
    results = getattr(layer, name)(*given.values())
    out: Any = tuple(map(np.zeros_like, results)) if isinstance(results, tuple) else np.zeros_like(results)
    bad = BAD_PASS | {"out": NO_PAIR if isinstance(out, tuple) else BAD_PASS["out"]}
    given = {name: array.copy() for name, array in given.items()}
    loose = dict.fromkeys(given, READ)
    return Invocation(getattr(layer, name), given | {"out": out}, ("out",), bad, layer, loose=loose)


PASSES: dict[str, Callable[[], nn.Layer]] = {
    "LayerNorm": lambda: nn.LayerNorm(4),
    "AddLayerNorm": lambda: nn.AddLayerNorm(4),
    "RMSNorm": lambda: nn.RMSNorm(4),
    "AddRMSNorm": lambda: nn.AddRMSNorm(4),
    "BatchNorm": lambda: nn.BatchNorm(4),
    "BatchNormReLU": lambda: nn.BatchNormReLU(4),
    "BatchNormAddReLU": lambda: nn.BatchNormAddReLU(4),
    "BatchRenorm": lambda: nn.BatchRenorm(4),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "InstanceNorm": lambda: nn.InstanceNorm(4, affine=True, track_running_stats=True),
    "CosineLinear": lambda: nn.CosineLinear(4, 3, seed=1),
    "WeightNormLinear": lambda: nn.WeightNormLinear(4, 3, seed=1),
}
OF_PLANES = {"channel_axis": (3, -4, 0, -3, 10**30, [1], *NO_INTEGER)}  # of three axes; not that of the samples
OF_COLUMNS = {"channel_axis": (2, -3, 0, -2, 10**30, [1], *NO_INTEGER)}
DEFAULT_EPS = {"eps": tuple(one for one in NOT_POSITIVE if one is not None)}
NORM_CALLS: dict[str, Callable[[], Invocation]] = {
    "layer_norm": lambda: forward("layer_norm"),
    "layer_norm_backward": lambda: backward("layer_norm"),
    "layer_norm of float16": lambda: forward("layer_norm", dtype="float16"),
    "layer_norm_backward of bfloat16": lambda: backward("layer_norm", dtype="bfloat16"),
    "add_layer_norm": lambda: forward("add_layer_norm"),
    "add_layer_norm_backward": lambda: backward("add_layer_norm"),
    "rms_norm": lambda: forward("rms_norm", DEFAULT_EPS),
    "rms_norm_backward": lambda: backward("rms_norm"),
    "add_rms_norm": lambda: forward("add_rms_norm", DEFAULT_EPS),
    "add_rms_norm_backward": lambda: backward("add_rms_norm"),
    "cosine_norm": lambda: forward("cosine_norm"),
    "cosine_norm_backward": lambda: backward("cosine_norm"),
    "batch_norm": lambda: forward("batch_norm NC", momentum=0.1),
    "batch_norm in evaluation": lambda: forward("batch_norm NC", training=False, momentum=0.1),
    "batch_norm_backward": lambda: backward("batch_norm NC"),
    "batch_norm of bfloat16": lambda: forward("batch_norm NC", dtype="bfloat16", momentum=0.1),
    "batch_norm_relu": lambda: forward("batch_norm_relu NC", momentum=0.1),
    "batch_norm_relu_backward": lambda: backward("batch_norm_relu NC"),
    "batch_norm_add_relu": lambda: forward("batch_norm_add_relu NC", momentum=0.1),
    "batch_norm_add_relu_backward": lambda: backward("batch_norm_add_relu NC"),
    "batch_renorm": lambda: forward(
        "batch_renorm NC",
        {**dict.fromkeys(("running_mean", "running_var"), (None,)), "out": (*NO_OUT[:3], (None,) * 4, *NO_OUT[4:])},
        momentum=0.1,
        r_max=2.0,
        d_max=1.0,
    ),
    "batch_renorm_backward": lambda: backward("batch_renorm NC"),
    "group_norm": lambda: forward("group_norm NCL", OF_PLANES),
    "group_norm of columns": lambda: forward("group_norm NC", OF_COLUMNS),
    "group_norm_backward": lambda: backward("group_norm NCL", OF_PLANES),
    "instance_norm": lambda: forward("instance_norm NCL", OF_PLANES, momentum=0.1, use_input_stats=True),
    "instance_norm in evaluation": lambda: forward("instance_norm NCL", OF_PLANES, use_input_stats=False),
    "instance_norm_backward": lambda: backward("instance_norm NCL", OF_PLANES, use_input_stats=True),
    "weight_norm": lambda: forward("weight_norm of outputs first"),
    "weight_norm_backward": lambda: backward("weight_norm of outputs first"),
    "weight_norm of everything": lambda: forward("weight_norm of everything", {"dim": (0, 1, 2, "a", 0.5)}),
    "weight_norm_backward of everything": lambda: backward("weight_norm of everything", {"dim": (0, 1, 2, "a", 0.5)}),
    "batch_norm_apply": lambda: forward("batch_norm_apply NC", momentum=0.1),
    "batch_norm_backward_apply": lambda: backward("batch_norm_apply NC"),
    **{
        name: partial(part_of_a_batch, name)
        for name in ("batch_norm_stats", "batch_norm_backward_stats", "combine_stats")
    },
    "fold_batch_norm": fold,
}


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
    **NORM_CALLS,
    **{f"nn.{name}": lambda name=name: layer_pass(PASSES[name](), "__call__") for name in PASSES},
    **{f"nn.{name}.backward": lambda name=name: layer_pass(PASSES[name](), "backward") for name in PASSES},
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
                value._accumulated and value._accumulated.contents(),
            ]
        )
    if isinstance(value, nn.Layer):
        return snapshot([value.params, value.grads, value.buffers, value.training])
    return repr(value)


@cache
def what_is_right(name: str) -> Any:
    """What the good call returns, and what becomes of its arguments."""
    call = INVOCATIONS[name]()
    result = snapshot(call())
    return result, snapshot([call.arguments, call.reach])


def assert_raises(
    name: str, changes: Mapping[Path, Change], error: Any = (TypeError, ValueError), message: str = r"^\w+: "
) -> None:
    """The call with these changes raises and changes nothing; afterwards the good call does what it always does."""
    invocation = INVOCATIONS[name]()
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
    result = snapshot(invocation())
    assert (result, snapshot([invocation.arguments, invocation.reach])) == what_is_right(name)


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


def half(a: Array) -> Array:
    return a.astype(np.float16)


def longer(a: Array) -> Array:
    return np.concatenate([a, a])


def shared(a: Array, b: Array) -> Array:
    """An array like a, in the memory at the end of b."""
    return b.reshape(-1).view(np.uint8)[b.nbytes - a.nbytes :].view(a.dtype).reshape(a.shape)


ANYWHERE: dict[str, Callable[[Array], Any]] = {
    "integers": integers,
    "booleans": lambda a: a.astype(bool),
    "half": half,
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
        for kind in invocation.loose.get(path[0], ()):
            kinds.pop(kind, None)
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
    ("name", "path"),
    [
        pytest.param(name, path, id=f"{name}-{text_of(path)}")
        for name, made in MISTAKES.items()
        for path in dict.fromkeys(path for _, path, _ in made)
    ],
)
def test_every_mistake_in_an_argument_is_an_error(name: str, path: Path) -> None:
    for kind, other, change in MISTAKES[name]:
        if other == path:
            try:
                assert_raises(name, {path: change})
            except (Exception, pytest.fail.Exception) as failure:
                pytest.fail(f"{kind}: {failure}")


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
    (
        "sgd",
        ("grads", 0),
        other_float,
        TypeError,
        r"^sgd: grads\[0\] has dtype float64, expected float32, as its parameter has: pass grads",
    ),
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
    ("sgd", ("params", 0), read_only, TypeError, r"^sgd: params\[0\] is read-only, but would be written; give a copy$"),
    ("sgd", ("params", 1), strided, TypeError, r"^sgd: params\[1\] must be C-contiguous; give numpy"),
    ("sgd", ("params", 0), np.asfortranarray, TypeError, r"^sgd: params\[0\] must be C-contiguous; give numpy"),
    ("sgd", ("params", 1), other_float, TypeError, r"^sgd: momentum_buffers\[1\] has dtype float32, expected float64$"),
    (
        "sgd",
        ("momentum_buffers", 1),
        unaligned,
        TypeError,
        r"^sgd: momentum_buffers\[1\] has elements that do not lie at multiples of their size; give numpy.require",
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
    (
        "sgd",
        ("ema_params", 1),
        read_only,
        TypeError,
        r"^sgd: ema_params\[1\] is read-only, but would be written; give a copy$",
    ),
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
    ("Adam.step", ("grads",), None, ValueError, r"^Adam: grads is missing, and accumulate has added none$"),
    ("nested.step", ("grads", "first", "bias"), longer, ValueError, r"^Adam: grads\['first'\]\['bias'\] has shape"),
    (
        "nested.step",
        ("grads", "others", 0, 0),
        integers,
        TypeError,
        r"^Adam: grads\['others'\]\[0\]\[0\] has dtype int32",
    ),
    (
        "adam",
        ("grads", 1),
        other_float,
        TypeError,
        r"^adam: grads\[1\] has dtype float64, expected float32, as its parameter has: pass grads",
    ),
    ("adam", ("grads", 0), integers, TypeError, r"^adam: grads\[0\] has dtype int32, expected float32"),
    ("adam", ("grads", 0), swapped, TypeError, r"^adam: grads\[0\] has swapped byte order \(dtype >f4\)"),
    ("adam", ("grads", 0), longer, ValueError, r"^adam: grads\[0\] has shape \(6, 4\), expected \(3, 4\)$"),
    ("adam", ("grads", 1), 7, TypeError, r"^adam: grads\[1\] must be a numpy array, got int$"),
    ("adam", ("grads",), [], ValueError, r"^adam: grads has 0 entries, expected 2, one for each parameter$"),
    ("adam", ("step",), [1], ValueError, r"^adam: step has 1 entries, expected 2, one for each parameter$"),
    ("adam", ("step",), 1.5, TypeError, r"^adam: step must be an integer, got 1.5$"),
    ("adam", ("betas",), (0.9, 1.0), ValueError, r"^adam: beta2 must be in \[0, 1\), got 1.0$"),
    ("adam", ("betas",), 0.9, TypeError, r"^adam: betas must be two numbers, got 0.9$"),
    ("adamw", ("exp_avgs", 1), longer, ValueError, r"^adamw: exp_avgs\[1\] has shape \(10,\), expected \(5,\)$"),
    (
        "adamw",
        ("exp_avg_sqs",),
        [],
        ValueError,
        r"^adamw: exp_avg_sqs has 0 entries, expected 2, one for each parameter$",
    ),
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
    ("Adam.step", ("grads",), [None], ValueError, r"^Adam: grads has 1 entries, expected 2, one for each parameter$"),
    (
        "Adam.step",
        ("grads", 1),
        other_float,
        TypeError,
        r"^Adam: grads\[1\] has dtype float64, expected float32, as its parameter has: pass grads",
    ),
    ("Adam.step", ("grads",), dict.fromkeys("ab"), TypeError, r"^Adam: grads must be a list like params, got dict$"),
    (
        "Adam.add_param_group",
        ("param_group",),
        {"params": [], "speed": 1},
        ValueError,
        r"^Adam: unknown hyperparameter 'speed'",
    ),
    ("layer_norm", ("weight",), longer, ValueError, r"^layer_norm: weight has shape \(8,\), expected \(4,\)$"),
    ("layer_norm", ("bias",), other_float, TypeError, r"^layer_norm: bias has dtype float64, expected float32, as x"),
    (
        "layer_norm",
        ("out", 0),
        unaligned,
        TypeError,
        r"^layer_norm: out\[0\] has elements that do not lie at multiples",
    ),
    ("layer_norm", ("out", 0), strided, TypeError, r"^layer_norm: out\[0\] must be C-contiguous; give numpy"),
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
    (
        "batch_norm",
        ("out", 0),
        np.asfortranarray,
        TypeError,
        r"^batch_norm: out\[0\] must have its channels innermost in memory, without gaps or negative strides; None makes",
    ),
    ("batch_norm", ("running_mean",), None, TypeError, r"^batch_norm: running_mean is None, but the other"),
    (
        "batch_norm",
        ("running_var",),
        read_only,
        TypeError,
        r"^batch_norm: running_var is read-only, but would be written; give a copy$",
    ),
    ("rms_norm", ("eps",), -1.0, ValueError, r"^rms_norm: eps must be finite and >= 0, got -1.0$"),
    ("rms_norm", ("x",), lambda x: x[..., :0], ValueError, r"^rms_norm: x has shape \(6, 0\), expected it to end with"),
    ("rms_norm", ("weight",), other_float, TypeError, r"^rms_norm: weight has dtype float64, expected float32, as x"),
    ("rms_norm", ("out",), (None,), TypeError, r"^rms_norm: out must be a tuple of 2, with None for"),
    (
        "rms_norm_backward",
        ("rstd",),
        longer,
        ValueError,
        r"^rms_norm_backward: rstd has shape \(12,\), expected \(6,\)$",
    ),
    (
        "rms_norm_backward",
        ("weight",),
        None,
        ValueError,
        r"^rms_norm_backward: out\[1\] is given, but there is no weight$",
    ),
    (
        "layer_norm of float16",
        ("weight",),
        half,
        TypeError,
        r"^layer_norm: weight has dtype float16, expected float32, as x has dtype float16: pass weight\.astype\(np\.float32\)$",
    ),
    (
        "layer_norm of float16",
        ("bias",),
        other_float,
        TypeError,
        r"float32, as x has dtype float16: pass bias\.astype\(np\.float32\), or x\.astype\(np\.float64\)$",
    ),
    (
        "layer_norm of float16",
        ("out", 0),
        lambda out: out.astype(np.float32),
        TypeError,
        r"^layer_norm: out\[0\] has dtype float32, expected float16$",
    ),
    (
        "layer_norm_backward of bfloat16",
        ("dy",),
        half,
        TypeError,
        r"^layer_norm_backward: dy has dtype float16, expected bfloat16, as x has: pass dy\.astype\(x\.dtype\)$",
    ),
    (
        "layer_norm_backward of bfloat16",
        ("out", 1),
        half,
        TypeError,
        r"^layer_norm_backward: out\[1\] has dtype float16, expected float32$",
    ),
    (
        "batch_norm of bfloat16",
        ("running_mean",),
        half,
        TypeError,
        r"^batch_norm: running_mean has dtype float16, expected float32, as x has dtype bfloat16: pass",
    ),
    (
        "layer_norm",
        ("x",),
        integers,
        TypeError,
        r"^layer_norm: x has dtype int32, expected float32, float64, float16 or",
    ),
    (
        "cosine_norm",
        ("x",),
        lambda x: x[0, 0, ...],
        ValueError,
        r"^cosine_norm: x has shape \(\), expected at least",
    ),
    (
        "cosine_norm_backward",
        ("rnorm",),
        None,
        TypeError,
        r"^cosine_norm_backward: rnorm must be a numpy array, got None$",
    ),
    ("cosine_norm_backward", ("out",), integers, TypeError, r"^cosine_norm_backward: out has dtype int32"),
    (
        "cosine_norm_backward",
        ("out",),
        read_only,
        TypeError,
        r"^cosine_norm_backward: out is read-only, but would be written; give a copy$",
    ),
    (
        "add_layer_norm",
        ("residual",),
        longer,
        ValueError,
        r"^add_layer_norm: residual has shape \(12, 4\), expected \(6, 4\)$",
    ),
    (
        "add_layer_norm",
        ("residual",),
        None,
        TypeError,
        r"^add_layer_norm: residual must be a numpy array, got NoneType$",
    ),
    ("add_layer_norm", ("residual",), other_float, TypeError, r"^add_layer_norm: residual has dtype float64, expected"),
    ("add_layer_norm", ("out",), (None,) * 3, TypeError, r"^add_layer_norm: out must be a tuple of 4"),
    (
        "add_rms_norm",
        ("out", 1),
        read_only,
        TypeError,
        r"^add_rms_norm: out\[1\] is read-only, but would be written; give a copy$",
    ),
    ("add_layer_norm_backward", ("dsum",), other_float, TypeError, r"^add_layer_norm_backward: dsum has dtype float64"),
    (
        "add_rms_norm_backward",
        ("sum",),
        longer,
        ValueError,
        r"^add_rms_norm_backward: dy has shape \(6, 4\), expected \(12, 4\)$",
    ),
    (
        "batch_norm_relu",
        ("bias",),
        longer,
        ValueError,
        r"^batch_norm_relu: bias has shape \(8,\), expected \(4,\), as x",
    ),
    ("batch_norm_relu", ("training",), "no", TypeError, r"^batch_norm_relu: training must be a bool, got 'no'$"),
    (
        "batch_norm_relu_backward",
        ("bias",),
        other_float,
        TypeError,
        r"^batch_norm_relu_backward: bias has dtype float64",
    ),
    (
        "batch_norm_add_relu_backward",
        ("y",),
        longer,
        ValueError,
        r"^batch_norm_add_relu_backward: y has shape \(12, 4\), expected \(6, 4\)$",
    ),
    ("batch_renorm", ("r_max",), 0.5, ValueError, r"^batch_renorm: r_max must be finite and >= 1, got 0.5$"),
    ("batch_renorm", ("d_max",), -1, ValueError, r"^batch_renorm: d_max must be finite and >= 0, got -1$"),
    ("batch_renorm", ("d_max",), "x", TypeError, r"^batch_renorm: d_max must be a number, got 'x'$"),
    ("batch_renorm", ("running_var",), None, TypeError, r"^batch_renorm: running_var is None, but the other"),
    (
        "batch_renorm_backward",
        ("d",),
        other_float,
        TypeError,
        r"^batch_renorm_backward: d has dtype float32, expected float64$",
    ),
    (
        "batch_renorm_backward",
        ("r",),
        longer,
        ValueError,
        r"^batch_renorm_backward: r has shape \(8,\), expected \(4,\), as x of shape",
    ),
    (
        "group_norm",
        ("num_groups",),
        3,
        ValueError,
        r"^group_norm: num_groups must divide the 4 channels of x on axis 1, the channel_axis, got 3$",
    ),
    (
        "group_norm",
        ("num_groups",),
        0,
        ValueError,
        r"^group_norm: num_groups must divide the 4 channels of x on axis 1, the channel_axis, got 0$",
    ),
    (
        "group_norm",
        ("num_groups",),
        -2,
        ValueError,
        r"^group_norm: num_groups must divide the 4 channels of x on axis 1, the channel_axis, got -2$",
    ),
    ("group_norm", ("num_groups",), 2.0, TypeError, r"^group_norm: num_groups must be an integer, got 2.0$"),
    (
        "group_norm",
        ("channel_axis",),
        0,
        ValueError,
        r"^group_norm: channel_axis must not be 0, the axis of the samples, got 0$",
    ),
    (
        "group_norm",
        ("channel_axis",),
        -3,
        ValueError,
        r"^group_norm: channel_axis must not be 0, the axis of the samples, got -3$",
    ),
    (
        "group_norm_backward",
        ("num_groups",),
        4,
        ValueError,
        r"^group_norm_backward: mean has shape \(3, 2\), expected \(3, 4\)$",
    ),
    (
        "instance_norm",
        ("use_input_stats",),
        None,
        TypeError,
        r"^instance_norm: use_input_stats must be a bool, got None$",
    ),
    (
        "instance_norm",
        ("x",),
        lambda x: x[..., :1].copy(),
        ValueError,
        r"^instance_norm: x has shape \(3, 4, 1\), expected more than 1 value per sample and channel",
    ),
    ("instance_norm", ("running_mean",), None, TypeError, r"^instance_norm: running_mean is None, but the other"),
    (
        "instance_norm in evaluation",
        ("running_var",),
        longer,
        ValueError,
        r"^instance_norm: running_var has shape \(8,\), expected \(4,\), as x of shape",
    ),
    (
        "instance_norm_backward",
        ("mean",),
        lambda mean: mean[0].copy(),
        ValueError,
        r"^instance_norm_backward: mean has shape \(4,\), expected \(3, 4\)$",
    ),
    ("weight_norm", ("dim",), 2, ValueError, r"^weight_norm: dim must name an axis of v, which has 2, got 2$"),
    ("weight_norm", ("dim",), 0.5, TypeError, r"^weight_norm: dim must be an integer, got 0.5$"),
    ("weight_norm", ("dim",), 1, ValueError, r"^weight_norm: g has shape \(4, 1\), expected \(1, 6\), as v of shape"),
    ("weight_norm", ("dim",), None, ValueError, r"^weight_norm: g has shape \(4, 1\), expected \(\)$"),
    ("weight_norm", ("g",), other_float, TypeError, r"^weight_norm: g has dtype float64, expected float32, as v has"),
    ("weight_norm", ("g",), None, TypeError, r"^weight_norm: g must be a numpy array, got None$"),
    (
        "weight_norm of everything",
        ("out", 0),
        strided,
        TypeError,
        r"^weight_norm: out\[0\] must be C-contiguous; give numpy",
    ),
    (
        "weight_norm of everything",
        ("g",),
        lambda _: 1.0,
        TypeError,
        r"^weight_norm: g must be a numpy array, got float$",
    ),
    (
        "weight_norm of everything",
        ("out", 0),
        longer,
        ValueError,
        r"^weight_norm: out\[0\] has shape \(12, 4\), expected",
    ),
    (
        "weight_norm of everything",
        ("out", 1),
        other_float,
        TypeError,
        r"^weight_norm: out\[1\] has dtype float32, expected",
    ),
    ("weight_norm of everything", ("out",), (None,), TypeError, r"^weight_norm: out must be a tuple of 2"),
    (
        "weight_norm_backward of everything",
        ("dw",),
        longer,
        ValueError,
        r"^weight_norm_backward: dw has shape \(12, 4\), expected \(6, 4\)$",
    ),
    (
        "weight_norm_backward",
        ("dw",),
        other_float,
        TypeError,
        r"^weight_norm_backward: dw has dtype float64, expected float32, as v has: pass",
    ),
    (
        "weight_norm_backward",
        ("rnorm",),
        longer,
        ValueError,
        r"^weight_norm_backward: rnorm has shape \(8,\), expected \(4,\), as v of shape",
    ),
    (
        "batch_norm_stats",
        ("around",),
        longer,
        ValueError,
        r"^batch_norm_stats: around has shape \(8,\), expected \(4,\), as x of shape",
    ),
    (
        "batch_norm_stats",
        ("around",),
        other_float,
        TypeError,
        r"^batch_norm_stats: around has dtype float32, expected float64$",
    ),
    (
        "batch_norm_stats",
        ("channel_axis",),
        2,
        ValueError,
        r"^batch_norm_stats: channel_axis must name an axis of x, which",
    ),
    (
        "combine_stats",
        ("stats",),
        None,
        TypeError,
        r"^combine_stats: stats must be a list of \(count, mean, m2\), got NoneType$",
    ),
    ("combine_stats", ("stats",), [], ValueError, r"^combine_stats: stats must have at least one entry, got \[\]$"),
    (
        "combine_stats",
        ("stats", 0),
        (3, 4),
        TypeError,
        r"^combine_stats: stats\[0\] must be \(count, mean, m2\), got 2 values$",
    ),
    (
        "combine_stats",
        ("stats", 1),
        None,
        TypeError,
        r"^combine_stats: stats\[1\] must be \(count, mean, m2\), got NoneType$",
    ),
    (
        "combine_stats",
        ("stats", 1, 0),
        -1,
        ValueError,
        r"^combine_stats: count of stats\[1\] must be in \[0, 2\*\*53\), got -1$",
    ),
    (
        "combine_stats",
        ("stats", 1, 0),
        1.0,
        TypeError,
        r"^combine_stats: count of stats\[1\] must be an integer, got 1.0$",
    ),
    (
        "combine_stats",
        ("stats", 1, 1),
        longer,
        ValueError,
        r"^combine_stats: m2 of stats\[1\] has shape \(4,\), expected \(8,\)$",
    ),
    (
        "combine_stats",
        ("stats", 1),
        lambda one: (one[0], longer(one[1]), longer(one[2])),
        ValueError,
        r"^combine_stats: mean of stats\[1\] has shape \(8,\), expected \(4,\)$",
    ),
    (
        "combine_stats",
        ("stats", 0, 2),
        other_float,
        TypeError,
        r"^combine_stats: m2 of stats\[0\] has dtype float32, expected",
    ),
    ("batch_norm_apply", ("stats",), 3, TypeError, r"^batch_norm_apply: stats must be \(count, mean, m2\), got int$"),
    ("batch_norm_apply", ("stats", 0), 1, ValueError, r"^batch_norm_apply: count of stats must be more than 1, got 1$"),
    (
        "batch_norm_apply",
        ("stats", 0),
        0.5,
        TypeError,
        r"^batch_norm_apply: count of stats must be an integer, got 0.5$",
    ),
    (
        "batch_norm_apply",
        ("stats",),
        lambda stats: (stats[0], longer(stats[1]), longer(stats[2])),
        ValueError,
        r"^batch_norm_apply: mean has shape \(8,\), expected \(4,\), as x of shape",
    ),
    ("batch_norm_apply", ("running_var",), None, TypeError, r"^batch_norm_apply: running_var is None, but the other"),
    ("batch_norm_apply", ("momentum",), 2, ValueError, r"^batch_norm_apply: momentum must be in \[0, 1\], got 2$"),
    (
        "batch_norm_backward_stats",
        ("rstd",),
        other_float,
        TypeError,
        r"^batch_norm_backward_stats: rstd has dtype float32, expected float64$",
    ),
    (
        "batch_norm_backward_apply",
        ("count",),
        -1,
        ValueError,
        r"^batch_norm_backward_apply: count must be in \[0, 2\*\*53\), got -1$",
    ),
    (
        "batch_norm_backward_apply",
        ("count",),
        1.5,
        TypeError,
        r"^batch_norm_backward_apply: count must be an integer, got 1.5$",
    ),
    (
        "batch_norm_backward_apply",
        ("sum_dy",),
        None,
        TypeError,
        r"^batch_norm_backward_apply: sum_dy must be a numpy array, got None$",
    ),
    (
        "batch_norm_backward_apply",
        ("sum_dy_xhat",),
        longer,
        ValueError,
        r"^batch_norm_backward_apply: sum_dy_xhat has shape \(8,\), expected \(4,\), as x of shape",
    ),
    (
        "fold_batch_norm",
        ("bias",),
        longer,
        ValueError,
        r"^fold_batch_norm: bias has shape \(6,\), expected \(3,\), as weight of shape .* the output_axis$",
    ),
    (
        "fold_batch_norm",
        ("weight",),
        integers,
        TypeError,
        r"^fold_batch_norm: weight has dtype int32, expected float32, float64",
    ),
    (
        "fold_batch_norm",
        ("running_mean",),
        None,
        TypeError,
        r"^fold_batch_norm: running_mean must be a numpy array, got None$",
    ),
    (
        "fold_batch_norm",
        ("output_axis",),
        2,
        ValueError,
        r"^fold_batch_norm: output_axis must name an axis of weight, which has 2, got 2$",
    ),
    (
        "fold_batch_norm",
        ("output_axis",),
        1,
        ValueError,
        r"^fold_batch_norm: running_mean has shape \(3,\), expected \(4,\), as weight of shape",
    ),
    ("fold_batch_norm", ("eps",), -1, ValueError, r"^fold_batch_norm: eps must be finite and >= 0, got -1$"),
    (
        "batch_norm_backward",
        ("x",),
        longer,
        ValueError,
        r"^batch_norm_backward: dy has shape \(6, 4\), expected \(12, 4\)$",
    ),
    (
        "nn.LayerNorm",
        ("x",),
        other_float,
        TypeError,
        r"^layer_norm: x has dtype float64, but weight has dtype float32: pass x\.astype\(np\.float32\), or weight in",
    ),
    (
        "nn.AddLayerNorm",
        ("out",),
        (None,),
        TypeError,
        r"^AddLayerNorm: out must be a tuple of 2, with None for new results",
    ),
    (
        "nn.BatchNormAddReLU",
        ("residual",),
        longer,
        ValueError,
        r"^batch_norm_add_relu: residual has shape \(6, 4\), expected",
    ),
    (
        "nn.BatchNormAddReLU.backward",
        ("out",),
        [None, None],
        TypeError,
        r"^BatchNormAddReLU: out must be a tuple of 2, with None for new results$",
    ),
    (
        "nn.CosineLinear",
        ("x",),
        other_float,
        TypeError,
        r"^CosineLinear: x has dtype float64, expected float32, float16 or",
    ),
    (
        "nn.CosineLinear",
        ("x",),
        lambda x: x[:, 1:],
        ValueError,
        r"^CosineLinear: x has shape \(3, 3\), expected it to end with 4$",
    ),
    ("nn.WeightNormLinear", ("x",), None, TypeError, r"^WeightNormLinear: x must be a numpy array, got None$"),
    (
        "nn.WeightNormLinear",
        ("out",),
        read_only,
        TypeError,
        r"^WeightNormLinear: out is read-only, but would be written; give a copy$",
    ),
    ("nn.WeightNormLinear", ("out",), half, TypeError, r"^WeightNormLinear: out has dtype float16, expected float32$"),
    (
        "nn.CosineLinear.backward",
        ("dy",),
        half,
        TypeError,
        r"^CosineLinear: dy has dtype float16, expected float32: pass dy\.astype\(x\.dtype\)$",
    ),
    (
        "nn.CosineLinear.backward",
        ("dy",),
        longer,
        ValueError,
        r"^CosineLinear: dy has shape \(6, 3\), expected \(3, 3\)$",
    ),
    (
        "nn.WeightNormLinear.backward",
        ("out",),
        lambda out: np.zeros((3, 8), np.float32)[:, ::2],
        TypeError,
        r"^WeightNormLinear: out must be C-contiguous; give numpy",
    ),
]


@pytest.mark.parametrize(
    ("name", "path", "change", "error", "message"),
    [pytest.param(*case, id=f"{case[0]}-{text_of(case[1])}-{case[4]}") for case in CASES],
)
def test_error_says_what_is_wrong(name: str, path: Path, change: Any, error: type[Exception], message: str) -> None:
    assert_raises(name, {path: lambda call: change(call.get(path)) if callable(change) else change}, error, message)


@pytest.mark.parametrize(
    ("name", "path", "other", "message"),
    [
        ("cosine_norm_backward", ("out",), ("x",), "out would be written, but overlaps x"),
        ("add_layer_norm", ("out", 1), ("residual",), r"out\[1\] would be written, but overlaps residual"),
        ("add_rms_norm_backward", ("out", 0), ("dsum",), r"out\[0\] would be written, but overlaps dsum"),
        (
            "batch_norm_add_relu_backward",
            ("out", 1),
            ("out", 0),
            r"out\[[01]\] would be written, but overlaps out\[[01]\]",
        ),
        ("batch_renorm", ("running_mean",), ("bias",), "running_mean would be written, but overlaps bias"),
        ("group_norm", ("out", 0), ("x",), r"out\[0\] would be written, but overlaps x"),
        ("weight_norm", ("out", 0), ("v",), r"out\[0\] would be written, but overlaps v"),
        ("weight_norm of everything", ("out", 0), ("v",), r"out\[0\] would be written, but overlaps v"),
        ("batch_norm_apply", ("running_var",), ("weight",), "running_var would be written, but overlaps weight"),
        ("batch_norm_backward_apply", ("out",), ("dy",), "out would be written, but overlaps dy"),
        ("nn.CosineLinear", ("out",), ("x",), "out would be written, but overlaps another array"),
    ],
)
def test_overlap_of_results_says_which_arrays(name: str, path: Path, other: Path, message: str) -> None:
    function = INVOCATIONS[name]().call
    named = type(function.__self__).__name__ if hasattr(function, "__self__") else function.__name__
    change = {path: partial(move_into, path, other)}
    assert_raises(name, change, ValueError, rf"^{named}: {message}$")


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


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize(
    "keywords", [{"eps": -1.0}, {"eps": NAN}, {"eps": "x"}, {"dtype": int}, {"dtype": np.float16}, {"dtype": ">f4"}]
)
def test_layers_refuse_what_their_functions_would(name: str, keywords: dict[str, Any]) -> None:
    make = getattr(nn, name)
    counts = (2, 4) if name == "GroupNorm" or "Linear" in name else (4,)
    if keywords.keys() <= inspect.signature(make).parameters.keys():
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: {next(iter(keywords))} must be"):
            make(*counts, **keywords)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.BatchNorm(4, momentum=1.1), r"^BatchNorm: momentum must be in \[0, 1\], got 1.1$"),
        (lambda: nn.BatchNormReLU(4, momentum="x"), r"^BatchNormReLU: momentum must be a number, got 'x'$"),
        (lambda: nn.BatchNorm(4, frozen="no"), r"^BatchNorm: frozen must be a bool, got 'no'$"),
        (
            lambda: nn.BatchNormAddReLU(4, frozen=True, track_running_stats=False),
            r"^BatchNormAddReLU: frozen needs track_running_stats$",
        ),
        (lambda: nn.BatchRenorm(4, r_max=0.5), r"^BatchRenorm: r_max must be finite and >= 1, got 0.5$"),
        (lambda: nn.BatchRenorm(4, d_max=-1), r"^BatchRenorm: d_max must be finite and >= 0, got -1$"),
        (lambda: nn.InstanceNorm(4, momentum=None), r"^InstanceNorm: momentum must be a number, got None$"),  # type: ignore[arg-type]
        (lambda: nn.GroupNorm(4, 6), r"^GroupNorm: num_groups must divide the 6 channels, got 4$"),
        (lambda: nn.GroupNorm(0, 6), r"^GroupNorm: num_groups must divide the 6 channels, got 0$"),
    ],
)
def test_layers_say_what_is_wrong(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


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

    def locked(a: Array) -> Array:
        a = a.view()
        a.flags.writeable = False
        return a

    arguments = {
        name: locked(one) if isinstance(one, np.ndarray) and not name.startswith("running") else one
        for name, one in call.arguments.items()
    }
    read = replace(call, x=locked(call.x), dy=locked(call.dy), arguments=arguments)
    assert snapshot(read.run(F)) == snapshot(call.run(F))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 2, 5)])
def test_batch_norm_takes_broadcast_inputs(shape: tuple[int, ...], training: bool, rng: Generator) -> None:
    running = np.zeros(3), np.ones(3)
    for axes in (1, *shape[1:]), (shape[0], 1, *shape[2:]), (1, 1, *shape[2:]):
        x = np.broadcast_to(ordinary(rng, axes, "float64"), shape)
        y, *_ = F.batch_norm(x, *map(np.copy, running), training=training)
        assert differing(y, F.batch_norm(x.copy(), *map(np.copy, running), training=training)[0]) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, LookupError])
def test_what_an_arguments_own_code_raises_is_not_lost(error: type[BaseException]) -> None:
    class Odd:
        def __float__(self) -> float:
            raise error

        __index__ = __float__  # type: ignore[assignment]

    x = np.ones((4, 8), np.float32)
    for call in (
        lambda: F.layer_norm(x, 8, eps=Odd()),  # type: ignore[arg-type]
        lambda: F.layer_norm(x, Odd()),  # type: ignore[arg-type]
        lambda: F.batch_norm(x, None, None, training=True, channel_axis=Odd()),  # type: ignore[arg-type]
    ):
        with pytest.raises(error):
            call()


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


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("norm", [name for name, norm in NORMS.items() if norm.norm != "weight_norm"])
def test_no_values_are_legal(norm: str, dtype: str) -> None:
    """No samples, rows or places: results without values, a gradient of zero for the bias, running statistics as they were."""
    call = NORMS[norm].call(np.random.default_rng(2), dtype, 24, 4)
    axes = {*range(call.x.ndim)} - {call.arguments.get("channel_axis", -1) % call.x.ndim}
    if "normalized_shape" in call.arguments:
        axes = {*range(call.x.ndim - len(call.arguments["normalized_shape"]))}
    for emptied in axes:
        index = tuple(slice(0) if axis == emptied else slice(None) for axis in range(call.x.ndim))
        like_x = {"residual", "dsum"} & call.arguments.keys()
        empty = replace(
            call,
            x=call.x[index],
            dy=call.dy[index],
            arguments=call.arguments | {name: call.arguments[name][index] for name in like_x},
        )
        results = empty.run(F)
        for name in LIKE_X & results.keys():
            assert results[name].shape == empty.x.shape
        for name in LIKE_WEIGHT & results.keys():
            assert differing(results[name], call.arguments.get(name, np.zeros_like(results[name]))) == 0


def test_empty_weights_and_empty_shards_are_legal() -> None:
    for shape, axes in ((0, 3), (0, 1)), ((3, 0), (3, 1)):
        w, rnorm = F.weight_norm(np.ones(shape), np.ones(axes))
        dv, dg = F.weight_norm_backward(w, np.ones(shape), np.ones(axes), np.ones(shape[0]))
        assert (w.shape, rnorm.shape, dv.shape, dg.shape) == (shape, shape[:1], shape, axes)
    for shape in (0, 3), (0, 3, 5), (4, 3, 0):
        count, mean, m2 = F.batch_norm_stats(np.ones(shape))
        assert (count, mean.tolist(), m2.tolist()) == (0, [0] * 3, [0] * 3)
        full = F.batch_norm_stats(np.random.default_rng(0).random((5, 3)))
        for parts in [(count, mean, m2), full], [full, (count, mean, m2)]:
            assert snapshot(F.combine_stats(parts)) == snapshot(full)
        assert F.combine_stats([(count, mean, m2)])[0] == 0
        y, mean, rstd = F.batch_norm_apply(np.ones(shape), full)
        assert y.shape == shape
        sums = F.batch_norm_backward_stats(y, np.ones(shape), mean, rstd)
        assert not np.any(sums)
        assert F.batch_norm_backward_apply(y, np.ones(shape), mean, rstd, 5, *sums).shape == shape


def test_one_value_an_instance_is_torchs_error_but_for_running_statistics() -> None:
    for shape in (4, 3), (4, 3, 1), (4, 3, 1, 1):
        layer = nn.InstanceNorm(3, track_running_stats=True)
        before = snapshot(layer)
        with pytest.raises(ValueError, match="expected more than 1 value per sample and channel"):
            layer(np.ones(shape, np.float32))
        assert snapshot(layer) == before
        layer.eval()(np.ones(shape, np.float32))
    nn.InstanceNorm(3)(np.ones((1, 3, 2), np.float32))


def test_a_batch_of_one_is_torchs_error_in_training_only() -> None:
    for shape in (1, 3), (1, 3, 1), (1, 3, 1, 1):
        layer = nn.BatchNorm(3)
        before = snapshot(layer)
        with pytest.raises(ValueError, match="expected more than 1 value per channel when training"):
            layer(np.ones(shape, np.float32))
        assert snapshot(layer) == before
        layer.eval()(np.ones(shape, np.float32))
    nn.BatchNorm(3)(np.ones((1, 3, 2), np.float32))
