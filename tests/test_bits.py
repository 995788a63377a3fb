"""All results are the reference's to the last bit, on every instruction set, for any number of threads and any
alignment.

Muon is included, except where numbers of threads are compared: its matrix products are those of NumPy's BLAS.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, zip_longest
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from tables import (
    DTYPES,
    EVERY_DTYPE,
    FORMATS,
    HALVES,
    LAYOUTS,
    NORMS,
    RULES,
    SURROUNDINGS,
    Array,
    Call,
    Options,
    computed,
    extreme,
    far_at_first,
    mixed,
    ordinary,
)
from tools import Each, assert_same_bits, differing, every_isa, shifted

import fastopt as fo
from fastopt import functional as F
from fastopt import reference

THREADS = (1, 2, 3, 5, 8, 16)
EDGES = (0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257)  # around vectors, tiles, noise and pieces
LARGE_EDGES = (1025, 8191, 16_383, 16_384, 16_385, 33_000)  # around chunks of sums
SEGMENT_EDGES = (
    1,
    63,
    64,
    65,
    127,
    128,
    129,
    1023,
    1024,
    1025,
    2049,
)  # around blocks, parts and segments of packed numbers
MATRICES = ((1, 1), (2, 3), (3, 64), (63, 1), (64, 65), (65, 257), (129, 16), (2, 65, 3), (1, 300), (2, 9_000), (5, 0))
WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100, 127, 128, 129, 191, 192, 193, 255, 256, 257)
ROWS = (2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130, 513)  # around blocks, chunks and groups of rows

WIDE = (
    "layer_norm",
    "add_rms_norm",
    "cosine_norm",
    "scale_norm",
    "batch_norm NC",
    "batch_norm_add_relu NHWC",
    "batch_norm_apply NHWC",
    "instance_norm NHWC",
    "weight_norm of outputs last",
)
LONG = ("batch_norm NCL", "group_norm NCHW", "group_norm NHWC", "instance_norm NCL", "weight_norm of outputs first")

EMPTY = {"running_mean": None, "running_var": None}

every_dtype = pytest.mark.parametrize("dtype", EVERY_DTYPE)
rules = pytest.mark.parametrize("rule", RULES)
without_blas = pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if not rule.uses_blas])
norms = pytest.mark.parametrize("norm", NORMS)


def assert_rule_is_the_reference(
    rule: str, params: list[Array], grads: list[list[Array | None]], options: Options
) -> None:
    expected = RULES[rule].run(reference, params, grads, options)
    for _ in every_isa():
        assert_same_bits(RULES[rule].run(F, params, grads, options), expected)


def assert_small_numbers_are_the_reference(
    rule: str, params: list[Array], grads: list[list[Array | None]], options: Options
) -> None:
    """Compares to the last bit, except that a zero that BLAS returns for a vanished number may have either sign."""
    expected = RULES[rule].run(reference, params, grads, options)
    for _ in every_isa():
        results = RULES[rule].run(F, params, grads, options)
        if RULES[rule].uses_blas:
            results, expected = ({name: a + a.dtype.type(0) for name, a in one.items()} for one in (results, expected))
        assert_same_bits(results, expected)


def some_missing(rng: Generator, grads: list[Array]) -> list[Array | None]:
    return [None if rng.random() < 0.3 else g for g in grads]


def some_packed(rng: Generator, grads: list[Array], numbers: Any = ordinary) -> list[Array]:
    """Gradients of any dtype that is legal for a float32 parameter."""
    return [numbers(rng, g.shape, str(rng.choice(["float32", *HALVES]))) for g in grads]


def apart(x: Array) -> Array:
    """The same numbers in rows that lie apart, if there are rows; NaN between them shows whether kernels touch it."""
    if x.ndim < 2:
        return x.copy()
    room = np.full((*x.shape[:-1], x.shape[-1] + 3), np.nan, x.dtype)
    room[..., 1:-2] = x
    return room[..., 1:-2]


def assert_is_the_reference_in_rows_apart(
    rule: str, params: list[Array], grads: list[list[Array]], options: Options
) -> None:
    """The rows of the gradients lie apart, and nothing between them is touched."""
    expected = RULES[rule].run(reference, params, grads, options)
    for _ in every_isa():
        placed: list[Array] = []

        def remembered(g: Array, all_of_them: list[Array] = placed) -> Array:
            all_of_them.append(apart(g))
            return all_of_them[-1]

        assert_same_bits(RULES[rule].run(F, params, grads, options, place_grad=remembered), expected)
        rooms = [g.base for g in placed if g.base is not None]
        assert len(rooms) >= 5
        assert all(np.isnan(room[..., (0, -2, -1)]).all() for room in rooms)


def assert_is_the_reference(call: Call) -> None:
    expected = call.run(reference)
    for _ in every_isa():
        assert_same_bits(call.run(F), expected)


# Optimizers


@rules
def test_rule_is_the_reference(rule: str, each: Each, rng: Generator) -> None:
    """The numbers are ordinary at first; later steps mix in numbers of every magnitude."""
    for options, dtype in each(RULES[rule].combinations, DTYPES, by_day=2):
        shapes = (1, 15, (9, 8), 200)
        params = RULES[rule].arrays(rng, shapes, dtype)
        numbers = [ordinary] * 6 + [mixed] * 2
        grads = [RULES[rule].arrays(rng, shapes, dtype, numbers=some) for some in numbers]
        assert_rule_is_the_reference(rule, params, grads, options)


@rules
def test_rule_is_the_reference_with_what_surrounds_it(rule: str, each: Each, rng: Generator) -> None:
    for _, more in each(RULES[rule].surroundings.items(), by_day=5):
        shapes = ((5, 13), 130, (2, 3, 50))
        for dtype in each(DTYPES, by_day=1):
            params = RULES[rule].arrays(rng, shapes, dtype)
            grads = [RULES[rule].arrays(rng, shapes, dtype) for _ in range(2)]
            grads += [RULES[rule].arrays(rng, shapes, dtype, numbers=mixed), RULES[rule].arrays(rng, shapes, dtype)]
            options = RULES[rule].sample(rng, around=False) | more
            assert RULES[rule].accepts(options)
            assert_rule_is_the_reference(
                rule, params, [grads[0], *(some_missing(rng, of) for of in grads[1:])], options
            )


@rules
def test_rule_is_the_reference_at_every_size(rule: str, each: Each, rng: Generator) -> None:
    for dtype in each(DTYPES, by_day=1):
        shapes = (*EDGES, *LARGE_EDGES)
        params = RULES[rule].arrays(rng, shapes, dtype)
        grads = [RULES[rule].arrays(rng, shapes, dtype)]
        surrounded = RULES[rule].sample(rng, step=True) | SURROUNDINGS["noise"] | {"skip_nonfinite": True}
        for options in each([RULES[rule].sample(rng, around=False), surrounded], by_day=1):
            assert_rule_is_the_reference(rule, params, grads, options)


@rules
def test_rule_is_the_reference_for_matrices(rule: str, each: Each, rng: Generator) -> None:
    for dtype in each(DTYPES, by_day=1):
        params = RULES[rule].arrays(rng, MATRICES, dtype)
        for more in {}, {"clip_adaptive": 0.1}:
            grads = [RULES[rule].arrays(rng, MATRICES, dtype)]
            assert_rule_is_the_reference(rule, params, grads, RULES[rule].sample(rng) | more)


@rules
def test_rule_stays_the_reference_for_20_steps(rule: str, each: Each) -> None:
    """Any options are combined, and some gradients are missing."""
    for dtype, seed in each(DTYPES, range(4), by_day=2):
        rng = np.random.default_rng(seed)
        options = RULES[rule].sample(rng, step=True)
        shapes = [(rng.integers(1, 20), rng.integers(1, 20)), rng.integers(1, 300)]
        params = RULES[rule].arrays(rng, shapes, dtype)
        grads = [some_missing(rng, RULES[rule].arrays(rng, shapes, dtype)) for _ in range(18)]
        grads += [RULES[rule].arrays(rng, shapes, dtype, numbers=mixed) for _ in range(2)]
        assert_same_bits(RULES[rule].run(F, params, grads, options), RULES[rule].run(reference, params, grads, options))


@rules
def test_rule_is_the_reference_at_late_steps(rule: str, each: Each, rng: Generator) -> None:
    """Powers of the step's number, and noise, are right also beyond 32 bits."""
    for dtype in each(DTYPES):
        shapes = [40] * 4
        params, grads = (
            RULES[rule].arrays(rng, shapes, dtype),
            [RULES[rule].arrays(rng, shapes, dtype) for _ in range(2)],
        )
        options = RULES[rule].sample(rng) | SURROUNDINGS["noise"]
        taken = (7, 10**6, 2**32 + 5, 2**53 - 3)
        ours, expected = (RULES[rule].run(module, params, grads, options, taken=taken) for module in (F, reference))
        assert_same_bits(ours, expected)


