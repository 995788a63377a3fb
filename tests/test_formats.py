"""Formats of fewer bits: every format against exact arithmetic, random rounding, skipped steps, state.

``test_bits.py`` checks that steps in these formats have the reference's bits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.random import Generator
from tables import (
    FORMATS,
    HALVES,
    MOMENTS,
    RULES,
    WEIGHTS,
    Array,
    Options,
    extreme,
    hyperparameters,
    mixed,
    ordinary,
    rules_and_formats,
)
from tools import Each, differing, every_isa, everything

import fastopt as fo
from fastopt import _core
from fastopt import functional as F
from fastopt.reference import _formats

KINDS = ("moment", "square")
BELOW = {"moment": 15, "square": 31}  # exponents below that of the largest number
MOST = {"moment": 239, "square": 223}  # the largest exponent of a block that occurs
LARGEST = np.finfo(np.float32).max
SIZES = (0, 1, 31, 63, 64, 65, 127, 129, 1023, 1024, 1025, 2100)

halves = pytest.mark.parametrize("dtype", HALVES)
kinds = pytest.mark.parametrize("kind", KINDS)


def each_kernels() -> Iterator[ModuleType]:
    return map(_core.load, _core.available_isas())


def all_halves(dtype: str) -> Array:
    return np.arange(2**16, dtype=np.uint16).view(dtype)


def any_float32(rng: Generator, size: int) -> Array:
    """Numbers with any bits; every second one is close to a point where rounding to float16, bfloat16 or 8 bits changes
    direction.
    """
    bits = rng.integers(0, 2**32, size, np.uint32)
    dropped = rng.choice(np.array([13, 16, 20], np.uint32), size)
    close = (bits >> dropped << dropped) + (np.uint32(1) << dropped - 1) + rng.integers(0, 3, size, np.uint32) - 1
    x = np.where(rng.random(size) < 0.5, bits, close).astype(np.uint32).view(np.float32)
    return np.where(x == x, x, np.float32(np.nan))


def packed(kernels: ModuleType, x: Array, kind: str) -> tuple[Array, Array]:
    """x packed into 8-bit codes and exponents."""
    codes, scales = np.full(x.shape, 99, np.uint8), np.full(-(-x.size // 64), 99, np.uint8)
    kernels.pack(x, kind, codes, scales)
    return codes, scales


def values(kind: str, scale: int) -> Array:
    """The values of the codes 0, 1, ... without a sign, in float64: a float32 with 3 bits of mantissa, whose exponent
    begins at ``scale``.
    """
    c = np.arange(128 if kind == "moment" else 256)
    exponent, mantissa = scale + c // 8, c % 8 / 8
    x = np.where(exponent == 0, np.ldexp(mantissa, -126), np.ldexp(1 + mantissa, exponent - 127))
    return np.where(c == 0, 0.0, x) if kind == "moment" else x


# 16 bits


@halves
def test_halves_are_read_and_written_exactly(dtype: str) -> None:
    every = all_halves(dtype)
    with np.errstate(invalid="ignore"):
        expected = every.astype(np.float32)
    for kernels in each_kernels():
        for unpacked in kernels.unpack(every, "moment"), kernels.unpack_weights(every):
            assert differing(unpacked, expected) == 0
        again, weights = np.zeros_like(every), np.zeros_like(every)
        kernels.pack(expected, "square", again)
        kernels.pack_weights(expected, weights)
        assert differing(again, every) == differing(weights, every) == 0


@halves
def test_halves_are_the_nearest(dtype: str, rng: Generator) -> None:
    """A tie goes to the even number."""
    with np.errstate(all="ignore"):
        every = np.unique(all_halves(dtype).astype(np.float32))
        between = (every[:-1] / 2 + every[1:] / 2).astype(np.float32)
        close = [between, np.nextafter(between, np.float32(0)), np.nextafter(between, np.float32(np.inf))]
        x = np.concatenate([any_float32(rng, 200_000), *close])
        expected = x.astype(dtype)
    for kernels in each_kernels():
        result = np.zeros(x.shape, dtype)
        kernels.pack(x, "moment", result)
        assert differing(result, expected) == 0


@halves
def test_every_number_of_halves_is_packed(dtype: str, rng: Generator) -> None:
    """Memory around them is not touched."""
    for kernels, size in itertools.product(each_kernels(), SIZES):
        x, room = ordinary(rng, size, "float32"), np.full(size + 2, 7, dtype)
        kernels.pack(x, "moment", room[1:-1])
        assert differing(room[1:-1], x.astype(dtype)) == 0
        assert room[0] == room[-1] == 7
        assert differing(kernels.unpack(room[1:-1], "moment"), x.astype(dtype).astype(np.float32)) == 0


# 8 bits


@kinds
def test_every_code_is_read_exactly(kind: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    for scale in range(MOST[kind] + 1):
        expected = values(kind, scale)
        expected = np.concatenate([expected, -expected]) if kind == "moment" else expected
        for kernels in each_kernels():
            result = kernels.unpack(codes, kind, np.full(4, scale, np.uint8))
            np.testing.assert_array_equal(result.astype(np.float64), expected)
            assert not np.signbit(result[result == 0]).any()


@kinds
def test_codes_are_the_nearest(kind: str, rng: Generator) -> None:
    """They are the nearest for the exponent of the block, which is as small as the block's largest number allows."""
    for spread in 1, 5, 12, 40:
        exponents = np.clip(rng.uniform(-125, 127, (300, 1)) + rng.uniform(-spread, 0, (300, 64)), -125, 127)
        x = (rng.choice([-1, 1], (300, 64)) * np.exp2(exponents)).astype(np.float32)
        if kind == "square":
            x = np.abs(x)
        top = np.floor(np.log2(np.abs(x).max(1).astype(np.float64) / 1.75)) + 1  # numbers below 1.75·2ᵗᵒᵖ have a code
        for kernels in each_kernels():
            codes, scales = packed(kernels, x, kind)
            np.testing.assert_array_equal(scales, np.clip(top + 127 - BELOW[kind], 0, None))
            result = kernels.unpack(codes, kind, scales)
            assert np.array_equal(np.sign(result), np.sign(x) * (result != 0))
            for one, scale, found in zip(np.abs(x).astype(np.float64), scales, np.abs(result), strict=True):
                known = values(kind, scale)
                small = one < known[1] * (17 / 18 if kind == "moment" else 8 / 9)
                best = np.abs(one[:, None] - known).min(1)
                np.testing.assert_array_equal(np.abs(one - found)[~small], best[~small])
                assert np.all(found[small] == known[0])


