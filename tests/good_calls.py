"""A good call of every function, constructor, step and layer, and bad values for its arguments.

``test_bad_input.py`` makes every kind of mistake in each of them; ``test_error_texts.py`` has the texts of some errors.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from tables import NORMS, RULES, Array, Call, ordinary

from fastopt import functional as F
from fastopt import nn, optim

Path: TypeAlias = tuple[Any, ...]  # the path to an argument: ("grads", 1)
Change: TypeAlias = Callable[["Invocation"], Any]  # makes the new value of that argument
NAN, INF = math.nan, math.inf


# Good calls


@dataclass
class Invocation:
    """A good call that has not been made yet."""

    call: Callable[..., Any]
    arguments: dict[str, Any]
    written: tuple[str, ...]  # the arguments whose arrays it writes
    bad: Mapping[str, Sequence[Any]]  # values that an argument must not have
    reach: Any = None  # other objects that it could change
    fixed: bool = True  # whether the arrays' shapes and dtypes follow from each other
    loose: Mapping[str, Sequence[str]] = field(default_factory=dict)  # kinds of mistakes that are legal in an argument

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
NO_GRADS = (None, 3, "ab", {}, [], [None] * 7, np.ones((2, 5), np.float32))
NO_STEP = (0, -1, 2**53, 2**63, 2**70, [3], [1, 2, 3], [1, 0], [1, 1.5], [1, None], [1, 2**53], *NO_INTEGER)

# Bad values of hyperparameters, beyond those that are bad for all numbers of their kind.
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
    "decoupled_weight_decay": ("no", 0.5, []),  # None means the rule's own way in some rules
    "seed": (*NO_INTEGER, -1, 2**53, True),
    "ema_decay": (NAN, INF, -0.1, 1.1, "0.9", [0.9], np.array([0.1, 0.2])),
    "swa_start": (0, -1, 1.5, "1", 3),  # excludes ema_decay
    "swa_freq": (*NO_INTEGER, 0, -1),
    "weights": (None, "x", 3, ["master"], b"master", "bfloat16"),
    "moments": ("x", 3, ["8bit"], b"8bit", "float32"),
    "moment_rounding": (None, "x", 3, ["nearest"], b"nearest"),
    "grad_scale": (*NOT_POSITIVE, 0.0),
    "clip_exponent": (NAN, INF, -1.0, "1", [1.0]),  # None means no bound
    "clip_norm": (NAN, -INF, -1.0, -(10**400), "1", [1.0], np.array([0.1, 0.2])),
    **dict.fromkeys(("clip_value", "clip_param_norm", "clip_adaptive"), (NAN, -1.0, "1", 1.0)),  # exclude clip_norm
}


def bad_values(name: str, good: Any) -> Sequence[Any]:
    """Bad values for an argument whose usual value looks like ``good``."""
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
    "dim": (2, -3, 10**30, [1], *NO_INTEGER),  # without a dim, g has another shape
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
    """Hyperparameters with the most state, and all flags of the rule that are compatible with it."""
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
    """An update of 16-bit parameters whose moments are not float32 either."""
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
    """The constructor or the step of an optimizer whose parameters are in nested dicts and lists."""
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


READ = ("strided", "backwards", "rows backwards", "unaligned")  # layouts of arrays that kernels only read
ANY_FLOAT = ("half", "other float")


def part_of_a_batch(name: str) -> Invocation:
    """Calls of the functions that have no ``out``."""
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


def clip(name: str) -> Invocation:
    limit = "max_norm" if name == "clip_grad_norm" else "clip_value"
    arguments: dict[str, Any] = {"grads": arrays(), limit: 0.5}
    bad: dict[str, Sequence[Any]] = {
        limit: (NAN, -INF, -1.0, -(10**400), *NO_NUMBER),
        "grads": (None, 3, "ab", {"a": 3}, [3]),
    }
    if name == "clip_grad_norm":
        arguments["error_if_nonfinite"], bad["error_if_nonfinite"] = False, NO_FLAG
    return Invocation(getattr(F, name), arguments, ("grads",), bad, fixed=False, loose={"grads": ("half",)})


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
    "ScaleNorm": lambda: nn.ScaleNorm(4),
    "BatchNorm": lambda: nn.BatchNorm(4),
    "BatchNormReLU": lambda: nn.BatchNormReLU(4),
    "BatchNormAddReLU": lambda: nn.BatchNormAddReLU(4),
    "BatchRenorm": lambda: nn.BatchRenorm(4),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "InstanceNorm": lambda: nn.InstanceNorm(4, affine=True, track_running_stats=True),
    "CosineLinear": lambda: nn.CosineLinear(4, 3, seed=1),
    "WeightNormLinear": lambda: nn.WeightNormLinear(4, 3, seed=1),
}
OF_PLANES = {"channel_axis": (3, -4, 0, -3, 10**30, [1], *NO_INTEGER)}  # three axes; not the samples'
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
    "scale_norm": lambda: forward("scale_norm"),
    "scale_norm_backward": lambda: backward("scale_norm"),
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
)  # they get every mistake in parameters and gradients; other rules get some
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
    **{name: partial(clip, name) for name in ("clip_grad_norm", "clip_grad_value")},
    **{f"nn.{name}": lambda name=name: layer_pass(PASSES[name](), "__call__") for name in PASSES},
    **{f"nn.{name}.backward": lambda name=name: layer_pass(PASSES[name](), "backward") for name in PASSES},
}


def snapshot(value: Any) -> Any:
    """Everything in which a change could show."""
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