@rules
def test_rule_is_the_reference_when_the_rate_changes(rule: str, each: Each, rng: Generator) -> None:
    """Some rules remember earlier learning rates."""
    for dtype in each(DTYPES):
        shapes = ((5, 8), 30)
        params, options = RULES[rule].arrays(rng, shapes, dtype), RULES[rule].sample(rng)
        grads = [RULES[rule].arrays(rng, shapes, dtype) for _ in range(6)]
        rates = rng.uniform(0.1, 1, len(grads))
        results = []
        for module in F, reference:
            results.append({"params": [p.copy() for p in params], **RULES[rule].new_states(options, params)})
            states = {name: arrays for name, arrays in results[-1].items() if name != "params"}
            for step, (some, lr) in enumerate(zip(grads, rates, strict=True), 1):
                RULES[rule].update(module, results[-1]["params"], some, states, step, options | {"lr": float(lr)})
        ours, expected = (
            {
                f"{name}[{i}]": array
                for name, arrays in one.items()
                for i, array in enumerate(arrays)
                if array is not None
            }
            for one in results
        )
        assert_same_bits(ours, expected)


def test_norm_of_many_gradients_is_the_reference(each: Each) -> None:
    for dtype, seed in each(DTYPES, range(10), by_day=5):
        rng = np.random.default_rng(seed)
        grads = [
            ordinary(rng, n, dtype) * np.dtype(dtype).type(10 ** rng.uniform(-2, 2)) for n in rng.integers(0, 40, 150)
        ]
        asked = {"step": 1, "lr": 0.0, "grad_scale": 3.0, "skip_nonfinite": True}
        norms = [module.sgd([np.zeros_like(g) for g in grads], grads, **asked)[0] for module in (F, reference)]
        assert norms[0] == norms[1]


