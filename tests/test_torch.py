"""Parity with torch: every combination of torch's options over 50 steps, and exchange of state in the middle of a run.

"Relative" is max|a − b| / max|b| over a tensor.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from beside_torch import TOLERANCE, assert_close, one_thread, torch  # noqa: F401  # one_thread is for all tests here
from numpy.random import Generator
from tables import DTYPES, Array, ordinary
from tools import Each

from fastopt import optim
from fastopt import torch as converter

Options = dict[str, Any]

SHAPES = ((7, 5), (33,), (), (2, 3, 4))
STEPS = 50

OPTIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "SGD": {"momentum": (0.0, 0.9), "dampening": (0.0, 0.3), "nesterov": (False, True)},
    "Adam": {"amsgrad": (False, True), "decoupled_weight_decay": (False, True)},
    "AdamW": {"amsgrad": (False, True)},
    "Adagrad": {"lr_decay": (0.0, 0.1), "initial_accumulator_value": (0.0, 0.1)},
    "RMSprop": {"momentum": (0.0, 0.9), "centered": (False, True)},
    "Adadelta": {"lr": (1.0, 0.1)},
    "Adamax": {},
    "NAdam": {"decoupled_weight_decay": (False, True)},
    "RAdam": {"decoupled_weight_decay": (False, True)},
    "ASGD": {"t0": (1e6, 10.0), "lambd": (1e-4, 0.1)},
    "Rprop": {"etas": ((0.5, 1.2), (0.3, 1.5)), "step_sizes": ((1e-6, 50.0), (1e-3, 0.02))},
    "Adafactor": {"eps": ((None, 1e-3), (1e-6, 1e-2)), "d": (1.0, 1.5)},
}
FUSED = ("SGD", "Adam", "AdamW", "Adagrad")


def grid(name: str) -> Iterator[Options]:
    """All combinations of an optimizer's options that are legal."""
    options = {"lr": (0.01,), **OPTIONS[name], "weight_decay": (0.0, 0.1), "maximize": (False, True)}
    if name == "Rprop":
        del options["weight_decay"]  # torch's optimizer has none
    for values in itertools.product(*options.values()):
        chosen = dict(zip(options, values, strict=True))
        if not chosen.get("nesterov") or (chosen["momentum"] > 0 and chosen["dampening"] == 0):
            yield chosen


def label(options: Options) -> str:
    return "-".join(f"{name}={value}" for name, value in options.items() if value or name == "lr")


@pytest.fixture
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    """A dtype that is torch's default during the test: torch's optimizers store eta, mu and mu_product in the default
    dtype.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, request.param))
    yield request.param
    torch.set_default_dtype(before)


dtypes = pytest.mark.parametrize("dtype", DTYPES, indirect=True)


class Pair:
    """The same optimizer here and in torch, with parameters of the same values."""

    def __init__(self, name: str, params: list[Array], *, of_torch: Options | None = None, **options: Any) -> None:
        self.name, self.of_torch, self.options = name, of_torch or {}, options
        self.params = params
        self.tensors = [torch.tensor(p, requires_grad=True) for p in params]
        # A single number may end near zero.  It was rounded when it was larger, in torch as in fastopt; compared with
        # float64, neither is better.  So it is compared relative to the largest value that it has had.
        self.largest: dict[tuple[int, str], float] = {}
        self.opt = getattr(optim, name)(self.params, **options)
        self.ref = getattr(torch.optim, name)(self.tensors, **options, **self.of_torch)

    def set(self, **options: Any) -> None:
        for groups in self.opt.param_groups, self.ref.param_groups:
            for group in groups:
                group.update(options)

    def step_torch(self, grads: Sequence[Array | None]) -> None:
        for tensor, g in zip(self.tensors, grads, strict=True):
            tensor.grad = None if g is None else torch.tensor(g)
        self.ref.step()
        for i, q in enumerate(self.tensors):
            if q.ndim == 0:
                for key, value in {"": q, **self.ref.state[q]}.items():
                    if value is not None:
                        self.largest[i, key] = max(self.largest.get((i, key), 0.0), abs(float(value.detach())))

    def step(self, grads: Sequence[Array | None]) -> None:
        self.opt.step(grads)
        self.step_torch(grads)

    def assert_close(self, tolerance: float) -> None:
        """Compares every parameter and every buffer of torch's."""
        for i, (p, q) in enumerate(zip(self.params, self.tensors, strict=True)):
            assert_close(p, q, tolerance, f"params[{i}]", self.largest.get((i, ""), 0.0))
            for key, value in self.ref.state[q].items():
                if key == "step":
                    assert self.opt.state[i]["step"] == value
                elif value is not None:
                    assert_close(
                        self.opt.state[i][key], value, tolerance, f"{key}[{i}]", self.largest.get((i, key), 0.0)
                    )


