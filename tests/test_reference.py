"""The specification itself: its formulas against textbook ones, and its arithmetic against the processor's."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
from numpy.random import Generator
from tables import DTYPES, NORMS, RULES, extreme, ordinary, parameters
from tools import differing

from fastopt import functional as F
from fastopt import reference
from fastopt.reference._arithmetic import flushed
from fastopt.reference._sums import block_sums, row_sums

TINY = np.finfo(np.float32).tiny


def test_adam_is_the_paper(rng: Generator) -> None:
    """The oracle is Kingma & Ba 2015, algorithm 1, as printed, in double."""
    alpha, beta1, beta2, eps = 1e-2, 0.9, 0.999, 1e-8
    theta = rng.standard_normal(50)
    p, m, v, m_, v_ = theta.copy(), np.zeros(50), np.zeros(50), np.zeros(50), np.zeros(50)
    for t in range(1, 20):
        g = rng.standard_normal(50)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        theta = theta - alpha * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        reference.adam([p], [g], [m_], [v_], step=t, lr=alpha, betas=(beta1, beta2), eps=eps)
    np.testing.assert_allclose(p, theta, rtol=1e-13)


def test_sgd_has_both_classical_momenta(rng: Generator) -> None:
    """v ← μv − ηg, x ← x + v, and b ← μb + g, x ← x − ηb: they take the same steps at a constant rate, and different
    steps at a changing one.
    """
    for rates in (0.1,) * 6, (0.1, 0.05, 0.2, 0.01, 0.1, 0.3):
        x = rng.standard_normal(20)
        torch, velocity, b, v, expected, expected_v = x.copy(), x.copy(), np.zeros(20), np.zeros(20), x.copy(), 0
        for step, lr in enumerate(rates, 1):
            g = rng.standard_normal(20)
            expected_v = 0.9 * expected_v - lr * g
            expected = expected + expected_v
            reference.sgd([torch], [g], [b], step=step, lr=lr, momentum=0.9)
            reference.sgd([velocity], [g], velocity_buffers=[v], step=step, lr=lr, momentum=0.9, velocity=True)
        np.testing.assert_allclose(velocity, expected, rtol=1e-12)
        assert np.allclose(torch, velocity, rtol=1e-10) == (len(set(rates)) == 1)


def test_sums_are_sums(rng: Generator) -> None:
    for n in 1, 15, 16, 17, 63, 64, 65, 1024, 1025, 5000:
        x = ordinary(rng, (3, n), "float64")
        np.testing.assert_allclose(np.asarray(row_sums(flushed(x))), x.sum(1), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(np.asarray(block_sums(flushed(x.T))), x.sum(1), rtol=1e-9, atol=1e-12)


def test_a_float32_sum_rounds_to_float64_after_every_block() -> None:
    """A block of 16 rows is summed in float32, where 2²⁴ + 1 = 2²⁴; blocks are added in float64."""
    x = np.ones((32, 1), np.float32)
    x[0] = 2.0**24
    assert block_sums(flushed(x))[0] == 2.0**24 + 16


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ufunc", [np.add, np.subtract, np.multiply, np.divide])
def test_subnormal_numbers_are_zero(ufunc: np.ufunc, dtype: str, rng: Generator) -> None:
    a, b = extreme(rng, 10_000, dtype), extreme(rng, 10_000, dtype)
    result = np.asarray(ufunc(flushed(a), flushed(b)))
    assert not np.any((result != 0) & (np.abs(result) < np.finfo(dtype).tiny))
    assert np.all(np.asarray(flushed(a) * a.dtype.type(1))[np.abs(a) < np.finfo(dtype).tiny] == 0)
    with np.errstate(all="ignore"):
        plain = ufunc(a, b)
    normal = (
        (np.abs(a) >= np.finfo(dtype).tiny)
        & (np.abs(b) >= np.finfo(dtype).tiny)
        & (np.abs(plain) > np.finfo(dtype).tiny)
    )
    assert differing(result[normal], plain[normal]) == 0
    assert np.count_nonzero(normal) > 1000


def test_a_product_just_below_the_smallest_normal_number_is_zero() -> None:
    """Rounded to full precision it is subnormal, so it is flushed, although subnormal precision would round it up."""
    below_one = 1 - 2.0**-24
    assert np.float32(below_one) * TINY == TINY
    assert np.asarray(flushed(np.float32([below_one])) * flushed(np.float32([TINY])))[0] == 0
    p, q, g = np.zeros(1, np.float32), np.zeros(1, np.float32), np.full(1, TINY)
    F.sgd([p], [g], step=1, lr=below_one)
    reference.sgd([q], [g], step=1, lr=below_one)
    assert p[0] == 0
    assert differing(p, q) == 0


def test_numbers_become_float32_without_becoming_subnormal() -> None:
    x = np.array([1e-40, -1e-40, 1e-38, -2e-38, 1.0, 1e39, -np.inf, 0.0, -0.0])
    expected = np.array([0.0, -0.0, 0.0, -2e-38, 1.0, np.inf, -np.inf, 0.0, -0.0], np.float32)
    assert differing(np.asarray(flushed(x).to(np.float32)), expected) == 0


@pytest.mark.parametrize("norm", NORMS)
def test_reference_fills_out(norm: str, rng: Generator) -> None:
    call = NORMS[norm].call(rng, "float32", 6, 4)
    if "momentum" in parameters(call.functions[0]):
        call.arguments["momentum"] = 0.0  # so that the running statistics do not change
    forward = call.forward(reference)
    for make in call.forward, lambda module, **more: call.backward(module, forward, **more):
        results = make(reference)
        out = [np.zeros_like(result) for result in results]
        out[1:2] = [None] * len(out[1:2])
        filled = make(reference, out=tuple(out))
        assert all(one is given for one, given in zip(filled, out, strict=True) if given is not None)
        assert not any(differing(a, b) for a, b in zip(filled, results, strict=True))


@pytest.mark.parametrize("function", [name for name in reference.__all__ if name not in RULES])
def test_reference_has_the_signature_of_functional(function: str) -> None:
    ours, theirs = (inspect.signature(getattr(module, function)).parameters for module in (reference, F))
    assert [(x.name, x.kind, x.default) for x in ours.values()] == [
        (x.name, x.kind, x.default) for x in theirs.values()
    ]


@pytest.mark.parametrize("rule", RULES)
def test_reference_leaves_a_parameter_without_gradient_alone(rule: str, rng: Generator) -> None:
    params = RULES[rule].arrays(rng, [(5, 4), (4, 5)], "float32")
    options = RULES[rule].sample(rng)
    states = RULES[rule].new_states(options, params)
    before = copy.deepcopy((params, states))
    RULES[rule].update(reference, params, [np.ones((5, 4), np.float32), None], states, RULES[rule].moves_from, options)
    assert differing(params[1], before[0][1]) == 0
    np.testing.assert_equal(
        {name: one[1] for name, one in states.items()}, {name: one[1] for name, one in before[1].items()}
    )
    assert differing(params[0], before[0][0]) > 0


@pytest.mark.parametrize("rule", RULES)
def test_reference_takes_the_arguments_of_functional(rule: str) -> None:
    ours, theirs = (inspect.signature(getattr(module, RULES[rule].function)) for module in (reference, F))
    arguments = [[(x.name, x.kind, x.default) for x in one.parameters.values()] for one in (ours, theirs)]
    assert arguments[0] == arguments[1]


@pytest.mark.parametrize("rule", RULES)
def test_reference_and_kernels_agree_on_what_states_are(rule: str) -> None:
    """They agree in every variant, also on the order of states, which determines their thresholds for rounding."""
    states = getattr(reference, rule).states
    for options in RULES[rule].combinations:
        params = [np.ones(shape, np.float32) for shape in ((2, 2), (2,))[: 1 if RULES[rule].matrices_only else 2]]
        opt = RULES[rule].make(params, options)
        for p, one in zip(params, opt.state, strict=True):
            kernel = opt._rule_of(opt._rules[0], p)
            expected = {
                name: kind
                for name, kind in zip(kernel.states, kernel.kinds, strict=True)
                if name not in RULES[rule].optimizer.hidden
            }
            ours = {state.name: state.kind_in(options) for state in states if state.name in one}
            assert [*ours.items()] == [*expected.items()]