@rules
def test_rule_is_the_reference_for_extreme_numbers(rule: str, each: Each, rng: Generator) -> None:
    """Among the parameters too, and in the state that they leave."""
    for dtype in each(DTYPES):
        shapes = ((13, 7), 300)
        for options in RULES[rule].plain, RULES[rule].fullest, RULES[rule].sample(rng, step=True):
            params = RULES[rule].arrays(rng, shapes, dtype, numbers=mixed)
            grads = [RULES[rule].arrays(rng, shapes, dtype, numbers=some) for some in (extreme, mixed, extreme)]
            assert_rule_is_the_reference(rule, params, grads, options)


@rules
def test_rule_is_the_reference_for_small_numbers(rule: str, each: Each, rng: Generator) -> None:
    """Squares, products and results are about to be subnormal, or already are."""
    for dtype in each(DTYPES, by_day=1):
        for exponent in (-12, -19, -22, -38, -44) if dtype == "float32" else (-100, -154, -160, -307, -322):
            scale = np.dtype(dtype).type(10.0**exponent)
            params = RULES[rule].arrays(rng, ((6, 11), 100), dtype)
            params[1] *= scale
            grads = [[g * scale for g in RULES[rule].arrays(rng, ((6, 11), 100), dtype)] for _ in range(2)]
            assert_small_numbers_are_the_reference(rule, params, grads, RULES[rule].sample(rng, step=True))