def new_params(rng: Generator, dtype: str, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> list[Array]:
    return [np.asarray(ordinary(rng, shape, dtype)) for shape in shapes]


def gradients(
    rng: Generator, dtype: str, *, steps: int = STEPS, whole_at_first: bool = False, shapes: Any = SHAPES
) -> Iterator[list[Array | None]]:
    """The gradients of every step; some are None, even at the first step if torch's implementation accepts that."""
    for step in range(steps):
        absent = {i for i in range(len(shapes)) if (step + i) % 7 == 2} if step or not whole_at_first else set()
        yield [None if i in absent else np.asarray(ordinary(rng, shape, dtype)) for i, shape in enumerate(shapes)]


@dtypes
@pytest.mark.parametrize("name", OPTIONS)
def test_optimizer_agrees(name: str, dtype: str, each: Each, rng: Generator) -> None:
    for options, fused in each(grid(name), [False, True] if name in FUSED else [False], by_day=4):
        of_torch = {"foreach": False} | ({"fused": fused} if name in FUSED else {})
        pair = Pair(name, new_params(rng, dtype), of_torch=of_torch, **options)
        for grads in gradients(rng, dtype, whole_at_first=fused):
            pair.step(grads)
        pair.assert_close(TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["Muon", *OPTIONS])
def test_defaults_are_torchs(name: str) -> None:
    theirs = getattr(torch.optim, name)([torch.zeros(1, 1)]).defaults
    ours = getattr(optim, name)([np.zeros((1, 1))]).defaults
    common = ours.keys() & theirs.keys()
    assert theirs.keys() - common <= {"foreach", "fused", "capturable", "differentiable"}
    assert {key: ours[key] for key in common} == {key: theirs[key] for key in common}
    arguments = [
        list(inspect.signature(getattr(module, name).__init__).parameters.values())[2:]
        for module in (optim, torch.optim)
    ]
    of_both = [
        [one.name for one in some if one.name in common and one.kind is one.POSITIONAL_OR_KEYWORD] for some in arguments
    ]
    assert of_both[0] == of_both[1][: len(of_both[0])]  # in torch's order


MORE_OPTIONS: dict[str, Options] = {
    "SGD": {"momentum": 0.9},
    "Adam": {"amsgrad": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
}


def more_options(name: str) -> Options:
    """Options that give an optimizer all the state that it may have."""
    return MORE_OPTIONS.get(name, {})


@dtypes
@pytest.mark.parametrize("name", OPTIONS)
def test_a_schedule_agrees(name: str, dtype: str, rng: Generator) -> None:
    """Two groups have another rate at every step, including the first one."""
    more = more_options(name)
    other = {"lr": 0.3} if name == "Rprop" else {"weight_decay": 0.3}
    ours = new_params(rng, dtype, ((20,), (4, 5)))
    theirs = [torch.tensor(p, requires_grad=True) for p in ours]
    opt = getattr(optim, name)([{"params": [ours[0]]}, {"params": [ours[1]], **other}], lr=0.1, **more)
    ref = getattr(torch.optim, name)([{"params": [theirs[0]]}, {"params": [theirs[1]], **other}], lr=0.1, **more)
    for step in range(30):
        for groups in opt.param_groups, ref.param_groups:
            groups[0]["lr"] = 0.1 / (1 + step)
            groups[1]["lr"] = 0.01 * (1 + step % 3)
        grads = new_params(rng, dtype, ((20,), (4, 5)))
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(g)
        opt.step(grads)
        ref.step()
    for p, q in zip(ours, theirs, strict=True):
        assert_close(p, q, TOLERANCE[dtype], "params")


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("SGD", {}, {"momentum": 0.9}),
        ("SGD", {}, {"momentum": 0.9, "dampening": 0.5}),
        ("SGD", {"momentum": 0.9}, {"momentum": 0.0}),
        ("SGD", {}, {"maximize": True}),
        ("Adam", {"amsgrad": True}, {"amsgrad": False}),
        ("Adam", {"weight_decay": 0.1}, {"decoupled_weight_decay": True}),
        ("AdamW", {}, {"maximize": True, "betas": (0.5, 0.9)}),
        ("Adagrad", {}, {"lr_decay": 0.1, "eps": 1e-3}),
        ("RMSprop", {}, {"alpha": 0.5}),
        ("RMSprop", {"momentum": 0.9}, {"momentum": 0.5}),
        ("RMSprop", {"centered": True}, {"centered": False}),
        ("Adadelta", {}, {"rho": 0.5}),
        ("NAdam", {}, {"betas": (0.5, 0.9), "momentum_decay": 1.0}),
        ("RAdam", {}, {"betas": (0.5, 0.9)}),
        ("ASGD", {}, {"lambd": 0.1, "t0": 5.0}),
        ("Rprop", {}, {"etas": (0.1, 3.0)}),
        ("Adafactor", {}, {"beta2_decay": -0.5}),
    ],
)
@pytest.mark.parametrize("dtype", ["float64"], indirect=True)
def test_options_that_change_on_the_way_agree(
    name: str, before: Options, after: Options, dtype: str, rng: Generator
) -> None:
    pair = Pair(name, new_params(rng, dtype), lr=0.01, **before)
    for step, grads in enumerate(gradients(rng, dtype, steps=20)):
        if step == 10:
            pair.set(**after)
        pair.step(grads)
    pair.assert_close(1e-12)


