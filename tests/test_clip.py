"""Clipping of gradients by itself: the bits of the reference and of a step, what is not written, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray
from tools import Each, bits, copies, differing, every_isa, shifted

import fastopt as fo
from fastopt import functional as F
from fastopt import optim, reference

Array = NDArray[Any]

DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
SHAPES: list[tuple[int, ...]] = [
    (),
    (1,),
    (3, 7),
    (0, 4),
    (64,),
    (65, 63),
    (2, 5, 3),
    (40_000,),
]  # more than two chunks

dtypes = pytest.mark.parametrize("dtype", [*DTYPES, "mixed"])


def gradients(rng: Generator, dtype: str, scale: float = 1.0) -> list[Array]:
    mixed = rng.permutation(list(DTYPES) * 2)
    return [
        np.asarray(rng.standard_normal(shape) * scale).astype(DTYPES[mixed[i] if dtype == "mixed" else dtype])
        for i, shape in enumerate(SHAPES)
    ]


def assert_same(actual: list[Array], expected: list[Array]) -> None:
    assert [differing(a, b) for a, b in zip(actual, expected, strict=True)] == [0] * len(expected)


# Bits


@dtypes
def test_bits_are_the_references(dtype: str, rng: Generator, each: Each) -> None:
    for by, scale, most in each([0, 3], [1.0, 1e-3, 300.0], [0.0, 0.3, 1e3]):
        good = gradients(rng, dtype, scale)
        expected = copies(good)
        norm = reference.clip_grad_norm(expected, most)
        for _ in every_isa():
            for threads in (1, 2, 5):
                with fo.threads(threads):
                    grads = [*map(shifted(by), good)]
                    assert F.clip_grad_norm(grads, most) == norm
                    assert_same(grads, expected)


@dtypes
def test_bits_of_values_are_the_references(dtype: str, rng: Generator, each: Each) -> None:
    for by, most in each([0, 3], [0.0, 0.3, 1e-40, math.inf]):
        good = gradients(rng, dtype)
        good[-1][:3] = np.nan, np.inf, -np.inf
        expected = copies(good)
        reference.clip_grad_value(expected, most)
        for _ in every_isa():
            for threads in (1, 5):
                with fo.threads(threads):
                    grads = [*map(shifted(by), good)]
                    F.clip_grad_value(grads, most)
                    assert_same(grads, expected)


def test_values_are_clipped() -> None:
    for dtype in DTYPES.values():
        grad = np.array([-3, -0.5, 0.25, 2, np.inf, np.nan]).astype(dtype)
        F.clip_grad_value([grad, None], 1.0)
        np.testing.assert_array_equal(grad.astype(np.float64), [-1, -0.5, 0.25, 1, 1, np.nan])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_clips_in_the_same_way(dtype: str, rng: Generator, each: Each) -> None:
    """From zero and with a rate of 1, SGD moves to the negative gradient that it uses."""
    computed = np.float64 if dtype == "float64" else np.float32
    for order, most in each(["C", "F"], [0.5, 1e3]):
        grads = [np.asarray(grad, order=order) for grad in gradients(rng, dtype)]  # type: ignore[call-overload]
        params = [np.zeros(grad.shape, computed) for grad in grads]
        info = optim.SGD(params, lr=1.0).step(grads, clip_norm=most)
        assert F.clip_grad_norm(grads, most) == info.grad_norm
        used = [np.asarray(-param).astype(DTYPES[dtype]) for param in params]
        assert_same(grads, used)


@pytest.mark.parametrize("dtype", DTYPES)
def test_axes_may_lie_in_any_order(dtype: str, rng: Generator, each: Each) -> None:
    """The order of summation is that of the axes, as in a step, not that of memory."""
    for order in each([(1, 0, 2), (2, 1, 0), (0, 2, 1)]):
        for _ in range(10):
            grad = (rng.standard_normal((17, 31, 13)) * np.exp(rng.standard_normal((17, 31, 13)))).astype(DTYPES[dtype])
            other = grad.transpose(order).copy().transpose(np.argsort(order))
            assert F.clip_grad_norm([other], 2.0) == F.clip_grad_norm([grad], 2.0)
            assert_same([other], [grad])
            F.clip_grad_value([other], 1e-3)
            F.clip_grad_value([grad], 1e-3)
            assert_same([other], [grad])


# What is written


@dtypes
def test_small_gradients_are_not_written(dtype: str, rng: Generator) -> None:
    """Writing would turn subnormal float32 into zero."""
    grads = gradients(rng, dtype)
    grads.append(np.full(70, 1e-40, np.float32))
    before = bits(grads)
    norm = F.clip_grad_norm(grads, 1e6)
    assert F.clip_grad_norm(grads, math.inf) == norm and bits(grads) == before
    F.clip_grad_norm(grads, norm / 2)
    assert not grads[-1].any()


def test_views_keep_what_is_beside_them(rng: Generator) -> None:
    memory = rng.standard_normal(5000).astype(np.float32)
    before = memory.copy()
    F.clip_grad_norm([memory[3:1500], memory[2000:4999].reshape(1, -1).T], 0.1)
    changed = np.flatnonzero(memory != before)
    assert {*changed} == {*range(3, 1500), *range(2000, 4999)}


def test_gradients_may_be_missing() -> None:
    assert F.clip_grad_norm([], 1.0) == F.clip_grad_norm([None, np.zeros((0, 3))], 0.0) == 0.0
    grads = {"a": np.array([3.0]), "b": np.array([4.0])}
    assert F.clip_grad_norm(grads.values(), 2.5) == 5.0
    np.testing.assert_allclose([grads["a"], grads["b"]], [[1.5], [2.0]], rtol=1e-6)
    F.clip_grad_value([None], 1.0)


# Infinities and NaN


@dtypes
def test_gradients_that_are_not_finite(dtype: str, rng: Generator, each: Each) -> None:
    """As torch multiplies them: by 0 where the norm is infinite, and by NaN where it is NaN."""
    for value in each([np.inf, -np.inf, np.nan]):
        grads = gradients(rng, dtype)
        grads[3 + 1][7] = value
        before = bits(grads)
        with pytest.raises(
            ValueError, match=r"^clip_grad_norm: the norm of grads is (inf|nan), so they cannot be clipped"
        ):
            F.clip_grad_norm(grads, 1.0, error_if_nonfinite=True)
        assert bits(grads) == before
        expected = copies(grads)
        norm = F.clip_grad_norm(grads, 1.0)
        np.testing.assert_equal(norm, reference.clip_grad_norm(expected, 1.0))
        assert_same(grads, expected)
        bad = sum(int(np.isnan(grad.astype(np.float64)).sum()) for grad in grads)
        assert bad == (sum(grad.size for grad in grads) if np.isnan(value) else 1)
        assert all(np.isnan(float(one)) or one == 0 for grad in grads for one in grad.ravel()[:100])


def test_squares_of_float32_do_not_overflow() -> None:
    grads = [np.full(4, 1e30, np.float32)]
    assert F.clip_grad_norm(grads, 2.0, error_if_nonfinite=True) == pytest.approx(2e30)
    np.testing.assert_allclose(grads[0], 1.0, rtol=1e-6)


# Errors; good_calls.py has more


@pytest.mark.parametrize("function", ["clip_grad_norm", "clip_grad_value"])
def test_errors_name_the_gradient(function: str) -> None:
    good = np.ones((4, 6))
    read_only = good.copy()
    read_only.flags.writeable = False
    cases = [
        (good[:, ::2], TypeError, r"grads\[1\] has gaps in its memory"),
        (np.broadcast_to(good, (2, 4, 6)), TypeError, r"grads\[1\] has gaps in its memory, or elements that share it"),
        (read_only, TypeError, r"grads\[1\] is read-only"),
        (good, ValueError, r"grads\[0\] would be written, but overlaps grads\[1\]"),
        (good.astype(int), TypeError, r"grads\[1\] has dtype int64"),
        (fo.SparseRows(np.array([0]), good[:1]), TypeError, r"grads\[1\] must be a numpy array, got SparseRows"),
    ]
    for bad, error, text in cases:
        with pytest.raises(error, match=rf"^{function}: {text}"):
            getattr(F, function)([good, bad], 0.1)
    with pytest.raises(TypeError, match=rf"^{function}: grads must be a list or dict of arrays, got ndarray"):
        getattr(F, function)(good, 0.1)
    assert (good == 1).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subnormals_are_zero_at_every_place(dtype: str) -> None:
    tiny = np.finfo(dtype).tiny
    for size in (1, 5, 9, 17, 35):
        for limit in (1.0, float(tiny) / 4, 0.0):
            numbers = np.resize(np.array([tiny / 8, -tiny / 8, 2.0, -0.5], dtype), size)
            clipped, expected = numbers.copy(), numbers.copy()
            F.clip_grad_value([clipped], limit)
            reference.clip_grad_value([expected], limit)
            assert np.array_equal(clipped, expected)
            assert not np.any((clipped != 0) & (np.abs(clipped) < tiny))
