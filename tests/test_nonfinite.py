"""Infinities and NaN: they show in the parameter, as in torch, and no other number moves far because of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from tables import DTYPES, RULES, Options, Rule, clips, of_step, ordinary
from tools import Each, assert_same_bits

from fastopt import functional, optim, reference

Array = NDArray[Any]

BAD = (np.inf, -np.inf, np.nan)
SHAPES = ((70,), (8, 9), (2, 5, 7))
AT = 11  # the element that is not finite
SIGNS = {"lion", "rprop"}  # their step has the same length for every gradient, even an infinite one

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    module = pytest.importorskip("torch")
    threads = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(threads)


# torch

TORCHS: list[tuple[str, Options]] = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adam", {"weight_decay": 0.1}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("Adagrad", {"lr_decay": 0.1}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("Adadelta", {}),
    ("Adamax", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("ASGD", {"t0": 1.0}),
    ("Rprop", {}),
    ("Adafactor", {}),
    ("Adafactor", {"weight_decay": 0.1, "d": 2.0}),
]


def departs(name: str, shape: tuple[int, ...], bad: float, of: str, step: int) -> bool:
    """Whether torch hides the infinity or NaN and fastopt does not."""
    if name == "Rprop":
        return bool(of == "grad" and np.isnan(bad))  # its sign is 0 in torch
    # From its third step on torch divides the rows of a matrix by infinity, and the other rows jump.
    return name == "Adafactor" and len(shape) > 1 and of == "grad" and bool(np.isinf(bad)) and step > 2


@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
@pytest.mark.parametrize(("name", "options"), TORCHS)
def test_what_is_finite_is_what_torch_has_finite(
    name: str, options: Options, fused: bool, torch: Any, each: Each
) -> None:
    theirs = getattr(torch.optim, name)
    if fused and "fused" not in inspect.signature(theirs).parameters:
        pytest.skip("torch has no fused kernel for it")
    way = {"fused": True} if fused else {"foreach": False}
    for shape, bad, of, at in each(SHAPES, BAD, ("grad", "param"), (1, 2, 4), by_day=14):
        if departs(name, shape, bad, of, at):
            continue
        rng = np.random.default_rng(at)
        p = ordinary(rng, shape, "float32")
        q = torch.tensor(p.copy(), requires_grad=True)
        ours, other = getattr(optim, name)([p], lr=0.01, **options), theirs([q], lr=0.01, **options, **way)
        for step in range(1, at + 2):
            g = ordinary(rng, shape, "float32")
            if step == at and of == "grad":
                g.flat[AT] = bad
            if step == at and of == "param":
                p.flat[AT] = bad
                with torch.no_grad():
                    q.view(-1)[AT] = bad
            q.grad = torch.tensor(g)
            ours.step([g])
            other.step()
        finite, there = np.isfinite(p), q.detach().numpy()
        assert np.array_equal(finite, np.isfinite(there)), f"{bad} in the {of} of {shape} at step {at}"
        np.testing.assert_allclose(p[finite], there[finite], rtol=1e-4, atol=1e-5)


# All rules


def after(rule: Rule, options: Options, dtype: str, bad: float | None, of: str, at: int) -> list[Array]:
    """The parameters after step ``at``, in which one element of each array was not finite."""
    rng = np.random.default_rng(at)
    shapes = [rule.fit(shape) for shape in SHAPES]
    params = [ordinary(rng, shape, dtype) for shape in shapes]
    opt = rule.make(params, options | {"lr": 0.01})
    for step in range(1, at + 1):
        grads = [ordinary(rng, shape, dtype) for shape in shapes]
        if step == at and bad is not None:
            for array in grads if of == "grad" else params:
                array.flat[AT] = bad
        opt.step(grads, **of_step(options))
    return [param.astype(np.float64) for param in params]


def hides(rule: Rule, options: Options, bad: float, of: str, at: int) -> bool:
    """Whether the element is meant to stay finite."""
    if of == "param":
        return options.get("weights") == "master" and at > 1  # after its first step the parameter is a copy of it
    if options.get("skip_nonfinite") or at < rule.moves_from:
        return True
    limited = clips(options)  # to a norm: multiplied by 0, infinity is NaN
    bounded = rule.function in SIGNS or options.get("clip_exponent") is not None
    return bool(np.isinf(bad)) and (limited == ["clip_value"] or (bounded and not limited))


def assert_it_shows(rule: Rule, options: Options, dtype: str) -> None:
    """Asserts that the element is not finite after the step, and that the others are not finite either, or are close to
    their usual values.
    """
    for bad, of, at in ((b, o, a) for b in BAD for o in ("grad", "param") for a in (1, 3)):
        clean = after(rule, options, dtype, None, of, at)
        for got, expected in zip(after(rule, options, dtype, bad, of, at), clean, strict=True):
            where = f"{bad} in the {of} of {got.shape} at step {at}"
            assert hides(rule, options, bad, of, at) == bool(np.isfinite(got.flat[AT])), where
            others = np.isfinite(got)
            assert np.abs(got - expected)[others].max(initial=0) < 0.5, where


@pytest.mark.parametrize("function", RULES)
def test_it_shows(function: str) -> None:
    for options, dtype in ((options, dtype) for options in RULES[function].combinations[::5] for dtype in DTYPES):
        assert_it_shows(RULES[function], options, dtype)


@pytest.mark.parametrize("function", RULES)
def test_it_shows_whatever_surrounds_the_rule(function: str, each: Each) -> None:
    for _, more in each(RULES[function].surroundings.items(), by_day=6):
        assert_it_shows(RULES[function], RULES[function].plain | more, "float32")


@pytest.mark.parametrize("function", RULES)
def test_it_shows_in_every_format(function: str, each: Each) -> None:
    for _, (dtype, more) in each(RULES[function].formats.items(), by_day=4):
        assert_it_shows(RULES[function], RULES[function].plain | more, dtype)


@pytest.mark.parametrize("of", ["grad", "param"])
@pytest.mark.parametrize("function", RULES)
def test_the_specification_has_the_same_bits(function: str, of: str, each: Each) -> None:
    rule = RULES[function]
    kinds = {"": ("float32", {}), "64": ("float64", {}), **rule.formats}
    for kept, (dtype, more) in each(kinds.items(), by_day=5):
        for bad in BAD if not kept else BAD[1:]:
            rng = np.random.default_rng(len(kept))
            params = rule.arrays(rng, SHAPES, dtype)
            grads = [rule.arrays(rng, SHAPES, dtype) for _ in range(2)]
            for array in params if of == "param" else grads[0]:
                array.flat[AT] = bad
            options = (rule.plain if kept else rule.fullest) | more
            ours, theirs = (rule.run(module, params, grads, options) for module in (functional, reference))
            assert_same_bits(ours, theirs)


@pytest.mark.parametrize("clip_exponent", [0.25, None])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_adopt_shows_nan_one_step_late_and_infinity_as_an_element_that_stays(
    at: int, clip_exponent: float | None
) -> None:
    """As in the authors' code, a gradient divides the next ones, and division by infinity gives 0."""
    for bad in BAD:
        p = np.ones(3)
        opt, seen = optim.ADOPT([p], lr=0.1, betas=(0.0, 0.99), clip_exponent=clip_exponent), []
        for step in range(1, at + 4):
            opt.step([np.array([0.1, bad if step == at else 0.1, 0.1])])
            seen.append(p[1])
        assert np.all(p[[0, 2]] < 1)
        if np.isnan(bad):
            assert np.isnan(seen[at])
        elif at == 1 or clip_exponent is not None:
            assert seen[at - 1] == seen[-1]
            assert np.isfinite(seen[-1])
        else:
            assert not np.isfinite(seen[at - 1])


