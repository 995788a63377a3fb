"""One result, to the last bit: that of the reference, on every instruction set, any number of threads, any alignment."""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
import pytest
from numpy.random import Generator
from tables import (
    DTYPES,
    NORMS,
    RULES,
    Call,
    Options,
    extreme,
    label,
    mixed,
    norms_and_options,
    ordinary,
    rules_and_options,
)
from tools import assert_same_bits, differing, every_isa, shifted

import fastopt as fo
from fastopt import functional as F
from fastopt import reference

THREADS = (1, 2, 3, 5, 8, 16)
EDGES = (0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129)  # of vectors and tiles
LARGE_EDGES = (1023, 1024, 1025, 8191)
WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100, 127, 128, 129, 191, 192, 193, 255, 256, 257)
ROWS = (2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130, 513)  # around blocks, chunks and the rows that go together

EMPTY = {"running_mean": None, "running_var": None}

dtypes = pytest.mark.parametrize("dtype", DTYPES)
rules = pytest.mark.parametrize("rule", RULES)
norms = pytest.mark.parametrize("norm", NORMS)
every_rule = pytest.mark.parametrize(
    ("rule", "options"),
    [pytest.param(rule, options, id=f"{rule}-{label(options)}") for rule, options in rules_and_options()],
)
every_norm = pytest.mark.parametrize(
    ("norm", "options"),
    [pytest.param(norm, options, id=f"{norm}-{label(options)}") for norm, options in norms_and_options()],
)


def assert_is_the_reference(call: Call) -> None:
    expected = call.run(reference)
    for _ in every_isa():
        assert_same_bits(call.run(F), expected)


# Optimizers


@dtypes
@every_rule
def test_rule_is_the_reference(rule: str, options: Options, dtype: str, rng: Generator) -> None:
    params = [ordinary(rng, n, dtype) for n in (1, 15, 63, 200)]
    grads = [[mixed(rng, p.shape, dtype) for p in params] for _ in range(3)]
    expected = RULES[rule].run(reference, params, grads, options)
    for _ in every_isa():
        assert_same_bits(RULES[rule].run(F, params, grads, options), expected)


@dtypes
@rules
def test_rule_is_the_reference_at_every_size(rule: str, dtype: str, rng: Generator) -> None:
    params = [mixed(rng, n, dtype) for n in (*EDGES, *LARGE_EDGES, 100_003)]
    grads = [[mixed(rng, p.shape, dtype) for p in params] for _ in range(2)]
    options = RULES[rule].sample(rng)
    expected = RULES[rule].run(reference, params, grads, options)
    for _ in every_isa():
        assert_same_bits(RULES[rule].run(F, params, grads, options), expected)


