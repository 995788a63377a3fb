"""Digests of the results of every kernel, for each dtype, format and layout: they show whether two builds agree to the
last bit.

    python bench/digest.py                         # one digest over all
    python bench/digest.py --json new.json         # and one for each result of each case, into a file
    python bench/digest.py --compare old.json new.json
    python bench/digest.py --only "Adam/.*8bit"    # the cases whose names match, with a digest of each

It uses the public interface only, so that one file serves several versions of the package.  Choose the kernels with FASTOPT_ISA
and the threads with OMP_NUM_THREADS.  NaN equals NaN.  Cases that a version refuses are missing from its file.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # gives NumPy bfloat16
import numpy as np

import fastopt as fo

Options = dict[str, Any]
Results = Iterator[tuple[str, Any]]
Cases = Iterator[tuple[str, Callable[[], Results]]]

DTYPES, HALVES = ("float32", "float64"), ("float16", "bfloat16")


class Digest:
    """A digest of a sequence of arrays and numbers, with their dtypes and shapes."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)

    def add(self, result: Any) -> None:
        array = np.ascontiguousarray(result)
        if array.dtype.kind not in "iub" and (nan := array != array).any():
            array = np.where(nan, array.dtype.type(np.nan), array)
        self._hash.update(f"{array.dtype.name}{np.shape(result)}".encode())
        self._hash.update(array.tobytes())

    def __str__(self) -> str:
        return self._hash.hexdigest()


@cache
def _numbers(seed: Sequence[int], shape: tuple[int, ...], dtype: str, wide: bool) -> Any:
    rng = np.random.default_rng([20_000, *seed])
    x = rng.standard_normal(shape)
    if wide:
        low, high = (-30, 7) if dtype == "float16" else (-153, 50)
        # Powers of two are exact: NumPy's other powers differ from one processor to another.
        x = np.ldexp(x, rng.integers(low, high, shape)) * rng.choice([0.0, 1.0], shape, p=[0.1, 0.9])
    return np.asarray(x).astype(dtype)


def numbers(seed: Sequence[int], shape: tuple[int, ...], dtype: str, way: str = "") -> Any:
    """Normally distributed numbers.  "wide": numbers of all magnitudes that have finite squares, with zeros of both
    signs; "slice": part of a larger array; "shifted": at an address to which no vector is aligned."""
    x = _numbers(seed, shape, dtype, way == "wide")
    if way == "slice" and x.ndim:
        return np.concatenate([x, np.full_like(x, np.nan)], axis=-1)[..., : x.shape[-1]]
    room = np.empty(x.size + 16, dtype)[1 + seed[0] % 15 if way == "shifted" else 0 :][: x.size].reshape(shape)
    room[...] = x
    return room


# Optimizers