@rules
def test_rule_is_the_reference_for_gradients_whose_rows_lie_apart(rule: str, each: Each, rng: Generator) -> None:
    for dtype in each(DTYPES, by_day=1):
        shapes = ((5, 3), (70, 65), (2, 3, 100), (40, 1), (3, 5_600), 9)
        params = RULES[rule].arrays(rng, shapes, dtype)
        for more in {}, {"zero_grads": True, "clip_norm": 1.0}:
            grads = [RULES[rule].arrays(rng, shapes, dtype)]
            options = RULES[rule].sample(rng) | more
            assert_is_the_reference_in_rows_apart(rule, params, grads, options)


@without_blas
def test_rule_has_the_same_bits_on_any_number_of_threads(rule: str, each: Each, rng: Generator) -> None:
    for dtype in each(DTYPES):
        shapes = (100_001, 5, 0, (100, 777), 1_000, (3, 25_000))
        params = RULES[rule].arrays(rng, shapes, dtype)
        clip = str(rng.choice(["clip_norm", "clip_param_norm", "clip_adaptive"]))
        for options in RULES[rule].sample(rng, around=False), RULES[rule].sample(rng) | {clip: 0.5, "zero_grads": True}:
            grads = [RULES[rule].arrays(rng, shapes, dtype)]
            with fo.threads(1):
                expected = RULES[rule].run(F, params, grads, options)
            for threads in each(THREADS[1:], by_day=1):
                with fo.threads(threads):
                    assert_same_bits(RULES[rule].run(F, params, grads, options), expected)


@rules
def test_rule_has_the_same_bits_at_any_alignment(rule: str, each: Each, rng: Generator) -> None:
    for dtype, between in each(DTYPES, [0, 5], by_day=1):
        shapes = (1, 63, (10, 20), 600)
        params = RULES[rule].arrays(rng, shapes, dtype, numbers=mixed)
        grads = [RULES[rule].arrays(rng, shapes, dtype, numbers=mixed)]
        for options in RULES[rule].sample(rng, around=False), RULES[rule].sample(rng, step=True):
            expected = RULES[rule].run(F, params, grads, options)
            for by in each(range(1, 16), by_day=3):
                assert_same_bits(RULES[rule].run(F, params, grads, options, shifted(by, between)), expected)


@rules
def test_rule_takes_each_element_by_itself(rule: str, each: Each, rng: Generator) -> None:
    """Infinities and NaN stay in their element, except in rules that take norms or products of whole arrays."""
    for dtype in each(DTYPES):
        options = RULES[rule].sample(rng)
        (p,), (g,) = (RULES[rule].arrays(rng, [300], dtype) for _ in range(2))
        spoiled = g.copy()
        spoiled.flat[[0, 64, 299]] = np.inf, np.nan, -np.inf
        taken = [RULES[rule].moves_from - 1]
        good, bad = (
            RULES[rule].run(F, [p], [[one]], options, taken=taken)["params[0]"].ravel() for one in (g, spoiled)
        )
        changed = set(np.flatnonzero(good != bad))
        assert 64 in changed
        assert (changed <= {0, 64, 299}) == RULES[rule].elementwise


# Formats


@rules
def test_rule_is_the_reference_in_every_format(rule: str, each: Each, rng: Generator) -> None:
    """The numbers are ordinary at first; later steps mix in numbers of every magnitude."""
    for kept in each(RULES[rule].formats, by_day=1):
        dtype, options = FORMATS[kept]
        options = RULES[rule].sample(rng, step=True) | options
        if dtype in HALVES:
            options = RULES[rule].sample_moments(rng, options)
        params = RULES[rule].arrays(rng, (*SEGMENT_EDGES, (5, 13), (2, 3, 50)), dtype)
        grads = [
            some_missing(rng, some_packed(rng, params, numbers)) for numbers in (ordinary, ordinary, mixed, ordinary)
        ]
        assert_rule_is_the_reference(rule, params, grads, options)