def test_fused_steps_of_many_threads_agree(rng: Generator) -> None:
    """Tensors that both divide among threads."""
    torch.set_num_threads(2)
    try:
        for name in FUSED:
            pair = Pair(name, new_params(rng, "float32", ((300, 1000), (7,))), of_torch={"fused": True}, lr=0.01)
            for grads in gradients(rng, "float32", steps=3, whole_at_first=True, shapes=((300, 1000), (7,))):
                pair.step(grads)
            pair.assert_close(2e-6)
    finally:
        torch.set_num_threads(1)


# Muon, which torch computes in bfloat16


def muon_in_float64(
    p: Array,
    b: Array,
    g: Array,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    ns_coefficients: tuple[float, ...] = (3.4445, -4.775, 2.0315),
    adjust_lr_fn: str | None = None,
) -> tuple[Array, Array]:
    """The formula of torch's documentation."""
    b = momentum * b + (1 - momentum) * g
    u = (1 - momentum) * g + momentum * b if nesterov else b
    rows, columns = p.shape
    x = u.T if rows > columns else u
    x = x / max(float(np.linalg.norm(x)), 1e-7)
    a, bb, c = ns_coefficients
    for _ in range(ns_steps):
        gram = x @ x.T
        x = a * x + (bb * gram + c * gram @ gram) @ x
    x = x.T if rows > columns else x
    factor = math.sqrt(max(1, rows / columns)) if adjust_lr_fn in (None, "original") else 0.2 * math.sqrt(max(p.shape))
    return p * (1 - lr * weight_decay) - lr * factor * x, b


MUON = {
    "nesterov": (True, False),
    "weight_decay": (0.1, 0.0),
    "momentum": (0.95, 0.5),
    "ns_steps": (5, 1),
    "adjust_lr_fn": (None, "original", "match_rms_adamw"),
}
MATRICES = ((7, 5), (4, 9), (6, 6))