SHAPES = ((1,), (63,), (64,), (65,), (255,), (1000,), (16387,), (33, 65), (3, 5, 7), (130, 20), (0, 2))
OWN: dict[str, list[Options]] = {
    "ADOPT": [{}, {"clip_exponent": None}],
    "ASGD": [{}, {"t0": 1.0, "lambd": 0.01}],
    "Adadelta": [{}],
    "Adafactor": [{}, {"eps": (1e-5, 1e-2), "d": 0.5}],
    "Adagrad": [{}, {"lr_decay": 0.1, "initial_accumulator_value": 0.1}, {"eps_in_sqrt": True, "eps": 1e-3}],
    "Adam": [{}, {"amsgrad": True}, {"eps_hat": True}, {"amsgrad": True, "eps_hat": True}],
    "AdamW": [{}, {"amsgrad": True}],
    "AdEMAMix": [{}, {"alpha_warmup": 3, "beta3_warmup": 3}],
    "LARS": [{}, {"nesterov": True, "eps": 1e-3}],
    "Muon": [{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 2}],
    "RMSprop": [
        *({**centered, **momentum} for centered in ({}, {"centered": True}) for momentum in ({}, {"momentum": 0.9})),
        {"momentum": 0.9, "velocity": True, "eps_in_sqrt": True, "eps": 1e-3},
        {"centered": True, "momentum": 0.9, "velocity": True},
    ],
    "Rprop": [{}, {"step_sizes": (0.05, 0.12)}],
    "SGD": [
        {},
        *({"momentum": 0.9, **more} for more in ({}, {"dampening": 0.3}, {"nesterov": True})),
        *({"momentum": 0.9, "velocity": True, "nesterov": nesterov} for nesterov in (False, True)),
    ],
    "ScheduleFreeAdamW": [{}, {"warmup_steps": 3, "r": 1.5}],
    "ScheduleFreeSGD": [{}, {"warmup_steps": 3, "r": 1.5}],
    "SwitchOptimizer": [{}, {"switch_at": 2}, {"switch_at": 2, "sgd_lr": 0.01}],
}
NONE: Options = {}
AROUND: dict[str, Options] = {
    "decay": {"weight_decay": 0.1},
    "l2": {"weight_decay": 0.1, "decoupled_weight_decay": False},
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "fixed": {"weight_decay": 0.1, "decoupled_weight_decay": True, "fixed_decay": True},
    "l1": {"l1": 0.03},
    "l1 and l2": {"l1": 0.03, "weight_decay": 0.1, "decoupled_weight_decay": False},
    "proximal_l1": {"l1": 0.3, "proximal_l1": True},
    "proximal_l1_lr": {"l1": 0.3, "proximal_l1": "lr"},
    "l2_init": {"l2_init": 0.1},
    "l2_init decoupled": {"l2_init": 0.1, "decoupled_weight_decay": True},
    "noise": {"noise": 0.1, "seed": 3 * 2**48 + 12_345},
    "temperature": {"temperature": 0.01},
    "maximize": {"maximize": True},
    "ema": {"ema_decay": 0.9},
    "ema_warmup": {"ema_decay": 0.9, "ema_warmup": True},
    "swa": {"swa_start": 2, "swa_freq": 2},
}
STEPS: dict[str, Options] = {
    "grad_scale": {"grad_scale": 3.0},
    "clip_norm": {"clip_norm": 2.0},
    "clip_norm far above": {"clip_norm": 1e6, "grad_scale": 0.7},
    "clip_value": {"clip_value": 0.5},
    "clip_param_norm": {"clip_param_norm": 1.5, "grad_scale": 3.0},
    "clip_adaptive": {"clip_adaptive": 0.5, "grad_scale": 3.0},
    "skip_nonfinite": {"skip_nonfinite": True},
    "zero_grads": {"zero_grads": True},
}
MUCH: Options = {"l1": 0.03, "weight_decay": 0.1, "l2_init": 0.1, "noise": 0.1, "ema_decay": 0.9}
WAYS = ("", "wide", "slice", "shifted", "mixed gradients", "accumulated")
WEIGHTS = ("stochastic", "nearest", "kahan", "master", "correction")
MOMENTS: tuple[Options, ...] = (
    {},
    {"moments": "bfloat16"},
    {"moments": "bfloat16", "moment_rounding": "nearest"},
    {"moments": "8bit"},
)
FORMATS = [
    *(("float32", moments) for moments in MOMENTS[1:]),
    *(
        (dtype, {"weights": weights, **moments})
        for dtype, weights, moments in itertools.product(HALVES, WEIGHTS, MOMENTS)
        if (dtype, weights) != ("float16", "correction")
    ),
]


def short(options: Options) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items())


def states_of(opt: Any) -> Results:
    """The state of an optimizer after a step."""
    for _, state in sorted(opt.state_dict()["state"].items()):
        yield from state.items()


def stepped(cls: Any, dtype: str, options: Options, asked: Options, way: str) -> Results:
    """Three steps of the class, then one of the stateless function from the same state; some gradients are missing."""
    shapes = [shape for shape in SHAPES if len(shape) == 2] if cls.__name__ == "Muon" else SHAPES
    params = [numbers((i, 0), shape, dtype, way) for i, shape in enumerate(shapes)]
    if way == "slice":
        params = [np.ascontiguousarray(param) for param in params]
    opt = cls(params, **{"lr": 0.1, **options})

    def gradients(t: int) -> list[Any]:
        kinds = ("float32", *HALVES) if way == "mixed gradients" else (dtype,)
        some = [numbers((i, t), shape, kinds[(i + t) % len(kinds)], way) for i, shape in enumerate(shapes)]
        if asked.get("skip_nonfinite") and t == 2:
            some[0].flat[0] = np.inf
        return [None if t == 3 and i % 4 == 1 else one for i, one in enumerate(some)]

    for t in (1, 2, 3):
        grads = gradients(t)
        if way == "accumulated":
            opt.accumulate(grads)
            opt.accumulate(gradients(3))
        info = opt.step(*([] if way == "accumulated" else [grads]), **asked)
        yield f"info at {t}", np.array([info.step, -1.0 if info.grad_norm is None else info.grad_norm, info.skipped])
        if "zero_grads" in asked:
            yield from ((f"grads at {t}", grad) for grad in grads if grad is not None)
        yield from ((f"params at {t}", param) for param in params)
    yield from states_of(opt)
    if cls.function is not None and way != "accumulated":
        yield from functional(cls, opt, params, gradients(4), {"lr": 0.1, **options}, asked)
    if hasattr(opt, "eval"):
        opt.eval()
        yield from (("params in evaluation", param) for param in params)