@kinds
def test_a_partial_block_is_one_with_zeros(kind: str, rng: Generator) -> None:
    for kernels, size in itertools.product(each_kernels(), SIZES):
        x = np.abs(ordinary(rng, size, "float32"))
        codes, scales = packed(kernels, x, kind)
        whole_codes, whole_scales = packed(kernels, np.pad(x, (0, -size % 64)), kind)
        assert differing(codes, whole_codes[:size]) == differing(scales, whole_scales) == 0
        whole = kernels.unpack(whole_codes, kind, whole_scales)
        assert differing(kernels.unpack(codes, kind, scales), whole[:size]) == 0


@kinds
def test_blocks_of_zeros_are_zero(kind: str) -> None:
    for kernels in each_kernels():
        x = np.zeros(200, np.float32)
        x[64:128] = 1.0
        codes, scales = packed(kernels, x, kind)
        np.testing.assert_array_equal(kernels.unpack(codes, kind, scales), x)
        assert not codes[:64].any() and not codes[128:].any() and list(scales != 0) == [False, True, False, False]


def test_zeros_lose_their_sign() -> None:
    x = np.array([0.0, -0.0, 1.0, -1e-10], np.float32)
    for kernels in each_kernels():
        codes, scales = packed(kernels, x, "moment")
        assert differing(kernels.unpack(codes, "moment", scales), np.array([0, 0, 1, 0], np.float32)) == 0


def test_a_square_is_never_lost() -> None:
    """In a block with a much larger square it becomes the smallest code, and never 0, which might be a divisor."""
    x = np.array([1e30] + [0.0, 1e-30, 1e10] * 21, np.float32)
    for kernels in each_kernels():
        codes, scales = packed(kernels, x, "square")
        result = kernels.unpack(codes, "square", scales)
        least = values("square", int(scales[0]))[0]
        assert result.min() == least > 0
        np.testing.assert_allclose(result, np.maximum(x, least), rtol=2**-4)


@kinds
def test_what_is_not_finite_becomes_the_largest_number_there_is(kind: str, rng: Generator) -> None:
    """The other numbers of its block do not change."""
    x = np.abs(ordinary(rng, (8, 64), "float32"))
    spoiled = x.copy()
    special = np.array([np.inf, -np.inf, np.nan, -np.nan], np.float32)
    spoiled[:, ::7] = rng.choice(special, spoiled[:, ::7].shape)
    others = np.isfinite(spoiled)
    for kernels in each_kernels():
        codes, scales = packed(kernels, spoiled, kind)
        expected, expected_scales = packed(kernels, np.where(others, x, 0), kind)
        assert differing(scales, expected_scales) == 0
        assert differing(codes[others], expected[others]) == 0
        negative = 128 if kind == "moment" else 0
        expected_codes = np.where(np.isneginf(spoiled), negative, 0) + (127 if kind == "moment" else 255)
        np.testing.assert_array_equal(codes[~others], expected_codes[~others])
        assert np.isfinite(kernels.unpack(codes, kind, scales)).all()


@kinds
def test_extreme_numbers_have_codes(kind: str) -> None:
    tiny = np.finfo(np.float32).tiny
    for largest in LARGEST, LARGEST / 2, tiny, np.finfo(np.float32).smallest_subnormal, tiny * 2**14, tiny * 2**31:
        x = np.array([largest, largest / 3, 0], np.float32)
        for kernels in each_kernels():
            codes, scales = packed(kernels, x, kind)
            result = kernels.unpack(codes, kind, scales).astype(np.float64)
            assert np.isfinite(result).all()
            unit = max(largest / 8, tiny / 8)  # of 3 bits, or of subnormal numbers
            assert np.all(np.abs(result[:2] - x[:2]) <= unit)