@rules
def test_packed_rule_is_the_reference_with_what_surrounds_it(rule: str, each: Each, rng: Generator) -> None:
    for _, more in each(RULES[rule].surroundings.items(), by_day=4):
        dtype, options = RULES[rule].sample_format(rng, RULES[rule].sample(rng, around=False) | more)
        params = RULES[rule].arrays(rng, ((5, 13), 130, (2, 3, 50)), dtype)
        grads = [some_packed(rng, params), *(some_missing(rng, some_packed(rng, params)) for _ in range(2))]
        assert_rule_is_the_reference(rule, params, grads, options)


@rules
def test_packed_rule_is_the_reference_at_every_size(rule: str, each: Each) -> None:
    for seed in each(range(2), by_day=1):
        rng = np.random.default_rng(seed)
        dtype, options = RULES[rule].sample_format(rng, RULES[rule].sample(rng, step=True) | {"skip_nonfinite": True})
        params = RULES[rule].arrays(rng, (*EDGES, *LARGE_EDGES), dtype)
        assert_rule_is_the_reference(rule, params, [some_packed(rng, params)], options)


@rules
def test_packed_rule_is_the_reference_for_matrices(rule: str, each: Each, rng: Generator) -> None:
    for more in each([{}, {"clip_adaptive": 0.1}], by_day=1):
        dtype, options = RULES[rule].sample_format(rng, RULES[rule].sample(rng) | more)
        params = RULES[rule].arrays(rng, MATRICES, dtype)
        assert_rule_is_the_reference(rule, params, [some_packed(rng, params)], options)


@rules
def test_packed_rule_is_the_reference_at_late_steps(rule: str, rng: Generator) -> None:
    """Thresholds are a function of the step, also beyond 32 bits, and of the seed."""
    for seed in 0, 3 * 2**48 + 12_345:
        dtype, options = RULES[rule].sample_format(rng, RULES[rule].sample(rng) | {"seed": seed})
        params = RULES[rule].arrays(rng, [40] * 4, dtype)
        grads, taken = [some_packed(rng, params) for _ in range(2)], (7, 10**6, 2**32 + 5, 2**53 - 3)
        ours, expected = (RULES[rule].run(module, params, grads, options, taken=taken) for module in (F, reference))
        assert_same_bits(ours, expected)


@rules
def test_packed_rule_is_the_reference_for_extreme_numbers(rule: str, rng: Generator) -> None:
    """Among the parameters too, and in the state that they leave."""
    for numbers in (extreme, mixed), (mixed, extreme), (extreme, ordinary):
        dtype, options = RULES[rule].sample_format(rng, RULES[rule].sample(rng, step=True, without=["skip_nonfinite"]))
        params = RULES[rule].arrays(rng, ((13, 7), 300), dtype, numbers=mixed)
        assert_rule_is_the_reference(rule, params, [some_packed(rng, params, some) for some in numbers], options)


@rules
def test_packed_rule_is_the_reference_for_small_numbers(rule: str, each: Each, rng: Generator) -> None:
    """Squares, products and results are about to be subnormal, or already are; in float16 much earlier."""
    for exponent in each([-5, -7, -12, -19, -22, -38, -41], by_day=2):
        dtype, options = RULES[rule].sample_format(rng, RULES[rule].sample(rng, step=True))
        params = RULES[rule].arrays(rng, ((6, 11), 100), dtype)
        params[1] *= np.dtype(dtype).type(10.0**exponent)
        grads = [[(g * 10.0**exponent).astype(g.dtype) for g in some_packed(rng, params)] for _ in range(2)]
        assert_small_numbers_are_the_reference(rule, params, grads, options)


@rules
def test_packed_rule_is_the_reference_for_gradients_whose_rows_lie_apart(rule: str, rng: Generator) -> None:
    shapes = ((5, 3), (70, 65), (2, 3, 100), (40, 1), (3, 5_600), 9)
    for more in {}, {"zero_grads": True, "clip_norm": 1.0}:
        dtype, options = RULES[rule].sample_format(rng, RULES[rule].sample(rng) | more)
        params = RULES[rule].arrays(rng, shapes, dtype)
        grads = [some_packed(rng, params)]
        assert_is_the_reference_in_rows_apart(rule, params, grads, options)