def functional(cls: Any, opt: Any, params: list[Any], grads: list[Any], options: Options, asked: Options) -> Results:
    update = getattr(fo.functional, cls.function or cls.__name__.lower())
    known = inspect.signature(update).parameters
    states = [{**state} for _, state in sorted(opt.state_dict()["state"].items())]
    steps = [int(state["step"]) + 1 for state in states]
    arguments: dict[str, list[Any]] = {"params": [np.array(param) for param in params], "grads": grads}
    for name, parameter in known.items():
        some = [state.get(name[:-1]) for state in states]
        needed = parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
        if name not in ("params", "grads", "step") and (needed or any(one is not None for one in some)):
            arguments[name] = [None if one is None else np.array(one) for one in some]
    renamed = {"step_sizes": "step_size_limits"}
    update(**arguments, step=steps, **{renamed.get(name, name): value for name, value in options.items()}, **asked)
    for name, arrays in arguments.items():
        yield from ((f"functional {name}", array) for array in arrays if array is not None)


def optimizer_cases() -> Cases:
    for name in sorted(fo.optim.__all__):
        cls = getattr(fo.optim, name)
        if not isinstance(cls, type) or not issubclass(cls, fo.optim.Optimizer) or cls is fo.optim.Optimizer:
            continue
        for own in OWN.get(name, [{}]):

            def case(
                dtype: str,
                label: str,
                more: Options,
                asked: Options = NONE,
                way: str = "",
                cls: Any = cls,
                own: Options = own,
            ) -> tuple[str, Callable[[], Results]]:
                path = f"{cls.__name__}({short(own)})/{dtype}/{label or 'plain'}"
                return path, lambda: stepped(cls, dtype, {**own, **more}, asked, way)

            for dtype in DTYPES:
                yield from (case(dtype, label, more) for label, more in AROUND.items())
                yield from (case(dtype, label, {}, asked) for label, asked in STEPS.items())
                yield from (case(dtype, way, {}, {}, way) for way in WAYS if dtype == "float32" or "mixed" not in way)
                yield case(dtype, "much", MUCH, {"clip_norm": 2.0, "zero_grads": True}, "slice")
            for dtype, more in FORMATS:
                yield case(dtype, short(more), more)
                yield case(dtype, f"{short(more)}/slice", more, {}, "slice")
                ways = ("wide", "mixed gradients") if not (own and "moments" in more and "weights" in more) else ()
                yield from (case(dtype, f"{short(more)}/{way}", more, {}, way) for way in ways)
                yield case(dtype, f"{short(more)}/much", {**more, **MUCH}, {"clip_value": 0.5}, "slice")


# Normalizations