MUONS: Any = [dict(zip(MUON, values, strict=True)) for values in itertools.product(*MUON.values())]


@dtypes
def test_muon_is_the_formula(dtype: str, each: Each, rng: Generator) -> None:
    for options in each(MUONS, by_day=6):
        params = new_params(rng, dtype, MATRICES)
        expected = [p.astype(np.float64) for p in params]
        buffers = [np.zeros_like(p) for p in expected]
        opt = optim.Muon(params, lr=0.02, **options)
        for grads in gradients(rng, dtype, steps=20, shapes=MATRICES):
            opt.step(grads)
            for i, g in enumerate(grads):
                if g is not None:
                    expected[i], buffers[i] = muon_in_float64(
                        expected[i], buffers[i], g.astype(np.float64), lr=0.02, **options
                    )
        for i, p in enumerate(params):
            assert_close(p, expected[i], TOLERANCE[dtype], f"params[{i}]")
            assert_close(opt.state[i]["momentum_buffer"], buffers[i], TOLERANCE[dtype], f"momentum_buffer[{i}]")


@pytest.mark.parametrize("options", [{}, {"nesterov": False}, {"adjust_lr_fn": "match_rms_adamw"}], ids=str)
def test_muon_is_as_torchs_to_a_few_digits(options: Options, rng: Generator) -> None:
    pair = Pair("Muon", new_params(rng, "float32", MATRICES), lr=0.02, **options)
    before = [p.copy() for p in pair.params]
    for grads in gradients(rng, "float32", steps=10, shapes=MATRICES):
        pair.step(grads)
    for p, q, b in zip(pair.params, pair.tensors, before, strict=True):
        moved = q.detach().numpy() - b
        assert np.max(np.abs(p - b - moved)) < 0.05 * np.max(np.abs(moved))
    for i, q in enumerate(pair.tensors):
        assert_close(pair.opt.state[i]["momentum_buffer"], pair.ref.state[q]["momentum_buffer"], 2e-6, "buffer")


# Options around a step


def torch_grads(pair: Pair, grads: list[Array | None]) -> None:
    for tensor, g in zip(pair.tensors, grads, strict=True):
        tensor.grad = None if g is None else torch.tensor(g)


@dtypes
@pytest.mark.parametrize("name", OPTIONS)
def test_clip_norm_agrees(name: str, dtype: str, each: Each, rng: Generator) -> None:
    for clip_norm in each([0.0, 0.3, 1e9]):
        pair = Pair(name, new_params(rng, dtype), lr=0.01, weight_decay=0.1) if name != "Rprop" else None
        pair = pair or Pair(name, new_params(rng, dtype), lr=0.01)
        for grads in gradients(rng, dtype, steps=5):
            info = pair.opt.step(grads, clip_norm=clip_norm)
            torch_grads(pair, grads)
            norm = torch.nn.utils.clip_grad_norm_(pair.tensors, clip_norm)
            pair.ref.step()
            assert info.grad_norm == pytest.approx(float(norm), rel=TOLERANCE[dtype])
        pair.assert_close(2 * TOLERANCE[dtype])  # torch's norms and factors are float32


@dtypes
@pytest.mark.parametrize("name", OPTIONS)
def test_clip_value_agrees(name: str, dtype: str, rng: Generator) -> None:
    pair = Pair(name, new_params(rng, dtype), lr=0.01)
    for grads in gradients(rng, dtype, steps=5):
        assert pair.opt.step(grads, clip_value=0.5).grad_norm is None
        torch_grads(pair, grads)
        torch.nn.utils.clip_grad_value_(pair.tensors, 0.5)
        pair.ref.step()
    pair.assert_close(TOLERANCE[dtype])