@without_blas
def test_packed_rule_has_the_same_bits_on_any_number_of_threads(rule: str, each: Each) -> None:
    for seed in each(range(2), by_day=1):
        rng = np.random.default_rng(seed)
        clip = str(rng.choice(["clip_norm", "clip_param_norm", "clip_adaptive"]))
        for more in {}, {clip: 0.5, "zero_grads": True}:
            dtype, options = RULES[rule].sample_format(rng, RULES[rule].sample(rng, around=bool(more)) | more)
            params = RULES[rule].arrays(rng, (100_001, 5, 0, (100, 777), 1_000, (3, 25_000)), dtype)
            grads = [some_packed(rng, params)]
            with fo.threads(1):
                expected = RULES[rule].run(F, params, grads, options)
            for threads in each(THREADS[1:], by_day=1):
                with fo.threads(threads):
                    assert_same_bits(RULES[rule].run(F, params, grads, options), expected)


@rules
def test_packed_rule_has_the_same_bits_at_any_alignment(rule: str, each: Each, rng: Generator) -> None:
    for between in each([0, 5], by_day=1):
        for step in False, True:
            dtype, options = RULES[rule].sample_format(rng, RULES[rule].sample(rng, around=step, step=step))
            params = RULES[rule].arrays(rng, (1, 63, (10, 20), 600), dtype, numbers=mixed)
            grads = [some_packed(rng, params, mixed)]
            expected = RULES[rule].run(F, params, grads, options)
            for by in each(range(1, 16), by_day=3):
                assert_same_bits(RULES[rule].run(F, params, grads, options, shifted(by, between)), expected)


# Normalizations


@norms
def test_norm_is_the_reference(norm: str, each: Each, rng: Generator) -> None:
    for options, dtype in each(NORMS[norm].options, EVERY_DTYPE, by_day=2):
        for rows, width in each([(2, 1), (48, 35), (130, 66)], by_day=1):
            assert_is_the_reference(NORMS[norm].call(rng, dtype, rows, width, **options))


@norms
def test_norm_is_the_reference_at_every_size(norm: str, each: Each, rng: Generator) -> None:
    for dtype in each(EVERY_DTYPE, by_day=1):
        every = zip_longest(rng.permutation(WIDTHS), ROWS, fillvalue=0)
        for width, rows in each(every, by_day=2):
            assert_is_the_reference(NORMS[norm].call(rng, dtype, rows or int(rng.choice(ROWS[:-2])), int(width)))


def test_norm_is_the_reference_when_long_or_wide(each: Each, rng: Generator) -> None:
    sizes = [(norm, 3, 100_003) for norm in WIDE] + [(norm, 100_003, 3) for norm in LONG]
    sizes += [(norm, *size) for norm in WIDE + LONG for size in ((2_051, 3), (1_050, 20))]
    for (norm, rows, width), dtype in each(sizes, ["float32", "bfloat16"], by_day=8):
        assert_is_the_reference(NORMS[norm].call(rng, dtype, rows, width))


@every_dtype
def test_planes_are_the_reference_for_any_number_and_size(dtype: str, each: Each, rng: Generator) -> None:
    """Short planes share the blocks of their sums."""
    for count in each([1, 2, 3, 5, 8, 15, 16, 17, 33], by_day=3):
        for size in rng.choice(
            (2, 3, 15, 16, 49, 63, 64, 65, 127, 128, 200, 500, 1000, 1023, 1024, 1025), 3, replace=False
        ):
            x, dy = ordinary(rng, (2, count, 3, size), dtype)
            weight = {name: ordinary(rng, 3, computed(dtype)) for name in ("weight", "bias")}
            assert_is_the_reference(Call("batch_norm", x, dy, {**EMPTY, **weight, "training": True, "channel_axis": 1}))
            x, dy = (a.reshape(1, 3 * count, size) for a in (x, dy))
            assert_is_the_reference(Call("group_norm", x, dy, {"num_groups": 3, "channel_axis": 1}))