NORMS = {  # the names of their results, forward and backward
    "layer_norm": ("y mean rstd", "dx dweight dbias"),
    "add_layer_norm": ("y sum mean rstd", "dx dweight dbias"),
    "rms_norm": ("y rstd", "dx dweight"),
    "add_rms_norm": ("y sum rstd", "dx dweight"),
    "cosine_norm": ("y rnorm", "dx"),
    "scale_norm": ("y rnorm", "dx dg"),
    "batch_norm": ("y mean rstd", "dx dweight dbias"),
    "batch_norm_relu": ("y mean rstd", "dx dweight dbias"),
    "batch_norm_add_relu": ("y mean rstd", "dx dresidual dweight dbias"),
    "batch_renorm": ("y mean rstd r d", "dx dweight dbias"),
    "batch_norm_apply": ("y mean rstd", "dx"),
    "group_norm": ("y mean rstd", "dx dweight dbias"),
    "instance_norm": ("y mean rstd", "dx dweight dbias"),
    "weight_norm": ("y rnorm", "dx dg"),
}
ROWS = {  # shapes whose last axes are normalized, and how many of them
    **{f"{rows}x{width}": ((rows, width), 1) for rows, width in ((1, 1), (3, 64), (5, 65), (300, 7), (7, 1000), (2, 16387))},
    "two axes": ((4, 3, 5, 13), 2),
}  # fmt: skip
CHANNELS = {  # shapes with the axis of channels
    **{f"NC {n}x{c}": ((n, c), 1) for n, c in ((2, 3), (70, 16), (33, 257), (300, 64))},
    **{f"NCL {n}x{c}x{s}": ((n, c, s), 1) for n, c, s in ((2, 3, 1000), (5, 64, 7), (3, 4, 16387))},
    "NCHW": ((3, 8, 9, 7), 1),
    "NCDHW": ((2, 4, 3, 5, 4), 1),
    "NHWC": ((3, 9, 7, 24), -1),
    "NHWC wide": ((2, 3, 5, 259), -1),
    "CL": ((5, 70), 0),
}
OPTIONS: dict[str, Options] = {
    "": {},
    "bare": {"weight": None, "bias": None, "running_mean": None, "running_var": None, "dsum": None},
    "no bias": {"bias": None, "momentum": 1.0, "eps": 1e-3, "r_max": 1.2, "d_max": 0.1},
    "evaluation": {"training": False, "use_input_stats": False},
}


def call(function: str, known: Mapping[str, Any], names: str) -> Options:
    """Calls a function with those of the known arguments that it takes; yields its results by name."""
    of = getattr(fo.functional, function)
    results = of(**{name: known[name] for name in inspect.signature(of).parameters if name in known})
    results = results if isinstance(results, tuple) else (results,)
    return dict(zip(names.split(), results, strict=True))