@pytest.mark.parametrize("name", OPTIONS)
def test_scaled_losses_agree_with_the_scaler(name: str, rng: Generator) -> None:
    """Steps agree with ``torch.amp.GradScaler`` with ``unscale_``, clipping and skipped steps."""
    pair = Pair(name, new_params(rng, "float32"), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    taken = 0
    for step, grads in enumerate(gradients(rng, "float32", steps=8)):
        if step == 3:
            grads[0] = np.full(SHAPES[0], np.inf, np.float32)
        scale = scaler.get_scale()
        scaled = [None if g is None else np.asarray(g * np.float32(scale)) for g in grads]
        scaler.scale(torch.zeros(()))  # this initializes it
        torch_grads(pair, scaled)
        scaler.unscale_(pair.ref)
        torch.nn.utils.clip_grad_norm_(pair.tensors, 1.0)
        scaler.step(pair.ref)
        scaler.update()
        info = pair.opt.step(scaled, grad_scale=scale, clip_norm=1.0, skip_nonfinite=True)
        assert info.skipped == (step == 3)
        taken += not info.skipped
        assert info.step == taken
    assert scaler.get_scale() != 1024
    pair.assert_close(4e-6)  # torch's norms and factors are float32


@dtypes
def test_ema_agrees_with_averaged_model(dtype: str, rng: Generator) -> None:
    pair = Pair("Adam", new_params(rng, dtype), lr=0.01)
    pair.opt = optim.Adam(pair.params, lr=0.01, ema_decay=0.9)
    model = torch.nn.ParameterList(pair.tensors)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    average.update_parameters(model)  # its initial weights
    pair.ref = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        grads = new_params(rng, dtype)
        for tensor, g in zip(model.parameters(), grads, strict=True):
            tensor.grad = torch.tensor(g)
        pair.opt.step(grads)
        pair.ref.step()
        average.update_parameters(model)
    for a, b in zip(pair.opt.ema_params, average.module.parameters(), strict=True):
        assert_close(a, b, TOLERANCE[dtype], "ema_params")


@dtypes
@pytest.mark.parametrize(("start", "freq"), [(1, 1), (10, 1), (7, 5)])
def test_swa_agrees_with_averaged_model(start: int, freq: int, dtype: str, rng: Generator) -> None:
    params = new_params(rng, dtype)
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(p)) for p in params])
    average = torch.optim.swa_utils.AveragedModel(model)
    opt = optim.SGD(params, lr=0.01, momentum=0.9, swa_start=start, swa_freq=freq)
    ref = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for step in range(1, STEPS + 1):
        grads = new_params(rng, dtype)
        for tensor, g in zip(model.parameters(), grads, strict=True):
            tensor.grad = torch.tensor(g)
        opt.step(grads)
        ref.step()
        if step >= start and (step - start) % freq == 0:
            average.update_parameters(model)
    for a, b in zip(opt.ema_params, average.module.parameters(), strict=True):
        assert_close(a, b, TOLERANCE[dtype], "ema_params")


# Exchange of state in the middle of a run