@kinds
def test_any_numbers_are_packed_as_in_the_reference(kind: str, rng: Generator) -> None:
    for numbers in extreme, mixed, ordinary:
        x = numbers(rng, 6_400, "float32")
        expected = _formats.to_8_bits(x, kind, _formats.nearest)
        for kernels in each_kernels():
            codes, scales = packed(kernels, x, kind)
            assert differing(codes, expected[0]) == differing(scales, expected[1]) == 0


# Weights and their residuals

RESTS = {
    "float16 kahan": ("float16", "float16"),
    "bfloat16 kahan": ("bfloat16", "bfloat16"),
    "bfloat16 correction": ("bfloat16", "int8"),
}


@pytest.mark.parametrize("how", RESTS)
def test_weights_are_halves_and_a_rest(how: str, rng: Generator) -> None:
    """The 16-bit numbers are the nearest, and with the residual the weights are much closer."""
    dtype, beside = RESTS[how]
    x = np.concatenate([ordinary(rng, 20_000, "float32"), np.float32([0, 1, -1, 1 + 2**-8, 1 + 3 * 2**-8])])
    near = x.astype(dtype).astype(np.float64)
    for kernels in each_kernels():
        numbers, rest = np.zeros(x.shape, dtype), np.zeros(x.shape, beside)
        kernels.pack_weights(x, numbers, rest)
        result = kernels.unpack_weights(numbers, rest)
        if beside == "int8":  # units of 2⁻⁸ of the last place; at a tie the larger magnitude
            unit = np.exp2(np.floor(np.log2(np.abs(np.where(x == 0, 1, x)))) - 15)
            assert np.all(np.abs(result.astype(np.float64) - x) <= unit / 2)
            ties = np.abs(numbers.astype(np.float64) - near) > 0
            assert np.all(np.abs(x - near)[ties] >= np.abs(numbers.astype(np.float64) - x)[ties] - unit[ties])
        else:
            assert np.array_equal(numbers.astype(np.float64), near)
            assert np.array_equal(rest.astype(np.float64), (x - near).astype(np.float32).astype(dtype))
        again, same = np.zeros_like(numbers), np.zeros_like(rest)
        kernels.pack_weights(result, again, same)
        assert differing(kernels.unpack_weights(again, same), result) == 0


@pytest.mark.parametrize("how", RESTS)
def test_weights_that_are_not_finite_stay_so(how: str) -> None:
    dtype, beside = RESTS[how]
    x = np.array([np.inf, -np.inf, np.nan, 1.0], np.float32)
    for kernels in each_kernels():
        numbers, rest = np.zeros(4, dtype), np.zeros(4, beside)
        kernels.pack_weights(x, numbers, rest)
        assert differing(numbers, x.astype(dtype)) == 0
        assert differing(kernels.unpack_weights(numbers, rest), x) == 0
        assert not rest.any()


# Errors, relative to the number

NEAREST = {
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "moment8": 2.0**-4,
    "square8": 2.0**-4,
    "float16 kahan": 2.0**-23,
    "bfloat16 kahan": 2.0**-17,
    "bfloat16 correction": 2.0**-16,
}


def nearest(kernels: ModuleType, x: Array, how: str) -> Array:
    if how.endswith("8"):
        codes, scales = packed(kernels, x, how[:-1])
        return np.asarray(kernels.unpack(codes, how[:-1], scales))
    dtype, beside = RESTS.get(how, (how, None))
    numbers, rest = np.zeros(x.shape, dtype), None if beside is None else np.zeros(x.shape, beside)
    kernels.pack_weights(x, numbers, rest)
    return np.asarray(kernels.unpack_weights(numbers, rest))


@pytest.mark.parametrize("how", NEAREST)
def test_errors_are_as_small_as_documented(how: str, rng: Generator) -> None:
    x = np.exp2(rng.uniform(0, 4, 100_000)).astype(np.float32)
    for kernels in each_kernels():
        worst = np.max(np.abs(nearest(kernels, x, how).astype(np.float64) - x) / x)
        assert 0.6 * NEAREST[how] < worst <= NEAREST[how]


# Random rounding: each step is made so that it stores x


def half_weight(dtype: str, weights: str) -> Callable[[Array, int, int], Array]:
    def of(x: Array, step: int, seed: int) -> Array:
        p, rest = np.zeros(x.shape, dtype), np.zeros(x.shape, np.int8)
        F.sgd(
            [p],
            [-x],
            step=step,
            lr=1.0,
            seed=seed,
            weights=weights,
            corrections=[rest if weights == "correction" else None],
        )
        return np.asarray(_core.kernels.unpack_weights(p, rest if weights == "correction" else None))

    return of


