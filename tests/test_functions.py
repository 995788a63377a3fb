"""The errors of exp, tanh, sigmoid and erf: over all float32 numbers at night, and over dense samples of float64."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import Array
from tools import NIGHTLY

from fastopt import functional as F

# The largest errors in units of the last place: of all float32 numbers, and a little above those of millions of float64.
MOST: dict[str, tuple[float, float]] = {
    "exp": (1.02, 1.0),
    "erf": (1.42, 1.6),
    "tanh": (2.61, 2.6),
    "sigmoid": (2.49, 2.5),
}
ODD = {"tanh", "erf"}
functions = pytest.mark.parametrize("name", MOST)

EXACT: dict[str, Callable[[Any], Any]] = {
    "exp": np.exp,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def erf_in_double(x: Array) -> Array:
    small = x * (2 / math.sqrt(math.pi)) * (1 - x * x / 3)
    y = np.where(np.abs(x) < 1e-5, small, np.sign(x))
    between = (np.abs(x) >= 1e-5) & (np.abs(x) < 6)
    y[between] = [*map(math.erf, x[between].tolist())]
    return y


def erf_in_long_double(x: Any) -> Any:
    """2/√π·e^(−x²)·Σ 2ⁿ·x²ⁿ⁺¹/(1·3·5 … (2n+1)): all terms have one sign."""
    x = np.clip(x, -6.5, 6.5)  # beyond that it is 1 in double
    square, term, total = 2 * x * x, x, x
    for n in range(1, 200):
        term = term * square / (2 * n + 1)
        total = total + term
    return total * np.exp(-x * x) * 2 / np.sqrt(4 * np.arctan(np.longdouble(1)))


def assert_precise(name: str, x: Array, exact: Any, most: float) -> None:
    """Asserts that the function is as near as it should be to its exact values."""
    y, finfo = getattr(F, name)(x), np.finfo(x.dtype)
    nearest = exact.astype(x.dtype)
    without = np.abs(exact) < finfo.tiny  # results that would be subnormal are 0
    assert not y[without].any()
    infinite = np.isinf(nearest)
    assert np.array_equal(y[infinite], nearest[infinite])
    usual = ~(without | infinite)
    integers = np.uint32 if x.dtype == np.float32 else np.uint64
    power = (np.abs(nearest[usual]).view(integers) & finfo.dtype.type(np.inf).view(integers)).view(x.dtype)
    errors = np.abs(y[usual].astype(exact.dtype) - exact[usual]) / (power.astype(exact.dtype) * finfo.eps)
    worst = int(np.argmax(errors)) if errors.size else 0
    assert not errors.size or errors[worst] <= most, (x[usual][worst], errors[worst])


def float32_numbers(rng: Generator, signed: bool) -> Iterator[Array]:
    """All float32 numbers at night, in blocks; a sample by day.  Without the negative ones unless ``signed``."""
    size, last = 1 << 20, 1 << (32 if signed else 31)
    if not NIGHTLY:
        yield rng.integers(0, last, size >> 1, np.uint64).astype(np.uint32).view(np.float32)
        return
    for first in range(0, last, size):
        yield np.arange(first, first + size, dtype=np.uint32).view(np.float32)


@functions
def test_float32(name: str, rng: Generator) -> None:
    exactly = EXACT.get(name, erf_in_double)
    with np.errstate(all="ignore"):
        for numbers in float32_numbers(rng, name not in ODD):
            y = getattr(F, name)(numbers)
            if name in ODD:
                mirrored = getattr(F, name)(-numbers)
                assert np.array_equal(-y, mirrored, equal_nan=True)
                assert np.array_equal(np.signbit(y), ~np.signbit(mirrored) | np.isnan(y) & np.signbit(y))
            assert np.array_equal(np.isnan(y), np.isnan(numbers))
            x = numbers[~np.isnan(numbers)]
            tiny = np.abs(x) < np.finfo(np.float32).tiny  # subnormal numbers count as 0
            assert_precise(name, x, exactly(np.where(tiny, 0, x).astype(np.float64)), MOST[name][0])


def float64_numbers(rng: Generator) -> Iterator[Array]:
    """Numbers of every exponent, numbers where functions are neither 0 nor constant, and numbers around 0."""
    for _ in range(20 if NIGHTLY else 1):
        n = 100_000 if NIGHTLY else 10_000
        exponents, signs = rng.integers(1, 2047, n, np.uint64), rng.integers(0, 2, n, np.uint64)
        every = (rng.integers(0, 1 << 52, n, np.uint64) | exponents << np.uint64(52) | signs << np.uint64(63)).view(
            np.float64
        )
        ranges = [rng.uniform(-most, most, n) for most in (745, 20, 7)]
        yield np.concatenate([every, *ranges, rng.standard_normal(n) * np.exp(rng.uniform(-20, 2, n))])


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is double here")
@functions
def test_float64(name: str, rng: Generator) -> None:
    exactly = EXACT.get(name, erf_in_long_double)
    with np.errstate(all="ignore"):
        for x in float64_numbers(rng):
            assert_precise(name, x, exactly(x.astype(np.longdouble)), MOST[name][1])


@functions
def test_the_errors_are_documented(name: str) -> None:
    page = Path(__file__).parents[1] / "docs" / "loop.md"
    row = re.search(rf"^\| {name} \| ([\d.]+) \| ([\d.]+) \|", page.read_text("utf-8"), re.MULTILINE)
    assert row is not None and tuple(map(float, row.groups())) == MOST[name]
    text = " ".join((inspect.getdoc(getattr(F, name)) or "").split())
    found = re.search(
        r"The largest error is ([\d.]+) units in the last place in float32 and ([\d.]+) in float64\.", text
    )
    assert found is not None and tuple(map(float, found.groups())) == MOST[name]