EXCHANGES = [
    pytest.param(name, fused, options, id=f"{name}{'-fused' * fused}-{label(options)}")
    for name, fused, options in [
        *((name, False, {"lr": 0.01, **more_options(name)}) for name in OPTIONS),
        ("SGD", False, {"lr": 0.01}),
        ("SGD", False, {"lr": 0.01, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, "maximize": True}),
        ("SGD", True, {"lr": 0.01, "momentum": 0.9}),
        ("Adam", False, {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1, "decoupled_weight_decay": True}),
        ("Adam", True, {"lr": 0.01, "amsgrad": True}),
        ("AdamW", True, {"lr": 0.01, "weight_decay": 0.1}),
        ("Adagrad", False, {"lr": 0.01, "initial_accumulator_value": 0.1, "lr_decay": 0.1}),
        ("Adagrad", True, {"lr": 0.01}),
        ("RMSprop", False, {"lr": 0.01}),
        ("NAdam", False, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
        ("RAdam", False, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
        ("ASGD", False, {"lr": 0.01, "t0": 4.0, "lambd": 0.1}),
        ("Adafactor", False, {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    ]
]
OTHERS = {"weight_decay": 0.5, "betas": (0.1, 0.2), "momentum": 0.3, "maximize": True, "alpha": 0.1}


def others(name: str) -> Options:
    """Hyperparameters that differ from all those above."""
    known = inspect.signature(getattr(torch.optim, name)).parameters
    return {"lr": 0.7, **{key: value for key, value in OTHERS.items() if key in known}}


@dtypes
@pytest.mark.parametrize(("name", "fused", "options"), EXCHANGES)
def test_torchs_run_goes_on_here(name: str, fused: bool, options: Options, dtype: str, rng: Generator) -> None:
    """Some parameters have had no gradient until then, if torch's implementation accepts that."""
    pair = Pair(name, new_params(rng, dtype), of_torch={"fused": True} if fused else {}, **options)
    whole = fused and name == "SGD"
    for grads in gradients(rng, dtype, steps=10, whole_at_first=whole):
        pair.step_torch(grads if whole else [grads[0], None, *grads[2:]])
    for p, q in zip(pair.params, pair.tensors, strict=True):
        p[...] = q.detach().numpy()
    pair.opt = getattr(optim, name)(pair.params, **others(name))
    pair.opt.load_state_dict(pair.ref.state_dict())
    group = pair.opt.param_groups[0]
    assert {key: group[key] for key in options} == options
    for grads in gradients(rng, dtype, steps=10, whole_at_first=True):
        pair.step(grads)
    pair.assert_close(TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize(("name", "fused", "options"), EXCHANGES)
def test_our_run_goes_on_in_torch(name: str, fused: bool, options: Options, dtype: str, rng: Generator) -> None:
    pair = Pair(name, new_params(rng, dtype), **options)
    whole = fused and name == "SGD"
    for grads in gradients(rng, dtype, steps=10, whole_at_first=whole):
        pair.opt.step(grads if whole else [grads[0], None, *grads[2:]])
    with torch.no_grad():
        for p, q in zip(pair.params, pair.tensors, strict=True):
            q.copy_(torch.tensor(p))
    state = converter.to_torch(pair.opt.state_dict())
    if fused:
        for group in state["param_groups"]:
            group["fused"] = True
    pair.ref = getattr(torch.optim, name)(pair.tensors, **others(name))
    pair.ref.load_state_dict(state)
    group = pair.ref.param_groups[0]
    assert {key: group[key] for key in options} == options
    for grads in gradients(rng, dtype, steps=10, whole_at_first=True):
        pair.step(grads)
    pair.assert_close(TOLERANCE[dtype])


def test_muons_state_goes_both_ways(rng: Generator) -> None:
    pair = Pair("Muon", new_params(rng, "float32", MATRICES), lr=0.02, momentum=0.5, ns_steps=3)
    for grads in gradients(rng, "float32", steps=3, shapes=MATRICES):
        pair.step_torch(grads)
    pair.opt = optim.Muon(pair.params)
    pair.opt.load_state_dict(pair.ref.state_dict())
    for i, q in enumerate(pair.tensors):
        buffer = pair.ref.state[q]["momentum_buffer"].numpy()
        assert np.array_equal(pair.opt.state[i]["momentum_buffer"], buffer)
    assert pair.opt.param_groups[0]["ns_steps"] == 3
    pair.ref = torch.optim.Muon(pair.tensors)
    pair.ref.load_state_dict(converter.to_torch(pair.opt.state_dict()))
    for i, q in enumerate(pair.tensors):
        assert pair.ref.state[q].keys() == {"momentum_buffer"}
        assert np.array_equal(pair.ref.state[q]["momentum_buffer"].numpy(), pair.opt.state[i]["momentum_buffer"])
    assert pair.ref.param_groups[0]["ns_steps"] == 3
    assert pair.ref.param_groups[0]["momentum"] == 0.5
    pair.step_torch(new_params(rng, "float32", MATRICES))


# The converter


@pytest.mark.parametrize("name", ["Muon", *OPTIONS])
def test_converted_state_is_built_as_torchs(name: str, rng: Generator) -> None:
    """Keys, dtypes and shapes are the same; only torch's flags are missing."""
    shapes = MATRICES if name == "Muon" else SHAPES
    pair = Pair(name, new_params(rng, "float32", shapes), **more_options(name))
    pair.step([None, *new_params(rng, "float32", shapes)[1:]])
    ours, theirs = converter.to_torch(pair.opt.state_dict()), pair.ref.state_dict()
    assert ours.keys() == theirs.keys()
    assert ours["state"].keys() == theirs["state"].keys()
    for number, state in theirs["state"].items():
        assert ours["state"][number].keys() == state.keys()
        for key, value in state.items():
            one = ours["state"][number][key]
            assert one.shape == value.shape
            assert one.dtype == value.dtype or key in (
                "eta",
                "mu",
                "mu_product",
            )  # torch casts these when it loads them
    for group, theirs_ in zip(ours["param_groups"], theirs["param_groups"], strict=True):
        flags = {"foreach", "fused", "capturable", "differentiable"}
        forced = {"decoupled_weight_decay"} if name == "AdamW" else set()
        assert group.keys() == theirs_.keys() - flags - forced
        assert {key: theirs_[key] for key in group} == group


@pytest.mark.parametrize("moments", ["bfloat16", "8bit"])
@pytest.mark.parametrize("weights", ["stochastic", "correction", "master"])
def test_state_in_fewer_bits_becomes_torchs(weights: str, moments: str, rng: Generator) -> None:
    """It becomes float32, which torch rounds to the dtype of its parameters; residuals of weights are left out."""
    p = rng.standard_normal((3, 50)).astype(ml_dtypes.bfloat16)
    opt = optim.AdamW([p], weights=weights, moments=moments)
    opt.step([rng.standard_normal(p.shape).astype(ml_dtypes.bfloat16)])
    exact = optim.AdamW([p.astype(np.float32)])
    exact.load_state_dict(opt.state_dict())
    for dtype in torch.float32, torch.bfloat16:
        theirs = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(p.shape, dtype=dtype))])
        theirs.load_state_dict(converter.to_torch(opt.state_dict()))
        (state,) = theirs.state_dict()["state"].values()
        assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name in "exp_avg", "exp_avg_sq":
            expected = torch.from_numpy(exact.state[0][name]).to(dtype)
            assert torch.equal(state[name], expected)


def test_converted_tensors_are_copies(rng: Generator) -> None:
    opt = optim.Adam(new_params(rng, "float64"), lr=0.1)
    opt.step(new_params(rng, "float64"))
    state = converter.to_torch(opt.state_dict())
    before = opt.state[0]["exp_avg"].copy()
    state["state"][0]["exp_avg"].add_(1)
    state["param_groups"][0]["lr"] = 7
    assert np.array_equal(opt.state[0]["exp_avg"], before)
    assert opt.param_groups[0]["lr"] == 0.1


def test_converted_state_can_be_saved_and_loaded(tmp_path: Any, rng: Generator) -> None:
    """torch can load it with weights_only, because NumPy's numbers have become Python's."""
    opt = optim.AdamW({"w": np.ones((2, 3))}, lr=np.float32(0.25))
    opt.step({"w": np.ones((2, 3))})
    opt.param_groups[0]["initial_lr"] = 0.5
    torch.save(converter.to_torch(opt.state_dict()), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    (group,) = state["param_groups"]
    assert group["param_names"] == ["w"]
    assert (group["lr"], group["initial_lr"]) == (0.25, 0.5)
    assert np.array_equal(state["state"][0]["exp_avg"].numpy(), opt.state[0]["exp_avg"])


@pytest.mark.parametrize(
    ("name", "options", "lacking"),
    [
        ("SGD", {"l1": 0.1}, "l1, which is 0.1"),
        ("SGD", {"l1": 0.1, "proximal_l1": True}, "l1"),
        ("SGD", {"momentum": 0.9, "velocity": True}, "velocity, which is True"),
        ("SGD", {"weight_decay": 0.1, "decoupled_weight_decay": True}, "decoupled_weight_decay, which is True"),
        ("Adam", {"eps_hat": True}, "eps_hat, which is True"),
        ("Adam", {"ema_decay": 0.0}, "ema_decay, which is 0.0"),
        ("Adam", {"swa_start": 3}, "swa_start, which is 3"),
        ("Adam", {"l2_init": 0.1}, "l2_init"),
        ("Adam", {"noise": 0.1}, "noise"),
        ("Adam", {"temperature": 0.1}, "temperature"),
        ("AdamW", {"fixed_decay": True}, "fixed_decay"),
        ("AdamW", {"decoupled_weight_decay": False}, "decoupled_weight_decay, which is False"),
        ("Rprop", {"weight_decay": 0.1}, "weight_decay, which is 0.1"),
        ("Adafactor", {"weight_decay": 0.1, "decoupled_weight_decay": False}, "decoupled_weight_decay"),
        ("Muon", {"maximize": True}, "maximize, which is True"),
    ],
)
def test_what_torch_lacks_is_an_error(name: str, options: Options, lacking: str) -> None:
    opt = getattr(optim, name)([{"params": [np.ones((2, 2))]}, {"params": [np.ones((2, 3))], **options}])
    with pytest.raises(ValueError, match=rf"^to_torch: torch's {name} has no {re.escape(lacking)}"):
        converter.to_torch(opt.state_dict())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"velocity": True}),
        ("SGD", {"decoupled_weight_decay": True}),
        ("SGD", {"proximal_l1": True, "seed": 3, "ema_warmup": True, "swa_freq": 4}),
        ("AdamW", {"decoupled_weight_decay": False, "weight_decay": 0.0}),
        ("AdamW", {"fixed_decay": True, "weight_decay": 0.0}),
    ],
)
def test_what_has_no_effect_is_no_error(name: str, options: Options) -> None:
    (group,) = converter.to_torch(getattr(optim, name)([np.ones(3)], **options).state_dict())["param_groups"]
    assert not group.keys() & (options.keys() - {"weight_decay"})