def moment(moments: str) -> Callable[[Array, int, int], Array]:
    def of(x: Array, step: int, seed: int) -> Array:
        p, b, scales = np.zeros_like(x), np.zeros(x.shape, ml_dtypes.bfloat16), np.zeros(-(-x.size // 64), np.uint8)
        b = np.zeros(x.shape, np.uint8) if moments == "8bit" else b
        more: Options = {"momentum": 0.5, "moments": moments, "seed": seed}
        if moments == "8bit":
            more["momentum_buffer_scales"] = [scales]
        F.sgd([p], [x], [b], step=step, lr=0.0, **more)
        return np.asarray(_core.kernels.unpack(b, "moment", scales))

    return of


def largest_gradient(moments: str) -> Callable[[Array, int, int], Array]:
    """Adamax's ``exp_inf``, which is |g| with betas of 0."""

    def of(x: Array, step: int, seed: int) -> Array:
        dtype = np.dtype(np.uint8 if moments == "8bit" else ml_dtypes.bfloat16)
        p, m, u, *scales = np.zeros_like(x), *np.zeros((2, x.size), dtype), *np.zeros((2, -(-x.size // 64)), np.uint8)
        more: Options = {"moments": moments, "seed": seed}
        if moments == "8bit":
            more |= {"exp_avg_scales": scales[:1], "exp_inf_scales": scales[1:]}
        F.adamax([p], [x], [m], [u], step=step, lr=0.0, betas=(0.0, 0.0), eps=0.0, **more)
        return np.asarray(_core.kernels.unpack(u, "square", scales[1]))

    return of


# The function that stores x, and the number of mantissa bits that are kept.
RANDOM: dict[str, tuple[Callable[[Array, int, int], Array], int]] = {
    "bfloat16": (half_weight("bfloat16", "stochastic"), 7),
    "float16": (half_weight("float16", "stochastic"), 10),
    "correction": (half_weight("bfloat16", "correction"), 15),
    "bfloat16 moment": (moment("bfloat16"), 7),
    "bfloat16 square": (largest_gradient("bfloat16"), 7),
    "moment8": (moment("8bit"), 3),
    "square8": (largest_gradient("8bit"), 3),
}
random_formats = pytest.mark.parametrize("how", RANDOM)


def parts(x: Array, how: str) -> tuple[Array, Array, Array]:
    """x in whole units, the remainder in [0, 1) units, and the unit."""
    unit = np.exp2(np.floor(np.log2(x.astype(np.float64))) - RANDOM[how][1])
    whole = np.floor(x / unit)
    return whole * unit, x / unit - whole, unit


@random_formats
def test_random_rounding_is_to_a_neighbour_as_often_as_it_should(how: str, rng: Generator) -> None:
    """Over the elements of one step, the error of an average is as large as chance predicts."""
    x = np.exp2(rng.uniform(0, 3, 64_000)).astype(np.float32)
    below, part, unit = parts(x, how)
    for _ in every_isa():
        up = (RANDOM[how][0](x, 3, 1) - below) / unit
        assert np.isin(up, (0, 1)).all()
        for low, high in itertools.pairwise(np.linspace(0, 1, 6)):
            some = (part >= low) & (part < high)
            p = part[some]
            assert abs(np.sum(up[some] - p)) < 4 * np.sqrt(np.sum(p * (1 - p)))
        exact = RANDOM[how][0](below.astype(np.float32), 3, 1)
        assert np.array_equal(exact, below)


@random_formats
def test_random_rounding_goes_round_in_time(how: str, rng: Generator) -> None:
    """Over any steps, the number of times that a number is rounded up is wrong by less than 4; chance would give 20."""
    x = np.exp2(rng.uniform(0, 3, 2_000)).astype(np.float32)
    below, part, unit = parts(x, how)
    for _ in every_isa():
        error = np.zeros(x.size)
        for step in range(1_000, 1_400):
            error += (RANDOM[how][0](x, step, 0) - below) / unit - part
            assert np.max(np.abs(error)) < 4


def test_random_roundings_are_not_related() -> None:
    """Roundings of the parameter, its states, another parameter, another seed and other places are uncorrelated.

    Segments have the same thresholds, apart from one random number that is added to all of them: the test needs many
    segments.
    """
    n = 2**18
    x = np.full(n, 1.3, np.float32)

    def up(seed: int) -> list[Array]:
        """Whether two parameters, and the ``exp_inf`` of both, were rounded up."""
        p, q, *states = np.zeros((6, n), ml_dtypes.bfloat16)
        more: Options = {"betas": (0.0, 0.0), "eps": 0.0, "moments": "bfloat16", "seed": seed}
        F.adamax([p, q], [-x, -x], states[:2], states[2:], step=5, lr=1.3, **more)
        return [np.abs(one.astype(np.float32)) > 1.3 for one in (p, q, states[1], states[3])]

    every = np.array([*up(0), *up(1), *up(2**40)], np.float32)
    related = np.corrcoef(every) - np.eye(len(every))
    assert np.max(np.abs(related)) < 4 / np.sqrt(n / 1024)
    for by in 1, 5, 64, 500:
        for one in every:
            assert abs(np.corrcoef(one[by:], one[:-by])[0, 1]) < 4 / np.sqrt(1024)
    assert np.array_equal(up(1), every[4:8])


def in_8_bits(kind: str) -> Callable[[Array, Any], Any]:
    return lambda x, rounding: _formats.from_8_bits(*_formats.to_8_bits(x, kind, rounding), kind)


def in_16_bits(dtype: str) -> Callable[[Array, Any], Any]:
    return lambda x, rounding: _formats.to_16_bits(x, np.zeros(0, dtype), rounding)


ALL_THRESHOLDS: dict[str, tuple[Callable[[Array, Any], Any], int, list[float]]] = {
    "bfloat16": (in_16_bits("bfloat16"), 16, [2.0**-100, -3.7e30]),
    "float16": (in_16_bits("float16"), 13, [2.0**-16 + 2.0**-30, 3 * 2.0**-30, 2.0**-14 - 2.0**-37]),
    "moment": (in_8_bits("moment"), 20, [1.125 * 2.0**-12, -1.3]),
    "square": (in_8_bits("square"), 20, [2.0**-28, 1e-6]),
}


@pytest.mark.parametrize("how", ALL_THRESHOLDS)
def test_random_rounding_is_exact_over_all_thresholds(how: str) -> None:
    """The reference's roundings have the number itself as their mean, also beside a larger number in its block."""
    encoded, dropped, some = ALL_THRESHOLDS[how]
    size = -(-(2**dropped) // 63) * 64
    place = np.flatnonzero(np.arange(size) % 64)[: 2**dropped]
    thresholds = np.zeros(size, np.int64)
    thresholds[place] = np.random.default_rng(0).permutation(2**dropped)
    for value in np.float32([*some, 1.0, 1 + 2.0**-23, 1.3, 1.99999, 2.0**-8.5]):
        x = np.full(size, value)
        x[::64] = 13.6
        results = encoded(x, lambda numbers, _: thresholds)[place].astype(np.float64)
        assert math.fsum(results) == 2**dropped * float(value)


# Slow changes


def test_a_weight_moves_as_far_as_its_small_steps(rng: Generator) -> None:
    """It takes a thousand steps of a hundredth of a unit; rounded to the nearest, it would not move."""
    unit, start = 2.0**-7, ordinary(rng, 5_000, "float32") * 0.1 + 1.5
    for weights in WEIGHTS:
        p = start.astype(ml_dtypes.bfloat16)
        begin = p.astype(np.float64)
        opt = fo.optim.SGD([p], lr=unit / 100, weights=weights)
        for _ in range(1_000):
            opt.step([-np.ones_like(start)])
        moved = (p.astype(np.float64) - begin) / unit
        if weights == "nearest":
            assert not moved.any()
        else:
            assert np.max(np.abs(moved - 10)) <= 3
            assert abs(moved.mean() - 10) < 0.05


@pytest.mark.parametrize(("moments", "bias", "spread"), [("bfloat16", 0.002, 0.04), ("8bit", 0.02, 0.2)])
def test_a_mean_of_squares_is_right_on_average(moments: str, bias: float, spread: float, rng: Generator) -> None:
    """This holds although a step changes it by a thousandth, which is much less than a unit."""
    n = 8_192
    scale = np.exp(ordinary(rng, n, "float32"))
    opt, exact = (
        fo.optim.RMSprop([np.ones(n, np.float32)], lr=0.0, alpha=0.999, **more) for more in ({"moments": moments}, {})
    )
    for _ in range(800):
        g = scale * rng.standard_normal(n, np.float32)
        for one in opt, exact:
            one.step([g])
    ratio = numbers_of(opt)[0]["square_avg"] / exact.state[0]["square_avg"]
    assert abs(ratio.mean() - 1) < bias
    assert ratio.std() < spread


@pytest.mark.parametrize(("moments", "most"), [("bfloat16", 0.005), ("8bit", 0.08)])
def test_a_mean_of_squares_is_forgotten(moments: str, most: float, rng: Generator) -> None:
    """Without gradients it decays; in 8 bits somewhat too fast, because the thresholds are even in time."""
    opt = fo.optim.RMSprop([np.ones(8_192, np.float32)], lr=0.0, alpha=0.999, moments=moments)
    g = np.abs(ordinary(rng, 8_192, "float32")) + 1
    for step in range(1_000):
        opt.step([g * (step == 0)])
    ratio = numbers_of(opt)[0]["square_avg"] / (0.001 * g * g * 0.999**999)
    assert -most < ratio.mean() - 1 < 0.01
    assert ratio.std() < 0.1


# Steps of optimizers

SHAPES = ((5, 13), 70, (2, 3, 50))


def kinds_of(opt: fo.optim.Optimizer) -> dict[str, str]:
    return {name: kind for rule in opt._rules for name, kind in zip(rule.states, rule.kinds, strict=True)}


def numbers_of(opt: fo.optim.Optimizer) -> list[dict[str, Array]]:
    """All state of each parameter in float32."""
    return [
        {
            name: _core.kernels.unpack(one[name], kind, one.get(f"{name}_scale"))
            for name, kind in kinds_of(opt).items()
            if name in one and kind != "exact"
        }
        for one in opt.state
    ]


def weights_of(opt: fo.optim.Optimizer) -> list[Array]:
    """The 16-bit parameters with their residuals."""
    found = []
    for p, one in zip(opt.param_groups[0]["params"], opt.state, strict=True):
        rest = one.get("compensation", one.get("correction"))
        found.append(one.get("master_param", _core.kernels.unpack_weights(p, rest)))
    return found


def grads_of(opt: fo.optim.Optimizer, rng: Generator) -> list[Array]:
    params = opt.param_groups[0]["params"]
    return [ordinary(rng, p.shape, str(rng.choice(["float32", *HALVES]))) for p in params]


def copies(opt: fo.optim.Optimizer) -> list[Array]:
    return [p.copy() for p in opt.param_groups[0]["params"]]


@pytest.mark.parametrize("rule", RULES)
def test_a_skipped_step_changes_nothing(rule: str, each: Each, rng: Generator) -> None:
    """Gradients of a loss with too large a scale overflow in float16: then nothing is touched."""
    for kept in each(RULES[rule].formats, by_day=4):
        dtype, options = FORMATS[kept]
        params = RULES[rule].arrays(rng, SHAPES, dtype)
        opt = RULES[rule].make(params, RULES[rule].fullest | options | {"ema_decay": 0.9, "l2_init": 0.1, "noise": 0.1})
        opt.step(grads_of(opt, rng))
        before = everything(opt)
        for of_grads, value in itertools.product(("float32", *HALVES), (np.inf, -np.inf, np.nan)):
            grads = RULES[rule].arrays(rng, SHAPES, of_grads)
            grads[-1].flat[7] = value
            info = opt.step(grads, skip_nonfinite=True, clip_norm=1.0, grad_scale=2.0**16)
            assert info.skipped and info.step == 1
            assert everything(opt) == before
        with np.errstate(over="ignore"):
            scaled = [(g * 2.0**16).astype(np.float16) for g in RULES[rule].arrays(rng, SHAPES, "float32")]
        assert opt.step(scaled, skip_nonfinite=True, grad_scale=2.0**16, zero_grads=True).skipped
        assert everything(opt) == before
        assert not any(g.any() for g in scaled)
        largest = [np.full(p.shape, 65_504, np.float16) for p in params]
        assert not opt.step(largest, skip_nonfinite=True, grad_scale=2.0**16).skipped
        assert opt.state[0]["step"] == 2


# State


@pytest.mark.parametrize("rule", RULES)
def test_a_run_goes_on_in_every_format(rule: str, each: Each, tmp_path: Path, rng: Generator) -> None:
    for kept in each(RULES[rule].formats, by_day=4):
        dtype, options = FORMATS[kept]
        options = RULES[rule].fullest | options | {"ema_decay": 0.9, "seed": 5}
        if dtype in HALVES:
            options = RULES[rule].sample_moments(rng, options)
        opt = RULES[rule].make(RULES[rule].arrays(rng, SHAPES, dtype), options)
        for step in range(3):
            opt.step([None if i == step else g for i, g in enumerate(grads_of(opt, rng))])
        opt.save(tmp_path / "state")
        others = [RULES[rule].make(copies(opt), options | {"lr": 0.1, "seed": 0}) for _ in range(2)]
        others[0].load(tmp_path / "state")
        others[1].load_state_dict(opt.state_dict(copy=True))
        for _ in range(2):
            assert [everything(one) for one in others] == [everything(opt)] * 2
            grads = grads_of(opt, rng)
            for one in opt, *others:
                one.step(grads)


@pytest.mark.parametrize("kept", FORMATS)
def test_a_switch_of_rules_goes_on_in_every_format(kept: str, rng: Generator) -> None:
    """The mean of gradients becomes the momentum, in the same format."""
    dtype, options = FORMATS[kept]
    options = {"switch_at": 3, "sgd_lr": 0.1} | options
    opt = fo.optim.SwitchOptimizer([ordinary(rng, shape, dtype) for shape in SHAPES], **options)
    exact = fo.optim.SwitchOptimizer([p.astype(np.float32) for p in copies(opt)], switch_at=3, sgd_lr=0.1)
    for step in range(5):
        other = fo.optim.SwitchOptimizer(copies(opt), **options)
        other.load_state_dict(opt.state_dict(copy=True))
        grads = grads_of(opt, rng)
        for one in opt, other, exact:
            one.step(grads)
        assert everything(other) == everything(opt)
        assert opt.switched == (step >= 2)
    error = {"bfloat16": 0.01, "8bit": 0.1, None: 1e-6}[options.get("moments")]
    for one, expected in zip(numbers_of(opt), exact.state, strict=True):
        b = expected["momentum_buffer"]
        assert np.linalg.norm(one["momentum_buffer"] - b) < error * np.linalg.norm(b)


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.formats.keys() & MOMENTS.keys()])
def test_moments_become_those_of_another_format(rule: str, rng: Generator) -> None:
    """Loading rounds them to the nearest, and keeps them exactly if there are enough bits; so does changing a group."""
    ways = [{"moments": None, "moment_rounding": "stochastic"} | one for one in ({}, *MOMENTS.values())]
    for before, after in itertools.product(ways, ways):
        opt = RULES[rule].make(RULES[rule].arrays(rng, SHAPES, "float32"), RULES[rule].fullest | before)
        for _ in range(2):
            opt.step(grads_of(opt, rng))
        other = RULES[rule].make(copies(opt), RULES[rule].fullest | after)
        other.load_state_dict(opt.state_dict())
        assert other.param_groups[0]["moments"] == after["moments"]
        for one, mine, its in zip(other.state, numbers_of(opt), numbers_of(other), strict=True):
            for name, kind in kinds_of(other).items():
                if name not in mine:
                    continue
                expected = mine[name]
                if after["moments"] == "bfloat16":
                    expected = expected.astype(ml_dtypes.bfloat16).astype(np.float32)
                elif after["moments"] == "8bit" and before["moments"] != "8bit":
                    expected = nearest(_core.kernels, expected, f"{kind}8")
                assert differing(its[name], expected) == 0
                assert (f"{name}_scale" in one) == (after["moments"] == "8bit")
        opt.param_groups[0].update(after)
        grads = grads_of(opt, rng)
        for each in opt, other:
            each.step(grads)
        states = [everything(each)["state"] for each in (opt, other)]
        assert states[0] == states[1]


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.formats.keys() & MOMENTS.keys()])
def test_moments_are_converted_where_the_rule_changes_too(rule: str, rng: Generator) -> None:
    """Every variant becomes every other one in the same step as its moments get another format."""
    own = RULES[rule]
    kept = [{"moments": None, "moment_rounding": "stochastic"} | one for one in ({}, *MOMENTS.values())]
    defaults = own.plain | {name: own.own[name] for variant in own.variants for name in variant}
    ways = [way for one in own.variants for more in kept if own.accepts(way := defaults | one | more)]
    some = [np.ones(own.fit(130), np.float32)]
    for before, after in itertools.product(ways, ways):
        opt = own.make([p.copy() for p in some], before)
        for scale in 1, 3:
            opt.step([scale * ordinary(rng, p.shape, "float32") for p in some])
        old = fo.optim.unpacked(opt.state_dict(copy=True))["state"][0]
        opt.param_groups[0].update(hyperparameters(after))
        new = fo.optim.unpacked(opt.state_dict(copy=True))["state"][0]
        for name in old.keys() & opt._rules[0].states:
            if opt.state[0][name].dtype == np.float32:
                assert differing(new[name], old[name]) == 0
            assert (f"{name}_scale" in opt.state[0]) == (opt.state[0][name].dtype == np.uint8)
        other = own.make([p.copy() for p in opt.param_groups[0]["params"]], after)
        other.load_state_dict(opt.state_dict(copy=True))
        for one in opt, other:
            one.step([np.full(p.shape, 0.5, np.float32) for p in some])
        assert everything(other)["state"] == everything(opt)["state"]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rule", RULES)
def test_all_states_are_taken_in_16_bits(rule: str, dtype: str, rng: Generator) -> None:
    """Those that are kept exactly too."""
    opt = RULES[rule].make(RULES[rule].arrays(rng, SHAPES, "float32"), RULES[rule].fullest)
    for _ in range(2):
        opt.step(grads_of(opt, rng))
    state = opt.state_dict(copy=True)
    kinds = kinds_of(opt)
    for one in state["state"].values():
        one.update((name, one[name].astype(dtype)) for name in kinds if name in one)
    other = RULES[rule].make(copies(opt), RULES[rule].fullest)
    other.load_state_dict(state)
    for mine, its in zip(state["state"].values(), other.state, strict=True):
        for name in kinds.keys() & mine.keys():
            assert differing(its[name], mine[name].astype(np.float32)) == 0


@halves
def test_weights_become_those_of_another_format(dtype: str, rng: Generator) -> None:
    """If both formats have a residual, weights keep their values up to the bits that the new residual cannot hold."""
    ways = [options["weights"] for of, options in FORMATS.values() if of == dtype]
    held = {"master": 0.0, "kahan": 2.0**-16 if dtype == "bfloat16" else 2.0**-21, "correction": 2.0**-15}
    for before, after in itertools.product(ways, ways):
        opt = fo.optim.AdamW([ordinary(rng, 50_000, dtype)], lr=0.05, weights=before)
        for _ in range(3):
            opt.step(grads_of(opt, rng))
        other = fo.optim.AdamW(copies(opt), weights=after)
        other.load_state_dict(opt.state_dict())
        assert other.param_groups[0]["weights"] == after
        assert differing(other.param_groups[0]["params"][0], opt.param_groups[0]["params"][0]) == 0
        mine, its = weights_of(opt)[0].astype(np.float64), weights_of(other)[0]
        if after in held:
            assert np.all(np.abs(its - mine) <= np.abs(mine) * held[after] + 2.0**-24), (before, after)
        else:
            assert np.array_equal(its, copies(opt)[0])
        opt.param_groups[0]["weights"] = after
        grads = grads_of(opt, rng)
        for each in opt, other:
            each.step(grads)
        mine, its = (everything(each) for each in (opt, other))
        assert mine["params"] == its["params"] and mine["state"] == its["state"]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_averages_of_halves_come_back(weights: str, rng: Generator) -> None:
    opt = fo.optim.SGD([ordinary(rng, 500, "bfloat16")], lr=0.1, weights=weights, ema_decay=0.9)
    for _ in range(3):
        opt.step(grads_of(opt, rng))
    before, average = everything(opt), opt.ema_params[0].copy()
    assert average.dtype == np.float32
    with opt.using_ema():
        assert differing(opt.param_groups[0]["params"][0], average.astype(ml_dtypes.bfloat16)) == 0
    assert everything(opt) == before


@pytest.mark.parametrize(
    ("rule", "kept"), [(rule, kept) for rule, kept in rules_and_formats() if hasattr(RULES[rule].optimizer, "eval")]
)
def test_evaluation_and_back_in_every_format(rule: str, kept: str, rng: Generator) -> None:
    """Weights come back up to rounding."""
    dtype, options = FORMATS[kept]
    start = ordinary(rng, 500, dtype)
    opt = RULES[rule].make([start.copy()], RULES[rule].plain | options)
    exact = RULES[rule].make([start.astype(np.float32)], RULES[rule].plain)
    for _ in range(3):
        grads = grads_of(opt, rng)
        for one in opt, exact:
            one.step(grads)
    for view in "eval", "train":
        for one in opt, exact:
            getattr(one, view)()
        unit = {"float32": 2.0**-5, "bfloat16": 2.0**-4, "float16": 2.0**-7}[dtype]
        p, expected = (one.param_groups[0]["params"][0].astype(np.float64) for one in (opt, exact))
        np.testing.assert_allclose(p, expected, atol=4 * unit)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("moments", [{"moments": None}, *MOMENTS.values()], ids=["float32", *MOMENTS])
def test_torchs_state_of_bfloat16_is_taken(moments: Options, weights: str) -> None:
    torch = pytest.importorskip("torch")
    w = torch.nn.Parameter(torch.linspace(-1, 1, 200).reshape(4, 50).bfloat16())
    theirs = torch.optim.AdamW([w], lr=0.1)
    for step in range(3):
        w.grad = (w.detach() + step).bfloat16()
        theirs.step()
    p = w.detach().float().numpy().astype(ml_dtypes.bfloat16)
    opt = fo.optim.AdamW([p], weights=weights, **moments)
    opt.load_state_dict(theirs.state_dict())
    assert opt.state[0]["step"] == 3 and opt.param_groups[0]["lr"] == 0.1
    for name, kind in kinds_of(opt).items():
        expected = theirs.state[w][name].float().numpy()
        if moments["moments"] == "8bit":
            expected = nearest(_core.kernels, expected, f"{kind}8")
        assert differing(numbers_of(opt)[0][name], expected) == 0
    before = p.copy()
    opt.step([p.copy()])
    w.grad = torch.from_numpy(before.astype(np.float32)).bfloat16()
    theirs.step()
    np.testing.assert_allclose(p.astype(np.float32), w.detach().float().numpy(), atol=0.03)


@pytest.mark.parametrize("moments", [None, "bfloat16", "8bit"])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_unpacked_state_is_what_float32_loads(weights: str, moments: str | None, rng: Generator) -> None:
    p = rng.standard_normal((3, 50)).astype(ml_dtypes.bfloat16)
    opt = fo.optim.AdamW([p], weights=weights, moments=moments)
    opt.step([rng.standard_normal(p.shape).astype(np.float32)])
    exact = fo.optim.AdamW([p.astype(np.float32)])
    exact.load_state_dict(opt.state_dict())
    state = fo.optim.unpacked(opt.state_dict())
    assert state["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}
    for name, array in state["state"][0].items():
        assert array.dtype == exact.state[0][name].dtype
        np.testing.assert_array_equal(array, exact.state[0][name])
    with pytest.raises(TypeError, match=r"^unpacked: state_dict must be the result of .*, got list$"):
        fo.optim.unpacked([])  # type: ignore[arg-type]


@pytest.mark.parametrize("moments", ["bfloat16", "8bit"])
@pytest.mark.parametrize(
    ("name", "options"), [("AdamW", {}), ("Lion", {}), ("SGD", {"momentum": 0.9}), ("RMSprop", {})], ids=str
)
def test_gradients_lie_anywhere_beside_packed_moments(name: str, options: dict[str, Any], moments: str) -> None:
    """Rules with loops of their own for packed moments read gradients from rows, too."""
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        for lay in (lambda g: np.repeat(g, 2, axis=1)[:, ::2], np.asfortranarray, lambda g: g[::-1].copy()[::-1]):
            params = [rng.standard_normal((40, 70)).astype(dtype)]
            twins = [params[0].copy()]
            scattered, contiguous = (
                getattr(fo.optim, name)(p, lr=0.01, moments=moments, **options) for p in (params, twins)
            )
            for _ in range(2):
                grad = rng.standard_normal((40, 70)).astype(dtype)
                scattered.step([lay(grad)])
                contiguous.step([grad])
            assert params[0].tobytes() == twins[0].tobytes(), (np.dtype(dtype).name, lay)