@norms
def test_norm_is_the_reference_for_extreme_numbers(norm: str, each: Each, rng: Generator) -> None:
    for dtype, numbers in each(EVERY_DTYPE, [extreme, mixed], by_day=2):
        assert_is_the_reference(NORMS[norm].call(rng, dtype, 24, 70, numbers=numbers))


@norms
def test_norm_is_the_reference_for_small_numbers(norm: str, each: Each, rng: Generator) -> None:
    """Squares, products and results are about to be subnormal, or already are; in float16 much earlier."""
    for dtype in each(EVERY_DTYPE, by_day=1):
        exponents = {"float64": (-100, -154, -160, -307, -322), "float16": (-3, -5, -7)}
        for exponent in each(exponents.get(dtype, (-12, -19, -22, -38, -44)), by_day=2):

            def small(rng: Generator, shape: Any, dtype: str, scale: float = 10.0**exponent) -> Array:
                return (ordinary(rng, shape, "float64") * scale).astype(dtype)

            assert_is_the_reference(NORMS[norm].call(rng, dtype, 24, 70, numbers=small))


@norms
def test_norm_is_the_reference_at_any_scale(norm: str, each: Each, rng: Generator) -> None:
    """Squares overflow or vanish in all sets or in some."""
    for dtype, eps in each(EVERY_DTYPE, [0.0, 1e-5], by_day=1):
        exponents = {"float64": (-170, 170), "float16": (-7, 4)}
        for exponent in each(exponents.get(dtype, (-35, -22, 19, 30, 38)), by_day=1):
            call = NORMS[norm].call(rng, dtype, 24, 70, **({} if "weight_norm" in norm else {"eps": eps}))
            with np.errstate(over="ignore"):
                scaled = (call.x.astype(np.float64) * 10.0**exponent).astype(call.x.dtype)
            every = np.copy(call.x, order="K")
            every[...] = scaled
            sets = call.sets(np.arange(call.x.size).reshape(call.x.shape))
            few = np.copy(call.x, order="K")
            few.flat[sets[::2].ravel()] = scaled.flat[sets[::2].ravel()]
            constant = np.copy(every, order="K")
            for number, of_set in zip((0.0, -0.0, 3.0), sets, strict=False):
                constant.flat[of_set] = number
            for x in every, few, constant:
                assert_is_the_reference(replace(call, x=x))


@norms
def test_norm_is_the_reference_in_every_layout(norm: str, each: Each, rng: Generator) -> None:
    """The layout is that of all inputs, of x alone, or of all inputs but x."""
    for layout, dtype in each(zip(LAYOUTS, cycle(EVERY_DTYPE), strict=False), by_day=1):
        call = NORMS[norm].call(rng, dtype, 48, 35)
        everywhere = call.placed(LAYOUTS[layout])
        for placed in everywhere, replace(call, x=everywhere.x), replace(everywhere, x=call.x):
            assert_is_the_reference(placed)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "in Fortran order"])
def test_norm_is_that_of_a_contiguous_copy(layout: str, each: Each, rng: Generator) -> None:
    """This holds for any number of threads, and for arrays that are too large to be copied at once."""
    some = ("layer_norm", "add_rms_norm", "batch_norm_add_relu NCHW", "batch_norm NHWC", "group_norm NCHW")
    for norm, dtype in each(some, EVERY_DTYPE, by_day=1):
        placed = NORMS[norm].call(rng, dtype, 2_400, 270).placed(LAYOUTS[layout])
        expected = placed.placed(np.ascontiguousarray).run(F)
        for threads in 1, 3:
            with fo.threads(threads):
                assert_same_bits(placed.run(F), expected)


@pytest.mark.parametrize("norm", ["add_layer_norm", "batch_norm_add_relu NCHW", "batch_norm NHWC"])
def test_inputs_in_other_layouts_have_results_past_the_caches(norm: str, rng: Generator) -> None:
    placed = NORMS[norm].call(rng, "float32", 24_000, 96).placed(LAYOUTS["flipped"])
    assert_same_bits(placed.run(F), placed.placed(np.ascontiguousarray).run(F))