def test_averages_of_the_past_are_left_out(rng: Generator) -> None:
    opt = optim.SGD([np.ones(3)], momentum=0.9, ema_decay=0.9, l2_init=0.1)
    opt.step([np.ones(3)])
    opt.param_groups[0].update(ema_decay=None, l2_init=0.0, velocity=True)
    opt.step([np.ones(3)])
    opt.param_groups[0].update(velocity=False)
    opt.step([np.ones(3)])
    assert opt.state[0].keys() > {"ema_param", "initial_param", "velocity_buffer"}
    assert converter.to_torch(opt.state_dict())["state"][0].keys() == {"momentum_buffer"}


@pytest.mark.parametrize(
    "name", sorted({*optim.__all__} - {"Muon", *OPTIONS} - {"Optimizer", "StepInfo", "no_decay", "unpacked"})
)
def test_optimizers_that_torch_does_not_have_are_errors(name: str) -> None:
    with pytest.raises(ValueError, match=f"^to_torch: torch has no {name}$"):
        converter.to_torch(getattr(optim, name)([np.ones((2, 2))]).state_dict())


@pytest.mark.parametrize("bad", [None, {}, [], 3])
def test_what_is_no_state_is_an_error(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"^to_torch: state_dict must be the result of a fastopt optimizer"):
        converter.to_torch(bad)
    with pytest.raises(TypeError, match=r"^to_torch: state_dict must be"):
        converter.to_torch(torch.optim.SGD([torch.zeros(1)]).state_dict())


def test_without_torch_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"^to_torch: torch is not installed$"):
        converter.to_torch(optim.SGD([np.ones(3)]).state_dict())


def test_the_module_does_not_import_torch() -> None:
    code = "import sys, fastopt.torch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_example_runs() -> None:
    doc = converter.__doc__ or ""
    (code,) = re.findall(r"code-block:: python\n\n((?: {4}.*\n|\n)+)", doc)
    exec(textwrap.dedent(code), {})