def normalized(
    norm: str, dtype: str, shape: tuple[int, ...], axis: int, axes: int, way: str, options: Options
) -> Results:
    """A forward and a backward pass.  ``axes``: how many axes are normalized, 0 for a norm of channels."""

    def like_x(seed: int) -> Any:
        if way == "some channels":
            return numbers((seed, len(shape)), (shape[0], shape[1] + 1, *shape[2:]), dtype)[:, :-1]
        x = numbers((seed, len(shape)), shape, dtype, "slice" if way == "slice" else "")
        return np.moveaxis(x, -1, 1) if way == "seen as NCHW" else x

    x, dy, residual, dsum = map(like_x, range(4))
    axis = 1 if way == "seen as NCHW" else axis
    channels, of = x.shape[axis], "float32" if dtype in HALVES else dtype
    of_weight = shape[len(shape) - axes :] if axes else (channels,)
    known: Options = {"x": x, "v": x, "dy": dy, "dw": dy, "residual": residual, "dsum": dsum, "channel_axis": axis}
    known |= {
        "normalized_shape": of_weight,
        "dim": axis,
        "num_groups": max(n for n in (1, 2, 4, 8) if channels % n == 0),
    }
    known |= {name: numbers((7, i), of_weight, of) for i, name in enumerate(("weight", "bias", "running_mean"))}
    known |= {"running_var": known["weight"] ** 2, "training": True, "use_input_stats": True, **options}
    of_g = () if norm == "scale_norm" else tuple(n if i == axis % x.ndim else 1 for i, n in enumerate(x.shape))
    known["g"] = numbers((8,), of_g, of)
    first, second = NORMS[norm]
    if norm == "batch_norm_apply":  # its statistics are combined from two halves
        parts = [x[: len(x) // 2], x[len(x) // 2 :]]
        stats = [fo.functional.batch_norm_stats(part, channel_axis=axis) for part in parts]
        known["stats"] = fo.functional.combine_stats(stats)
        yield from (("stats", one) for one in known["stats"])
    results = call(norm, known, first)
    yield from results.items()
    yield from ((name, known[name]) for name in ("running_mean", "running_var") if known[name] is not None)
    known |= results
    if norm == "batch_norm_apply":
        known |= call("batch_norm_backward_stats", known, "sum_dy sum_dy_xhat") | {"count": x.size // channels}
        yield from ((name, known[name]) for name in ("sum_dy", "sum_dy_xhat"))
    name = "batch_norm_backward_apply" if norm == "batch_norm_apply" else f"{norm}_backward"
    yield from ((key, value) for key, value in call(name, known, second).items() if value is not None)


def norm_cases() -> Cases:
    for norm, dtype, (label, options) in itertools.product(NORMS, (*DTYPES, *HALVES), OPTIONS.items()):
        of_rows = any(kind in norm for kind in ("layer", "rms", "cosine", "scale"))
        for layout, (shape, axis) in (ROWS if of_rows else CHANNELS).items():
            ways = ["", "slice", *(["seen as NCHW"] if "NHWC" in layout else [])]
            ways += ["some channels"] if "NC" in layout and len(shape) > 2 else []
            for way in ways:
                axes = axis if of_rows else 0
                yield (
                    f"{norm}/{dtype}/{layout} {way}/{label}",
                    lambda a=(norm, dtype, shape, 1 if axes else axis, axes, way, options): normalized(*a),  # type: ignore[misc]
                )


# The rest


def dropped(name: str, dtype: str, shape: tuple[int, ...], p: float, axis: int, way: str) -> Results:
    x, dy = (numbers((seed,), shape, dtype, way) for seed in (0, 1))
    known = {"x": x, "dy": dy, "p": p, "seed": 2**40 + 5, "step": 3, "channel_axis": axis}
    yield from call(name, known, "y").items()
    yield from call(f"{name}_backward", known, "dx").items()


def folded(dtype: str, axis: int) -> Results:
    shape = (8, 8, 3, 3)
    weight, *rows = numbers((0,), shape, dtype), *(numbers((i,), (8,), dtype) for i in range(1, 5))
    bias, mean, bn_weight, bn_bias = rows
    results = fo.functional.fold_batch_norm(weight, bias, mean, mean**2, bn_weight, bn_bias, output_axis=axis)
    yield from zip(("weight", "bias"), results, strict=True)


def other_cases() -> Cases:
    names, layouts = ("dropout", "gaussian_dropout", "channel_dropout"), {"NC 3x65": ((3, 65), 1), **CHANNELS}
    for name, dtype, p, way in itertools.product(names, (*DTYPES, *HALVES), (0.0, 0.3, 1.0), ("", "slice")):
        for layout, (shape, axis) in layouts.items():
            arguments = (name, dtype, shape, p, axis, way)
            yield f"{name}/{dtype}/{layout} {way}/p={p}", lambda a=arguments: dropped(*a)  # type: ignore[misc]
    for dtype, axis in itertools.product(DTYPES, (0, 1)):
        yield f"fold_batch_norm/{dtype}/{axis}", lambda a=(dtype, axis): folded(*a)  # type: ignore[misc]


def digests(only: str) -> dict[str, dict[str, str]]:
    """The digests of every result of every case that is not refused."""
    every = {}
    for name, run in itertools.chain(optimizer_cases(), norm_cases(), other_cases()):
        if re.search(only, name):
            results: dict[str, Digest] = {}
            try:
                with np.errstate(all="ignore"):
                    for key, value in run():
                        results.setdefault(key, Digest()).add(value)
            except (TypeError, ValueError) as error:
                if not re.match(r"\w+: ", str(error)):  # not one of the package's errors
                    raise
                continue
            every[name] = {key: str(one) for key, one in results.items()}
    return every


def compare(old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> bool:
    """Prints where the two differ; returns whether they agree where both have results."""
    differing = 0
    for name in sorted({*old} | {*new}):
        if name not in old or name not in new:
            print(f"only in the {'first' if name in old else 'second'}: {name}")
            continue
        a, b = old[name], new[name]
        differ = sorted(key for key in {*a} & {*b} if a[key] != b[key])
        alone = sorted({*a} ^ {*b})
        if differ or alone:
            print(
                f"{name}: {'differ: ' + ', '.join(differ) if differ else ''}{' only in one: ' + ', '.join(alone) if alone else ''}"
            )
        differing += bool(differ)
    print(f"{len({*old} & {*new})} cases in both, of which {differing} differ")
    return not differing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the digests there")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar="FILE", help="list the cases in which two files differ"
    )
    parser.add_argument("--only", default="", help="a regular expression for the names of cases")
    arguments = parser.parse_args()
    if arguments.compare:
        return not compare(*(json.loads(path.read_text()) for path in arguments.compare))
    every = digests(arguments.only)
    if arguments.json:
        arguments.json.write_text(json.dumps(every))
    if arguments.only:
        for name, one in every.items():
            print(hashlib.blake2b(json.dumps(one).encode(), digest_size=8).hexdigest(), name)
    whole = hashlib.blake2b(json.dumps(every, sort_keys=True).encode(), digest_size=16).hexdigest()
    print(f"{whole}  {len(every)} cases, {fo.isa()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