@norms
def test_norm_takes_what_forward_returned_in_any_layout(norm: str, each: Each, rng: Generator) -> None:
    for dtype in each(EVERY_DTYPE):
        call = NORMS[norm].call(rng, dtype, 24, 70)
        results = call.forward(F)
        expected = call.backward(F, results)
        for place in LAYOUTS["flipped"], LAYOUTS["every second"]:
            for one, other in zip(call.backward(F, [*map(place, results)]), expected, strict=True):
                assert one is other is None or differing(one, other) == 0


@norms
def test_norm_is_the_reference_when_sets_begin_far_from_the_rest(norm: str, each: Each, rng: Generator) -> None:
    """Some sets are then summed a second time, and others are not."""
    for dtype, away in each(EVERY_DTYPE, [30.0, 1e4], by_day=1):
        call = NORMS[norm].call(rng, dtype, 60, 70)
        sets = call.sets(np.arange(call.x.size).reshape(call.x.shape))
        assert_is_the_reference(replace(call, x=far_at_first(call.x, sets[::2], away)))


@norms
def test_norm_has_the_same_bits_on_any_number_of_threads(norm: str, each: Each, rng: Generator) -> None:
    for options, dtype in each(NORMS[norm].options, EVERY_DTYPE, by_day=2):
        call = NORMS[norm].call(rng, dtype, 1_200, 150, **options)
        with fo.threads(1):
            expected = call.run(F)
        for threads in each(THREADS[1:], by_day=1):
            with fo.threads(threads):
                assert_same_bits(call.run(F), expected)


@norms
def test_subnormal_numbers_are_zero_on_every_thread(norm: str, each: Each, rng: Generator) -> None:
    for dtype in each(DTYPES, by_day=1):
        call = NORMS[norm].call(rng, dtype, 1_200, 150)
        call.dy *= 4 * np.finfo(dtype).tiny
        if "dsum" in call.arguments:
            call.arguments["dsum"] = None
        with fo.threads(1):
            expected = call.run(F)
        assert not np.any((expected["dx"] != 0) & (np.abs(expected["dx"]) < np.finfo(dtype).tiny))
        for threads in 2, 5:
            with fo.threads(threads):
                assert_same_bits(call.run(F), expected)


@norms
def test_norm_has_the_same_bits_at_any_alignment(norm: str, each: Each, rng: Generator) -> None:
    for dtype, apart in each(EVERY_DTYPE, [0, 5], by_day=2):
        call = NORMS[norm].call(rng, dtype, 40, 77)
        expected = call.run(F)
        for by in each(range(1, 16), by_day=3):
            assert_same_bits(call.placed(shifted(by, apart)).run(F), expected)


@norms
def test_norm_takes_each_set_by_itself(norm: str, each: Each, rng: Generator) -> None:
    """Infinities and NaN stay in the row, channel or group that is normalized."""
    for dtype in each(EVERY_DTYPE):
        call = NORMS[norm].call(rng, dtype, 24, 70)
        where = call.sets(np.arange(call.x.size).reshape(call.x.shape))
        good, sets = call.run(F), len(where)
        for set_, value in (0, np.nan), (sets // 2, np.inf), (sets - 1, -np.inf):
            x = np.copy(call.x, order="K")
            x.flat[where[set_, 0]] = value
            bad = replace(call, x=x).run(F)
            others = np.arange(sets) != set_
            for name in "y", "dx":
                a, b = call.sets(good[name]), call.sets(bad[name])
                assert differing(a[others], b[others]) == 0
                assert np.isnan(b[set_]).any()
            for name in {"mean", "rstd", "rnorm", "r", "d"} & good.keys():
                assert differing(good[name].ravel()[others], bad[name].ravel()[others]) == 0


# Around the kernels


def test_subnormal_numbers_stay_what_they_are_outside() -> None:
    tiny = np.full(100_000, 1e-40, np.float32)
    with fo.threads(2):
        F.sgd([np.zeros_like(tiny)], [tiny], step=1, lr=0.1)
        F.layer_norm(tiny.reshape(100, 1_000), 1_000)
    assert np.all(tiny * np.float32(0.5) > 0)