@pytest.mark.parametrize("seed", range(6))
@dtypes
@rules
def test_rule_stays_the_reference_for_50_steps(rule: str, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    options = RULES[rule].sample(rng)
    params = [ordinary(rng, n, dtype) for n in rng.integers(1, 300, 2)]
    grads = [[(extreme if rng.random() < 0.05 else ordinary)(rng, p.shape, dtype) for p in params] for _ in range(50)]
    assert_same_bits(RULES[rule].run(F, params, grads, options), RULES[rule].run(reference, params, grads, options))


@dtypes
@rules
def test_rule_has_the_same_bits_on_any_number_of_threads(rule: str, dtype: str, rng: Generator) -> None:
    params = [mixed(rng, n, dtype) for n in (300_001, 5, 0, 77_777, 1_000)]
    grads = [[mixed(rng, p.shape, dtype) for p in params] for _ in range(2)]
    options = RULES[rule].sample(rng)
    with fo.threads(1):
        expected = RULES[rule].run(F, params, grads, options)
    for threads in THREADS[1:]:
        with fo.threads(threads):
            assert_same_bits(RULES[rule].run(F, params, grads, options), expected)


@pytest.mark.parametrize("apart", [0, 5])
@dtypes
@rules
def test_rule_has_the_same_bits_at_any_alignment(rule: str, dtype: str, apart: int, rng: Generator) -> None:
    params = [mixed(rng, n, dtype) for n in (1, 63, 200, 4_000)]
    grads = [[mixed(rng, p.shape, dtype) for p in params]]
    options = RULES[rule].sample(rng)
    expected = RULES[rule].run(F, params, grads, options)
    for by in range(1, 16):
        assert_same_bits(RULES[rule].run(F, params, grads, options, shifted(by, apart)), expected)


@dtypes
@rules
def test_rule_takes_each_element_by_itself(rule: str, dtype: str, rng: Generator) -> None:
    """What is not finite stays in its element."""
    options = RULES[rule].sample(rng)
    p, g = ordinary(rng, 300, dtype), ordinary(rng, 300, dtype)
    spoiled = g.copy()
    spoiled[[0, 64, 299]] = np.inf, np.nan, -np.inf
    good, bad = (RULES[rule].run(F, [p], [[one]], options)["params[0]"] for one in (g, spoiled))
    changed = np.flatnonzero(good != bad)
    assert set(changed) <= {0, 64, 299}
    assert 64 in changed


# Normalizations


@dtypes
@every_norm
def test_norm_is_the_reference(norm: str, options: Options, dtype: str, rng: Generator) -> None:
    for rows, width in (2, 1), (48, 35), (130, 66):
        assert_is_the_reference(NORMS[norm].call(rng, dtype, rows, width, **options))


@dtypes
@norms
def test_norm_is_the_reference_at_every_size(norm: str, dtype: str, rng: Generator) -> None:
    every = zip_longest(rng.permutation(WIDTHS), ROWS, fillvalue=0)
    for width, rows in every:
        assert_is_the_reference(NORMS[norm].call(rng, dtype, rows or int(rng.choice(ROWS[:-2])), int(width)))


@pytest.mark.parametrize(("rows", "width"), [(3, 100_003), (2_051, 3), (1_050, 20)])
@pytest.mark.parametrize("norm", ["layer_norm", "batch_norm NC", "batch_norm NCL"])
def test_norm_is_the_reference_when_long_or_wide(norm: str, rows: int, width: int, rng: Generator) -> None:
    assert_is_the_reference(NORMS[norm].call(rng, "float32", rows, width))


@dtypes
def test_planes_are_the_reference_for_any_number_and_size(dtype: str, rng: Generator) -> None:
    """Short planes share the blocks of their sums."""
    for samples in 1, 2, 3, 5, 8, 15, 16, 17, 33:
        for size in rng.choice(
            (2, 3, 15, 16, 49, 63, 64, 65, 127, 128, 200, 500, 1000, 1023, 1024, 1025), 3, replace=False
        ):
            x, dy = ordinary(rng, (2, samples, 3, size), dtype)
            weight = {"weight": ordinary(rng, 3, dtype), "bias": ordinary(rng, 3, dtype)}
            assert_is_the_reference(Call("batch_norm", x, dy, {**EMPTY, **weight, "training": True}))


@dtypes
@norms
def test_norm_is_the_reference_for_extreme_numbers(norm: str, dtype: str, rng: Generator) -> None:
    for numbers in extreme, mixed:
        assert_is_the_reference(NORMS[norm].call(rng, dtype, 24, 70, numbers=numbers))


@dtypes
@norms
def test_norm_is_the_reference_for_small_numbers(norm: str, dtype: str, rng: Generator) -> None:
    """Squares, products and results are about to be subnormal, or already are."""
    for exponent in (-12, -19, -22, -38, -44) if dtype == "float32" else (-100, -154, -160, -307, -322):
        call = NORMS[norm].call(rng, dtype, 24, 70)
        call.x, call.dy = (
            np.multiply(a, 10.0**exponent, out=np.empty_like(a), casting="same_kind") for a in (call.x, call.dy)
        )
        assert_is_the_reference(call)


@dtypes
@every_norm
def test_norm_has_the_same_bits_on_any_number_of_threads(
    norm: str, options: Options, dtype: str, rng: Generator
) -> None:
    call = NORMS[norm].call(rng, dtype, 1_200, 150, **options)
    with fo.threads(1):
        expected = call.run(F)
    for threads in THREADS[1:]:
        with fo.threads(threads):
            assert_same_bits(call.run(F), expected)


@dtypes
@norms
def test_subnormal_numbers_are_zero_on_every_thread(norm: str, dtype: str, rng: Generator) -> None:
    call = NORMS[norm].call(rng, dtype, 1_200, 150)
    call.dy *= 4 * np.finfo(dtype).tiny
    with fo.threads(1):
        expected = call.run(F)
    assert not np.any((expected["dx"] != 0) & (np.abs(expected["dx"]) < np.finfo(dtype).tiny))
    for threads in 2, 5:
        with fo.threads(threads):
            assert_same_bits(call.run(F), expected)


@pytest.mark.parametrize("apart", [0, 5])
@dtypes
@norms
def test_norm_has_the_same_bits_at_any_alignment(norm: str, dtype: str, apart: int, rng: Generator) -> None:
    call = NORMS[norm].call(rng, dtype, 40, 77)
    expected = call.run(F)
    for by in range(1, 16):
        assert_same_bits(call.placed(shifted(by, apart)).run(F), expected)


@dtypes
@norms
def test_norm_takes_each_set_by_itself(norm: str, dtype: str, rng: Generator) -> None:
    """What is not finite stays in the row or channel that is normalized."""
    call = (
        NORMS[norm].call(rng, dtype, 24, 70, training=True) if "batch" in norm else NORMS[norm].call(rng, dtype, 24, 70)
    )
    good = call.run(F)
    sets = good["mean"].size
    for set_, value in (0, np.nan), (sets // 2, np.inf), (sets - 1, -np.inf):
        x = np.copy(call.x, order="K")
        axis = call.arguments.get("channel_axis", None)
        one = np.moveaxis(x, axis, 0)[set_] if axis is not None else x.reshape(sets, -1)[set_]
        one[(0,) * one.ndim] = value
        bad = Call(call.norm, x, call.dy, call.arguments).run(F)
        others = np.arange(sets) != set_
        for name in "y", "dx":
            a, b = (
                np.moveaxis(r[name], axis, 0) if axis is not None else r[name].reshape(sets, -1) for r in (good, bad)
            )
            assert differing(a[others], b[others]) == 0
            assert np.isnan(b[set_]).any()
        assert differing(good["mean"].ravel()[others], bad["mean"].ravel()[others]) == 0


# Around the kernels


def test_subnormal_numbers_stay_what_they_are_outside() -> None:
    tiny = np.full(100_000, 1e-40, np.float32)
    with fo.threads(2):
        F.sgd([np.zeros_like(tiny)], [tiny], step=1, lr=0.1)
        F.layer_norm(tiny.reshape(100, 1_000), 1_000)
    assert np.all(tiny * np.float32(0.5) > 0)