# Adafactor


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at", [1, 2, 5])
@pytest.mark.parametrize("bad", [*BAD, "overflow"])
def test_adafactor_shows_it_in_the_whole_matrix(bad: Any, at: int, dtype: str) -> None:
    """Its rows are divided by its mean square, which is infinite.  The same happens for finite gradients with infinite
    squares.
    """
    if bad == "overflow":
        bad = 1e25 if dtype == "float32" else 1e170
    p = np.ones((3, 8, 8), dtype)
    opt = optim.Adafactor([p], lr=0.01)
    for step in range(1, at + 1):
        g = np.full(p.shape, 0.1, dtype)
        if step == at:
            g[1, 3, 4] = bad
        opt.step([g])
    assert np.isnan(p[1]).all()
    np.testing.assert_allclose(p[::2], 1 - 0.01 * at, rtol=0.01)


# Storage


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_an_infinite_parameter_needs_no_correction(bad: float) -> None:
    p = np.full(256, bad, ml_dtypes.bfloat16)
    corrections = np.arange(-128, 128).astype(np.int8)
    functional.sgd([p], [np.zeros(256, np.float32)], step=1, lr=0.1, weights="correction", corrections=[corrections])
    assert np.array_equal(p.astype(np.float32), np.full(256, bad, np.float32))
    assert not corrections.any()


# Clipping


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("clip", ["clip_norm", "clip_value"])
def test_clipping_is_torchs(clip: str, bad: float, torch: Any) -> None:
    g = np.linspace(-2, 2, 70, dtype=np.float32)
    g[AT] = bad
    p, grad = np.zeros_like(g), torch.zeros(70, requires_grad=True)
    grad.grad = torch.tensor(g)
    getattr(torch.nn.utils, f"{clip.replace('clip', 'clip_grad')}_")([grad], 1.0)
    functional.sgd([p], [g], step=1, lr=1.0, **{clip: 1.0})
    np.testing.assert_allclose(-p, grad.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("of", ["grad", "param"])
def test_adaptive_clipping_is_the_papers(of: str, bad: float) -> None:
    """In each unit |g|/|p| is at most the limit; g is NaN if one of the norms is NaN, and 0 beside an infinite
    gradient.
    """
    rng = np.random.default_rng(0)
    p, g = ordinary(rng, (3, 8), "float64"), ordinary(rng, (3, 8), "float64")
    (g if of == "grad" else p)[1, 4] = bad
    norms = [np.sqrt((x * x).sum(axis=1, keepdims=True)) for x in (g, p)]
    most = 0.5 * np.maximum(norms[1], 1e-3)
    with np.errstate(invalid="ignore"):
        expected = p - np.where(norms[0] < most, g, g * (most / np.maximum(norms[0], 1e-6)))
    functional.sgd([p], [g], step=1, lr=1.0, clip_adaptive=0.5)
    np.testing.assert_allclose(p, expected, rtol=1e-12)
